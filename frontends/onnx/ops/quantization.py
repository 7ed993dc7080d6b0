"""Quantization: floats to small integers and back, per tensor, per axis and in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.casting import decode, onnx_dtype
from athanor.frontends.onnx.ops.elementwise import broadcast_compute
from athanor.frontends.onnx.small_types import (
    EXPONENT,
    SMALL_FLOATS,
    SMALL_INTEGERS,
    SMALL_TYPES,
    Carried,
    decoded,
    encoded_float,
    encoded_integer,
    integer_limits,
)
from athanor.frontends.onnx.tensors import (
    as_constant,
    cast,
    compute,
    dtype_of,
    filled,
    np_dtype,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

INTEGERS = ("int8", "uint8", "int16", "uint16")
SCALES = ("float32", "float16", "bfloat16")
_MAX_FOLDED_BYTES = 1 << 32


def quantize_linear(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr | Carried:
    """`saturate(round_half_to_even(x / scale) + zero_point)`.

    inputs: x, scale, optional zero point; scale per tensor, per axis or in blocks of `block_size`.
    The division's type is `precision`, else the scale's. A NaN becomes the smallest value.
    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    x, scale = inputs[0], _scale(node, inputs, builder)
    zero_point = inputs[2] if node.has_input(2, inputs) else None
    dtype = node.small_type(2) or dtype_of(zero_point) if zero_point is not None else "uint8"
    if node.int("output_dtype", 0):
        asked = onnx_dtype(node, node.int("output_dtype"), SMALL_TYPES)
        if zero_point is not None and asked != dtype:
            raise node.error(f"output_dtype is {asked}, the zero point is {dtype}")
        dtype = asked
    if dtype not in (*INTEGERS, *SMALL_INTEGERS, *SMALL_FLOATS):
        raise node.error(f"quantization to {dtype} is not supported")
    zero_point = _zero_point(zero_point, dtype)
    precision = dtype_of(scale)
    if node.int("precision", 0):
        precision = onnx_dtype(node, node.int("precision"))
    elif dtype_of(x) not in (precision, "int32"):
        raise node.error(
            f"x is {dtype_of(x)} and the scale is {precision}; set the attribute precision"
        )
    if precision not in SCALES:
        raise node.error(f"a division in {precision} is not supported")
    operands = [x, *(granular(node, x, p, builder) for p in (scale, zero_point) if p is not None)]
    saturate = bool(node.int("saturate", 1))

    def element(value: Any, divisor: Any, *offset: Any) -> Any:
        quotient = divided(value.astype(precision), divisor.astype(precision), precision)
        if dtype in SMALL_FLOATS:
            if offset:
                quotient = quotient + decoded(offset[0], dtype).astype(quotient.ty.dtype)
            return encoded_float(quotient, dtype, saturate)
        point = offset[0] if offset else None
        if dtype in SMALL_INTEGERS:
            point = decoded(point, dtype) if offset else None
            return encoded_integer(saturated(quotient, point, dtype), dtype)
        return saturated(quotient, point, dtype)

    result = broadcast_compute(builder, "quantize", element, *operands)
    return Carried(result, dtype) if dtype in SMALL_TYPES else result


