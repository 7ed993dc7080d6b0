"""Products and convolutions of 8-bit integers, summed in 32 bits."""

from __future__ import annotations

from tvm import relax

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.convolution import convolution
from athanor.frontends.onnx.ops.matmul import matched
from athanor.frontends.onnx.ops.quantization import (
    requantized,
    rounded_product,
    without_zero_point,
)
from athanor.frontends.onnx.tensors import dtype_of, per_channel, rank_of, reshape, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_BYTES = ("int8", "uint8")


def matmul_integer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(A - a_zero_point) @ (B - b_zero_point)` as int32; zero points per tensor, row or column.

    Source: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
    """
    points = [inputs[i] if node.has_input(i, inputs) else None for i in (2, 3)]
    return integer_product(node, inputs[0], inputs[1], points[0], points[1], builder)


def integer_product(
    node: Node,
    a: relax.Expr,
    b: relax.Expr,
    a_zero_point: relax.Expr | None,
    b_zero_point: relax.Expr | None,
    builder: Builder,
) -> relax.Expr:
    """The int32 product of 8-bit matrices without their zero points."""
    _check_bytes(node, a, b)
    a, b = matched(a, b, builder)
    rows = _of_rows(node, a, a_zero_point, "the zero point of A", builder)
    columns = _of_columns(node, b, b_zero_point, "the zero point of B", builder)
    left = without_zero_point(a, rows, builder)
    right = without_zero_point(b, columns, builder)
    return builder.emit(R.matmul(left, right, out_dtype="int32"))


def qlinear_matmul(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """MatMulInteger, scaled by `a_scale * b_scale / y_scale` and quantized to y's type.

    inputs: a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point.
    Source: https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html
    """
    a, a_scale, a_point, b, b_scale, b_point, y_scale, y_point = inputs
    total = integer_product(node, a, b, a_point, b_point, builder)
    if rank_of(a) == 1 or rank_of(b) == 1:
        scales = [_single(node, s, "a scale of a vector", builder) for s in (a_scale, b_scale)]
    else:
        scales = [
            _of_rows(node, a, a_scale, "a_scale", builder),
            _of_columns(node, b, b_scale, "b_scale", builder),
        ]
    divisor = _single(node, y_scale, "y_scale", builder)
    multiplier = rounded_product([s for s in scales if s is not None], divisor, builder)
    point = _single(node, y_point, "y_zero_point", builder)
    return requantized(total, multiplier, point, dtype_of(y_point), builder)


def conv_integer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The convolution of `x - x_zero_point` with `w - w_zero_point` as int32; pads count as 0.

    Source: https://onnx.ai/onnx/operators/onnx__ConvInteger.html
    """
    points = [inputs[i] if node.has_input(i, inputs) else None for i in (2, 3)]
    return integer_convolution(node, inputs[0], inputs[1], points[0], points[1], builder)


def integer_convolution(
    node: Node,
    x: relax.Expr,
    weight: relax.Expr,
    x_zero_point: relax.Expr | None,
    w_zero_point: relax.Expr | None,
    builder: Builder,
) -> relax.Expr:
    """The int32 convolution of 8-bit tensors without their zero points."""
    _check_bytes(node, x, weight)
    point = None
    if x_zero_point is not None:
        point = _single(node, x_zero_point, "the zero point of x", builder)
    filters = None
    if w_zero_point is not None:
        filters = _of_outputs(node, weight, w_zero_point, 0, builder)
    left = without_zero_point(x, point, builder)
    right = without_zero_point(weight, filters, builder)
    return builder.emit(convolution(node, left, right, "int32", builder))


def qlinear_conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """ConvInteger plus int32 bias, scaled by `x_scale * w_scale / y_scale`, quantized to y's type.

    inputs: x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias.
    The scale and zero point of w may be one per output channel.
    Source: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    x, x_scale, x_point, weight, w_scale, w_point, y_scale, y_point = inputs[:8]
    total = integer_convolution(node, x, weight, x_point, w_point, builder)
    if node.has_input(8, inputs):
        bias = per_channel(inputs[8], rank_of(x), builder)
        total = builder.emit(R.add(total, bias))
    scales = [
        _single(node, x_scale, "x_scale", builder),
        _of_outputs(node, weight, w_scale, 1, builder),
    ]
    divisor = _single(node, y_scale, "y_scale", builder)
    multiplier = rounded_product(scales, divisor, builder)
    point = _single(node, y_point, "y_zero_point", builder)
    return requantized(total, multiplier, point, dtype_of(y_point), builder)


def _check_bytes(node: Node, *operands: relax.Expr) -> None:
    for operand in operands:
        if dtype_of(operand) not in _BYTES:
            raise node.error(f"operands of {dtype_of(operand)} are not supported; 8-bit ones are")


def _is_single(value: relax.Expr) -> bool:
    return all(not is_symbolic(dim) and dim == 1 for dim in shape_of(value))


def _single(node: Node, value: relax.Expr, what: str, builder: Builder) -> relax.Expr:
    """A scalar from one element of any rank."""
    if not _is_single(value):
        raise node.error(f"{what} has shape {shape_of(value)}; only one element is supported")
    return reshape(value, [], builder)


def _of_rows(
    node: Node, a: relax.Expr, value: relax.Expr | None, what: str, builder: Builder
) -> relax.Expr | None:
    """One element, or one for each row of A: (M,) or (..., M, 1), made to broadcast."""
    if value is None or _is_single(value):
        return None if value is None else reshape(value, [], builder)
    dims, have = shape_of(a), shape_of(value)
    if len(have) == 1 and len(dims) > 1:
        have = [*have, 1]
    if len(have) < 2 or have[-1] != 1 or have[-2] != dims[-2] or len(have) > len(dims):
        raise node.error(f"{what} {shape_of(value)} does not fit the rows of {dims}")
    return reshape(value, have, builder)


def _of_columns(
    node: Node, b: relax.Expr, value: relax.Expr | None, what: str, builder: Builder
) -> relax.Expr | None:
    """One element, or one for each column of B: (N,) or (..., 1, N)."""
    if value is None or _is_single(value):
        return None if value is None else reshape(value, [], builder)
    dims, have = shape_of(b), shape_of(value)
    fits = len(dims) > 1 and have[-1] == dims[-1] and len(have) <= len(dims)
    if not fits or (len(have) > 1 and have[-2] != 1):
        raise node.error(f"{what} {have} does not fit the columns of {dims}")
    return value


def _of_outputs(
    node: Node, weight: relax.Expr, value: relax.Expr, axis: int, builder: Builder
) -> relax.Expr:
    """One element, or one for each output channel, to broadcast along `axis`."""
    if _is_single(value):
        return reshape(value, [], builder)
    if rank_of(value) != 1 or shape_of(value)[0] != shape_of(weight)[0]:
        raise node.error(
            f"a scale or zero point {shape_of(value)} does not fit weights {shape_of(weight)}"
        )
    return per_channel(value, rank_of(weight), builder, axis)
