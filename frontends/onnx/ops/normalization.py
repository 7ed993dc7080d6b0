"""Normalizations in inference mode."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import constant
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import (
    as_constant,
    cast,
    compute,
    dtype_of,
    per_channel,
    rank_of,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def batch_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` per channel (axis 1).

    It becomes one multiplication and one addition; with constant statistics both vectors are
    computed here, so that a convolution before it can take them into its weights.
    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    x, scale, bias, mean, var = inputs[:5]
    if node.int("training_mode", 0) or (node.opset < 7 and not node.int("is_test", 0)):
        raise node.error("training mode is not supported; export the model for inference")
    if node.opset < 9 and not node.int("spatial", 1):
        raise node.error("spatial=0 is not supported; only statistics per channel are")
    epsilon, dtype = node.float("epsilon", 1e-5), dtype_of(x)
    values = [as_constant(vector) for vector in (scale, bias, mean, var)]
    if all(value is not None for value in values):
        s, b, m, v = (np.asarray(value, dtype=np.float64) for value in values)
        with np.errstate(all="ignore"):
            factor = s / np.sqrt(v + epsilon)
            offset = b - m * factor
        multiplier, addend = constant(factor, dtype), constant(offset, dtype)
    else:
        wide = dtype_of(var)
        deviation = builder.emit(R.sqrt(R.add(var, scalar(epsilon, wide))))
        factor = builder.emit(R.divide(cast(scale, wide, builder), deviation))
        shift = builder.emit(R.multiply(mean, factor))
        offset = builder.emit(R.subtract(cast(bias, wide, builder), shift))
        multiplier, addend = cast(factor, dtype, builder), cast(offset, dtype, builder)
    rank = rank_of(x)
    scaled = builder.emit(R.multiply(x, per_channel(multiplier, rank, builder)))
    return R.add(scaled, per_channel(addend, rank, builder))


def lrn(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels) ** beta`.

    Source: https://onnx.ai/onnx/operators/onnx__LRN.html
    """
    size = node.int("size")
    alpha, beta = node.float("alpha", 1e-4), node.float("beta", 0.75)
    bias = node.float("bias", 1.0)
    before = (size - 1) // 2

    def kernel(x: te.Tensor) -> te.Tensor:
        dtype = x.dtype
        channels = x.shape[1]
        near = te.reduce_axis((0, size), name="near")

        def square(n: Any, c: Any, *rest: Any) -> Any:
            channel = c + near - before
            value = tirx.if_then_else(
                tirx.all(channel >= 0, channel < channels),
                x(n, channel, *rest),
                tirx.const(0, dtype),
            )
            return te.sum(value * value, axis=near)

        squares = te.compute(x.shape, square, name="square_sum")

        def scaled(*i: Any) -> Any:
            base = tirx.const(bias, dtype) + tirx.const(alpha / size, dtype) * squares(*i)
            return x(*i) * tirx.exp(tirx.const(-beta, dtype) * tirx.log(base))

        return te.compute(x.shape, scaled, name="lrn")

    return compute(builder, "lrn", kernel, inputs[0])
