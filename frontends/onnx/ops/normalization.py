"""Normalizations."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    as_constant,
    cast,
    compute,
    dtype_of,
    per_channel,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def batch_normalization(node: Node, inputs: Inputs, builder: Builder) -> Any:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` per channel (axis 1).

    It becomes one multiplication and one addition; with constant statistics both vectors are
    computed here, so that a convolution before it can take them into its weights. In training mode
    (opset 14) mean and variance are the batch's; the running ones come out behind the result.
    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    if node.opset >= 14 and node.int("training_mode", 0):
        return _train_batch_normalization(node, inputs, builder)
    return _normalize_batch(node, inputs, builder)


def _train_batch_normalization(node: Node, inputs: Inputs, builder: Builder) -> tuple[Any, ...]:
    x, scale, bias, *running = inputs[:5]
    axes = [axis for axis in range(rank_of(x)) if axis != 1]
    wide = dtype_of(running[0])
    values = cast(x, accumulation_dtype(dtype_of(x)), builder)
    batch = [builder.emit(function(values, axes)) for function in (R.mean, R.variance)]
    batch = [cast(value, wide, builder) for value in batch]
    momentum = node.float("momentum", 0.9)
    updated = []
    for old, new in zip(running, batch, strict=True):
        kept = builder.emit(R.multiply(old, scalar(momentum, wide)))
        updated.append(builder.emit(R.add(kept, R.multiply(new, scalar(1 - momentum, wide)))))
    return _normalize_batch(node, [x, scale, bias, *batch], builder), *updated


def _normalize_batch(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    x, scale, bias, mean, var = inputs[:5]
    if node.opset < 7 and not node.int("is_test", 0):
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


LRN_UNROLLED = 16
"""Channels up to which a sum over neighbours is written out; models use 3 to 11."""


def lrn(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels) ** beta`.

    Source: https://onnx.ai/onnx/operators/onnx__LRN.html
    """
    size = node.int("size")
    alpha, beta = node.float("alpha", 1e-4), node.float("beta", 0.75)
    bias = node.float("bias", 1.0)
    before = (size - 1) // 2

    def kernel(x: te.Tensor) -> te.Tensor:
        channels = x.shape[1]

        def square(n: Any, c: Any, near: Any, *rest: Any) -> Any:
            channel = c + near - before
            inside = tirx.all(channel >= 0, channel < channels)
            zero = tirx.const(0, x.dtype)
            value = tirx.if_then_else(inside, x(n, channel, *rest), zero)
            return value * value

        near = te.reduce_axis((0, size), name="near")
        summed = te.compute(
            x.shape, lambda n, c, *i: te.sum(square(n, c, near, *i), axis=near), name="square_sum"
        )

        def scaled(n: Any, c: Any, *i: Any) -> Any:
            # Written out, the sum stays in registers, and vectors run along the image.
            parts = [square(n, c, k, *i) for k in range(size)] if size <= LRN_UNROLLED else []
            squares = functools.reduce(operator.add, parts) if parts else summed(n, c, *i)
            base = tirx.const(bias, x.dtype) + tirx.const(alpha / size, x.dtype) * squares
            return x(n, c, *i) * tirx.exp(tirx.const(-beta, x.dtype) * tirx.log(base))

        return te.compute(x.shape, scaled, name="lrn")

    return compute(builder, "lrn", kernel, inputs[0])


def layer_normalization(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr, ...]:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` over the dims from `axis` on.

    The optional results Mean and InvStdDev keep the reduced dims as 1.
    Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    x, scale = inputs[0], inputs[1]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), -1)
    axes = list(range(axis, len(dims)))
    epsilon, dtype = node.float("epsilon", 1e-5), dtype_of(x)
    bias = inputs[2] if node.has_input(2, inputs) else None
    wants_statistics = any(node.outputs[1:])
    vectors = [scale] if bias is None else [scale, bias]
    plain = all(not is_symbolic(dim) for dim in dims[axis:]) and all(
        shape_of(vector) == dims[axis:] for vector in vectors
    )
    if plain and not wants_statistics and dtype == "float32":
        addend = bias if bias is not None else constant(np.zeros(dims[axis:], np.float32))
        return (R.nn.layer_norm(x, scale, addend, axes, epsilon=epsilon),)
    wide = "float32" if node.int("stash_type", 1) == 1 and dtype != "float64" else dtype
    value = cast(x, wide, builder)
    mean = inverse = None
    if plain and not wants_statistics:
        none = constant(np.ones(dims[axis:], wide))  # read by nobody
        options = {"epsilon": epsilon, "center": False, "scale": False}
        normal = builder.emit(R.nn.layer_norm(value, none, none, axes, **options))
    else:
        mean, deviation = moments(value, axes, epsilon, builder)
        inverse = builder.emit(R.divide(scalar(1, wide), deviation))
        normal = builder.emit(R.multiply(builder.emit(R.subtract(value, mean)), inverse))
    normal = cast(normal, dtype, builder)
    result = builder.emit(R.multiply(normal, scale))
    if bias is not None:
        result = builder.emit(R.add(result, bias))
    return (result,) if mean is None or inverse is None else (result, mean, inverse)


def moments(
    x: relax.Expr, axes: list[int], epsilon: float, builder: Builder
) -> tuple[relax.Expr, relax.Expr]:
    """Mean and sqrt(variance + epsilon) over axes, kept as 1; the variance in two passes."""
    mean = builder.emit(R.mean(x, axes, keepdims=True))
    centered = builder.emit(R.subtract(x, mean))
    variance = builder.emit(
        R.mean(builder.emit(R.multiply(centered, centered)), axes, keepdims=True)
    )
    shifted = builder.emit(R.add(variance, scalar(epsilon, dtype_of(x))))
    return mean, builder.emit(R.sqrt(shifted))


def rms_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x / sqrt(mean(x^2) + epsilon) * scale` over the dims from `axis` on.

    Source: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html
    """
    x, scale = inputs
    axis = node.axis("axis", rank_of(x), -1)
    dtype, dims = dtype_of(x), shape_of(x)
    plain = not any(is_symbolic(dim) for dim in dims[axis:])
    if plain and dtype == "float32" and shape_of(scale) == dims[axis:]:
        axes = list(range(axis, len(dims)))
        return R.nn.rms_norm(x, scale, axes, node.float("epsilon", 1e-5))
    wide = "float32" if node.int("stash_type", 1) == 1 and dtype != "float64" else dtype
    value = cast(x, wide, builder)
    axes = list(range(axis, rank_of(x)))
    squares = builder.emit(R.mean(builder.emit(R.multiply(value, value)), axes, keepdims=True))
    epsilon = scalar(node.float("epsilon", 1e-5), wide)
    root = builder.emit(R.sqrt(builder.emit(R.add(squares, epsilon))))
    normal = cast(builder.emit(R.divide(value, root)), dtype, builder)
    return R.multiply(normal, scale)


def instance_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Each channel of each image normalized by its own mean and variance.

    Source: https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html
    """
    x, scale, bias = inputs
    rank, axes = rank_of(x), list(range(2, rank_of(x)))
    epsilon = node.float("epsilon", 1e-5)
    if _is_per_channel(x, scale, bias):
        return R.nn.instance_norm(x, scale, bias, 1, axes, epsilon)
    mean, deviation = moments(x, axes, epsilon, builder)
    normal = builder.emit(R.divide(builder.emit(R.subtract(x, mean)), deviation))
    scaled = builder.emit(R.multiply(normal, per_channel(scale, rank, builder)))
    return R.add(scaled, per_channel(bias, rank, builder))