def _scale(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The scale; powers of two as float32."""
    small = node.small_type(1)
    if small and small != EXPONENT:
        raise node.error(f"a scale of {small} is not supported")
    return decode(inputs[1], small, builder) if small else inputs[1]


def _zero_point(value: relax.Expr | None, dtype: str) -> relax.Expr | None:
    """The zero point; None for the zero of a float, which only tells a type."""
    array = as_constant(value) if value is not None and dtype in SMALL_FLOATS else None
    return None if array is not None and not array.any() else value


def divided(value: Any, divisor: Any, dtype: str) -> Any:
    """The quotient as float32, rounded to `dtype` before."""
    quotient = value.astype("float32") / divisor.astype("float32")
    return quotient if dtype == "float32" else quotient.astype(dtype).astype("float32")


def saturated(value: Any, zero_point: Any, dtype: str) -> Any:
    """A float32 element, rounded half to even, plus the zero point, clamped to the integer type.

    It is of that type, or int32 for an integer below a byte.
    It is clamped before the zero point is added, so that no intermediate overflows; the order of
    the operands makes a NaN the lower bound, as ONNX Runtime has it.
    """
    low, high = (tirx.const(float(v), "float32") for v in integer_limits(dtype))
    dtype = "int32" if dtype in SMALL_INTEGERS else dtype
    rounded = tirx.nearbyint(value)
    if zero_point is None:
        clamped = tirx.min(tirx.max(rounded, low), high)
        return clamped.astype("int32").astype(dtype)
    offset = zero_point.astype("float32")
    clamped = tirx.min(tirx.max(rounded, low - offset), high - offset) + offset
    return clamped.astype("int32").astype(dtype)


def dequantize_linear(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(x - zero_point) * scale`, in the type of the scale or `output_dtype`.

    Constants, the weights of quantized models, are dequantized here.
    Source: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
    """
    x, scale = inputs[0], _scale(node, inputs, builder)
    zero_point = inputs[2] if node.has_input(2, inputs) else None
    small, dtype = node.small_type(0), dtype_of(scale)
    if node.int("output_dtype", 0):
        dtype = onnx_dtype(node, node.int("output_dtype"))
    if small == EXPONENT or (not small and dtype_of(x) not in (*INTEGERS, "int32")):
        raise node.error(f"dequantization of {small or dtype_of(x)} is not supported")
    if zero_point is not None and node.small_type(2) != small:
        raise node.error(f"x and the zero point have different types: {small or dtype_of(x)}")
    zero_point = _zero_point(zero_point, small)
    if dtype not in SCALES or dtype_of(scale) not in SCALES:
        raise node.error(f"a scale of {dtype_of(scale)} with result {dtype} is not supported")
    if zero_point is not None and dtype_of(zero_point) != dtype_of(x):
        raise node.error(f"x is {dtype_of(x)}, the zero point is {dtype_of(zero_point)}")
    operands = [x, *(granular(node, x, p, builder) for p in (scale, zero_point) if p is not None)]
    values = [as_constant(operand) for operand in operands]
    if all(value is not None and value.nbytes <= _MAX_FOLDED_BYTES for value in values):
        if small:
            values = [np.asarray(values[0]).view(np_dtype(small)), *values[1:]]
            values[2:] = [np.asarray(value).view(np_dtype(small)) for value in values[2:]]
        with np.errstate(all="ignore"):
            return constant(_dequantized(*values, dtype=dtype))  # type: ignore[arg-type]

    def whole_number(value: Any) -> Any:
        if small in SMALL_FLOATS:
            return decoded(value, small)
        return (decoded(value, small) if small else value).astype("int32")

    def element(value: Any, factor: Any, *offset: Any) -> Any:
        whole = whole_number(value)
        if offset:
            whole = whole - whole_number(offset[0])
        return (whole.astype("float32") * factor.astype("float32")).astype(dtype)

    return broadcast_compute(builder, "dequantize", element, *operands)


def _dequantized(
    x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None, *, dtype: str
) -> np.ndarray:
    """As the kernel computes it, in place to keep one array of 4 bytes an element."""
    whole = x.astype(np.float32 if x.dtype.name in SMALL_FLOATS else np.int32)
    if zero_point is not None:
        whole -= zero_point.astype(whole.dtype)
    result = whole.astype(np.float32)
    result *= scale.astype(np.float32)
    return result.astype(np_dtype(dtype), copy=False)


def granular(node: Node, x: relax.Expr, value: relax.Expr, builder: Builder) -> relax.Expr:
    """A scale or zero point in a shape that broadcasts to x.

    One element: for the whole tensor. A vector: along `axis`. The rank of x: one for each block of
    `block_size` elements along `axis`.
    """
    dims, have = shape_of(x), shape_of(value)
    rank, block = len(dims), node.int("block_size", 0)
    if block < 0:
        raise node.error(f"block_size={block} is negative")
    if block == 0:
        if all(not is_symbolic(dim) and dim == 1 for dim in have):
            return reshape(value, [], builder)
        if len(have) != 1:
            raise node.error(f"a scale or zero point {have} needs a block_size for input {dims}")
        axis = node.axis("axis", rank, 1 if rank > 1 else 0)
        _same(node, have[0], dims[axis], "scale or zero point", builder)
        return reshape(value, [have[0] if i == axis else 1 for i in range(rank)], builder)
    axis = node.axis("axis", rank, 1)
    if len(have) != rank:
        raise node.error(f"block_size={block} needs a scale of rank {rank}, not {have}")
    for index, (mine, theirs) in enumerate(zip(have, dims, strict=True)):
        wanted = (theirs + block - 1) // block if index == axis else theirs
        _same(node, mine, wanted, "blocked scale or zero point", builder)
    array = as_constant(value)
    if array is not None and not is_symbolic(dims[axis]):
        spread = np.repeat(array, block, axis)
        return constant(np.take(spread, np.arange(dims[axis]), axis), dtype_of(value))

    def kernel(data: te.Tensor, sizes: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            return data(*i[:axis], i[axis] // block, *i[axis + 1 :])

        return te.compute(tuple(sizes), element, name="spread_blocks")

    return compute(builder, "spread_blocks", kernel, value, relax.ShapeExpr(dims))


def _same(node: Node, have: Any, wanted: Any, what: str, builder: Builder) -> None:
    if not is_symbolic(have) and not is_symbolic(wanted):
        if have != wanted:
            raise node.error(f"{what} has {have} elements along an axis where {wanted} are needed")
        return
    assert isinstance(builder, ImportBuilder), "converters run with the importer's builder"
    builder.require_equal(have, wanted)


def dynamic_quantize_linear(node: Node, inputs: Inputs, builder: Builder) -> tuple[Any, ...]:
    """Quantize to uint8 with a scale and zero point that cover the range and 0: y, scale, zp.

    Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    x = inputs[0]
    return dynamically_quantized(x, builder)


def dynamically_quantized(
    x: relax.Expr, builder: Builder
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """float32 x as uint8, its scale (float32) and its zero point (uint8), both scalars."""
    axes = list(range(rank_of(x)))
    # the range always includes 0; the empty tensor has the range [0, 0]
    zero = filled([1] * len(axes), 0.0, "float32", builder)
    if any(not is_symbolic(dim) and dim == 0 for dim in shape_of(x)):
        low = high = zero
    else:
        low = builder.emit(R.minimum(builder.emit(R.min(x, axes, keepdims=True)), zero))
        high = builder.emit(R.maximum(builder.emit(R.max(x, axes, keepdims=True)), zero))
    low, high = reshape(low, [], builder), reshape(high, [], builder)

    def scale_of(least: Any, most: Any) -> Any:
        one, steps = tirx.const(1.0, "float32"), tirx.const(255.0, "float32")
        return tirx.Select(most == least, one, (most - least) / steps)

    scale = broadcast_compute(builder, "dynamic_scale", scale_of, low, high)

    def zero_point_of(least: Any, step: Any) -> Any:
        return saturated(tirx.const(0.0, "float32") - least / step, None, "uint8")

    zero_point = broadcast_compute(builder, "dynamic_zero_point", zero_point_of, low, scale)

    def element(value: Any, step: Any, offset: Any) -> Any:
        return saturated(value / step, offset, "uint8")

    y = broadcast_compute(builder, "quantize", element, x, scale, zero_point)
    return y, scale, zero_point


def requantized(
    accumulator: relax.Expr,
    multiplier: relax.Expr,
    zero_point: relax.Expr | None,
    dtype: str,
    builder: Builder,
) -> relax.Expr:
    """int32 sums as `saturate(round(sum * multiplier) + zero_point)`; both broadcast."""
    operands = [accumulator, cast(multiplier, "float32", builder)]
    if zero_point is not None:
        operands.append(zero_point)

    def element(value: Any, factor: Any, *offset: Any) -> Any:
        product = value.astype("float32") * factor
        return saturated(product, offset[0] if offset else None, dtype)

    return broadcast_compute(builder, "requantize", element, *operands)


def without_zero_point(
    x: relax.Expr, zero_point: relax.Expr | None, builder: Builder
) -> relax.Expr:
    """8-bit x minus its zero point, which broadcasts, as int16: the difference always fits.

    int16 rather than int32 because processors multiply pairs of int16 into int32 sums.
    """
    values = [as_constant(v) if v is not None else None for v in (x, zero_point)]
    if values[0] is not None and (zero_point is None or values[1] is not None):
        wide = values[0].astype(np.int16)
        if values[1] is not None:
            wide = wide - values[1].astype(np.int16)
        return constant(wide)
    wide = cast(x, "int16", builder)
    if zero_point is None or (values[1] is not None and not values[1].any()):
        return wide
    return broadcast_compute(
        builder,
        "without_zero_point",
        lambda value, offset: value.astype("int16") - offset.astype("int16"),
        x,
        zero_point,
    )


def rounded_product(factors: Inputs, divisor: relax.Expr | None, builder: Builder) -> relax.Expr:
    """The product of scales over a scale; constants are multiplied here."""
    operands = [*factors, *([divisor] if divisor is not None else [])]
    values = [as_constant(value) for value in operands]
    if all(value is not None for value in values):
        with np.errstate(all="ignore"):
            result = np.asarray(values[0])
            for value in values[1 : len(factors)]:
                result = result * value
            if divisor is not None:
                result = result / values[-1]
        return constant(np.asarray(result), dtype_of(factors[0]))
    product = factors[0]
    for value in factors[1:]:
        product = builder.emit(R.multiply(product, value))
    return product if divisor is None else builder.emit(R.divide(product, divisor))


def one(dtype: str) -> relax.Expr:
    """The scale that changes nothing."""
    return scalar(1, dtype)
