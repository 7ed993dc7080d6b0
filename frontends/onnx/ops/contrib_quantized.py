"""The com.microsoft domain: operators on 8-bit tensors with scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.elementwise import broadcast_compute
from athanor.frontends.onnx.ops.pooling import average_pool
from athanor.frontends.onnx.ops.quantization import (
    dequantize_linear,
    quantize_linear,
    saturated,
)
from athanor.frontends.onnx.tensors import dtype_of, rank_of, reshape, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_BYTES = ("int8", "uint8")


def quantize(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """QuantizeLinear; without `axis` the scale has one element."""
    _check_axis(node, inputs)
    return quantize_linear(node, inputs, builder)


def dequantize(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """DequantizeLinear; without `axis` the scale has one element."""
    _check_axis(node, inputs)
    return dequantize_linear(node, inputs, builder)


def _check_axis(node: Node, inputs: Inputs) -> None:
    if not node.has("axis") and any(dim != 1 for dim in shape_of(inputs[1])):
        raise node.error(f"a scale {shape_of(inputs[1])} needs the attribute axis")


def _parameter(node: Node, inputs: Inputs, index: int, like: str, builder: Builder) -> relax.Expr:
    """The scalar at `index`, or 0 of that type where it is absent."""
    if not node.has_input(index, inputs):
        return scalar(0, like)
    value = inputs[index]
    if any(dim != 1 for dim in shape_of(value)):
        raise node.error(f"input {index} has shape {shape_of(value)}; one element is supported")
    return reshape(value, [], builder)


def _real(value: Any, scale: Any, zero_point: Any) -> Any:
    return (value.astype("int32") - zero_point.astype("int32")).astype("float32") * scale


def binary(function: Callable[[Any, Any], Any]) -> Callable[..., relax.Expr]:
    """A converter for `quantize(function(dequantize(a), dequantize(b)))` with broadcasting.

    inputs: a, its scale and zero point, b, its scale and zero point, the result's.
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        a, b = inputs[0], inputs[3]
        dtype = _bytes(node, a)
        parameters = [
            _parameter(node, inputs, index, kind, builder)
            for index, kind in ((1, "float32"), (2, dtype), (4, "float32"), (5, dtype))
        ]
        scale = _parameter(node, inputs, 6, "float32", builder)
        point = _parameter(node, inputs, 7, dtype, builder)

        def element(*v: Any) -> Any:
            value = function(_real(v[0], v[2], v[3]), _real(v[1], v[4], v[5]))
            return saturated(value / v[6], v[7], dtype)

        return broadcast_compute(builder, node.op, element, a, b, *parameters, scale, point)

    return converter


add = binary(lambda left, right: left + right)
multiply = binary(lambda left, right: left * right)


def unary(function: Callable[..., Any], **defaults: float) -> Callable[..., relax.Expr]:
    """A converter for `quantize(function(dequantize(x), *attributes))`.

    inputs: x, its scale and zero point, the result's scale and zero point.
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        x, dtype = inputs[0], _bytes(node, inputs[0])
        attributes = [node.float(name, default) for name, default in defaults.items()]
        kinds = ((1, "float32"), (2, dtype), (3, "float32"), (4, dtype))
        parameters = [_parameter(node, inputs, i, kind, builder) for i, kind in kinds]

        def element(*v: Any) -> Any:
            constants = [tirx.const(value, "float32") for value in attributes]
            value = function(_real(v[0], v[1], v[2]), *constants)
            return saturated(value / v[3], v[4], dtype)

        return broadcast_compute(builder, node.op, element, x, *parameters)

    return converter


sigmoid = unary(tirx.sigmoid)
leaky_relu = unary(
    lambda x, alpha: tirx.Select(x < tirx.const(0, "float32"), alpha * x, x), alpha=0.01
)


def global_average_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean over all spatial dims, kept as 1, between two quantizations."""
    rank = rank_of(inputs[0])
    spatial = range(1, rank - 1) if node.int("channels_last", 0) else range(2, rank)

    def mean(value: relax.Expr) -> relax.Expr:
        return builder.emit(R.mean(value, list(spatial), keepdims=True))

    return _between(node, inputs, mean, builder)


def pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """AveragePool between two quantizations."""
    rank, last = rank_of(inputs[0]), node.int("channels_last", 0)

    def mean(value: relax.Expr) -> relax.Expr:
        if last:
            order = [0, rank - 1, *range(1, rank - 1)]
            value = builder.emit(R.permute_dims(value, order))
        result = builder.emit(average_pool(node, [value], builder))
        if last:
            result = builder.emit(R.permute_dims(result, [0, *range(2, rank), 1]))
        return result

    return _between(node, inputs, mean, builder)


def _between(
    node: Node, inputs: Inputs, function: Callable[[relax.Expr], relax.Expr], builder: Builder
) -> relax.Expr:
    """`quantize(function(dequantize(x)))`; inputs as in `unary`."""
    dtype = _bytes(node, inputs[0])
    kinds = ((1, "float32"), (2, dtype), (3, "float32"), (4, dtype))
    x_scale, x_point, scale, point = (
        _parameter(node, inputs, index, kind, builder) for index, kind in kinds
    )
    real = broadcast_compute(builder, "dequantize", _real, inputs[0], x_scale, x_point)
    return _quantized(function(real), scale, point, dtype, builder)


def _quantized(
    value: relax.Expr, scale: relax.Expr, point: relax.Expr, dtype: str, builder: Builder
) -> relax.Expr:
    def element(v: Any, step: Any, offset: Any) -> Any:
        return saturated(v / step, offset, dtype)

    return broadcast_compute(builder, "quantize", element, value, scale, point)


def concat(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The inputs, each requantized, one after another along `axis`.

    inputs: the result's scale and zero point, then each tensor with its scale and zero point.
    """
    if len(inputs) < 5 or (len(inputs) - 2) % 3:
        raise node.error(f"{len(inputs)} inputs; 2 and 3 for each tensor are needed")
    scale = _parameter(node, inputs, 0, "float32", builder)
    point = _parameter(node, inputs, 1, "uint8", builder)
    dtype, parts = dtype_of(point), []
    for index in range(2, len(inputs), 3):
        x = inputs[index]
        x_scale = _parameter(node, inputs, index + 1, "float32", builder)
        x_point = _parameter(node, inputs, index + 2, _bytes(node, x), builder)
        real = broadcast_compute(builder, "dequantize", _real, x, x_scale, x_point)
        parts.append(_quantized(real, scale, point, dtype, builder))
    return R.concat(parts, axis=node.axis("axis", rank_of(inputs[2])))


def _bytes(node: Node, x: relax.Expr) -> str:
    if dtype_of(x) not in _BYTES:
        raise node.error(f"an operand of {dtype_of(x)} is not supported; 8-bit ones are")
    return dtype_of(x)