def _is_per_channel(x: relax.Expr, scale: relax.Expr, bias: relax.Expr) -> bool:
    """Whether the kernels for one scale and one bias a channel, in float32, take these."""
    dims = shape_of(x)
    known = len(dims) > 2 and not any(is_symbolic(dim) for dim in dims[1:])
    return known and dtype_of(x) == "float32" and shape_of(scale) == shape_of(bias) == dims[1:2]


def group_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Each group of channels normalized by its own mean and variance.

    scale and bias have one element per group before opset 21, one per channel from it on.
    Source: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
    """
    x, scale, bias = inputs
    dims, groups = shape_of(x), node.int("num_groups")
    channels = dims[1]
    if is_symbolic(channels) or groups < 1 or channels % groups:
        raise node.error(f"num_groups={groups} does not divide {channels} channels")
    dtype, epsilon = dtype_of(x), node.float("epsilon", 1e-5)
    if node.opset >= 21 and _is_per_channel(x, scale, bias):
        return R.nn.group_norm(x, scale, bias, groups, 1, list(range(2, len(dims))), epsilon)
    wide = "float32" if node.int("stash_type", 1) == 1 and dtype != "float64" else dtype
    grouped_dims = [dims[0], groups, channels // groups, *dims[2:]]
    grouped = reshape(cast(x, wide, builder), grouped_dims, builder)
    axes = list(range(2, len(grouped_dims)))
    mean, deviation = moments(grouped, axes, epsilon, builder)
    normal = builder.emit(R.divide(builder.emit(R.subtract(grouped, mean)), deviation))
    normal = cast(normal, dtype, builder)
    if node.opset < 21:
        rank = len(grouped_dims)
        scaled = builder.emit(R.multiply(normal, per_channel(scale, rank, builder)))
        shifted = builder.emit(R.add(scaled, per_channel(bias, rank, builder)))
        return reshape(shifted, dims, builder)
    flat = reshape(normal, dims, builder)
    scaled = builder.emit(R.multiply(flat, per_channel(scale, len(dims), builder)))
    return R.add(scaled, per_channel(bias, len(dims), builder))


def lp_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x / norm(x)` along `axis` with p = 1 or 2; 0 where the norm is 0.

    Source: https://onnx.ai/onnx/operators/onnx__LpNormalization.html
    """
    x, p = inputs[0], node.int("p", 2)
    axis = [node.axis("axis", rank_of(x), -1)]
    if p not in (1, 2):
        raise node.error(f"p={p} is neither 1 nor 2")
    if p == 1:
        norm = builder.emit(R.sum(builder.emit(R.abs(x)), axis, keepdims=True))
    else:
        squares = builder.emit(R.sum(builder.emit(R.multiply(x, x)), axis, keepdims=True))
        norm = builder.emit(R.sqrt(squares))
    dtype = dtype_of(x)
    # 0 / 0 would be NaN: where the norm is 0 every element is 0
    safe = R.where(builder.emit(R.equal(norm, scalar(0, dtype))), scalar(1, dtype), norm)
    return R.divide(x, builder.emit(safe))


def mean_variance_normalization(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(x - mean) / (sqrt(variance) + 1e-9)` over `axes`.

    Source: https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html
    """
    x = inputs[0]
    axes = node.normalize_axes(node.ints("axes", [0, 2, 3]), rank_of(x))
    mean, deviation = moments(x, axes, 0.0, builder)
    shifted = builder.emit(R.add(deviation, scalar(1e-9, dtype_of(x))))
    return R.divide(builder.emit(R.subtract(x, mean)), shifted)
