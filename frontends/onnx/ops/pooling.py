"""Pooling over windows and over whole images."""

from __future__ import annotations

from typing import Any

from tvm import relax

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.pooling_general import (
    average_general,
    max_general,
    max_with_indices,
)
from athanor.frontends.onnx.ops.reduction import infinite_extremum
from athanor.frontends.onnx.ops.windows import pool_windows
from athanor.frontends.onnx.tensors import dtype_of, filled, rank_of, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_MAX = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
_AVERAGE = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}


def max_pool(node: Node, inputs: Inputs, builder: Builder) -> Any:
    """The largest element of each window; pads never win.

    Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    x = inputs[0]
    pool = pool_windows(node, x)
    shape = [*shape_of(x)[:2], *pool.counts]
    with_indices = any(node.outputs[1:])
    if 0 in shape:
        values = filled(shape, 0, dtype_of(x), builder)
        return (values, filled(shape, 0, "int64", builder)) if with_indices else values
    if with_indices:
        return max_with_indices(node, x, pool, builder)
    if not pool.is_fixed:
        return max_general(x, pool, builder)
    return _MAX[pool.rank](
        x,
        pool_size=pool.kernel,
        strides=pool.strides,
        padding=pool.pads,
        dilation=pool.dilations,
    )


def average_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean of each window, over the elements inside the image.

    count_include_pad=1 counts pads as zeros.

    Source: https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    x = inputs[0]
    pool = pool_windows(node, x)
    shape = [*shape_of(x)[:2], *pool.counts]
    if 0 in shape:
        return filled(shape, 0, dtype_of(x), builder)
    include = bool(node.int("count_include_pad", 0))
    if not pool.is_fixed or (include and any(pool.past)):
        return average_general(x, pool, include, builder)
    return _AVERAGE[pool.rank](
        x,
        pool_size=pool.kernel,
        strides=pool.strides,
        padding=pool.pads,
        dilation=pool.dilations,
        count_include_pad=include,
    )


def global_average_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean over all spatial dims, kept as 1.

    Source: https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html
    """
    return R.mean(inputs[0], axis=list(range(2, rank_of(inputs[0]))), keepdims=True)


def global_max_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The maximum over all spatial dims, kept as 1.

    Source: https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html
    """
    x = inputs[0]
    return infinite_extremum(x, list(range(2, rank_of(x))), True, True, builder)
