"""Convolutions in 1, 2 and 3 spatial dimensions; NCHW data, OIHW weights."""

from __future__ import annotations

from tvm import relax

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.windows import Windows, spatial_rank
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    dtype_of,
    filled,
    per_channel,
    rank_of,
    reshape,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_CONV = {1: R.nn.conv1d, 2: R.nn.conv2d, 3: R.nn.conv3d}
_LAYOUT = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


def conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Cross-correlation with weights (O, C/group, k...), plus bias (O,) when given.

    inputs: x (N, C, spatial...), w, optional bias. Attributes: auto_pad, dilations, group,
    kernel_shape, pads (begins, then ends), strides.
    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    x, dtype = inputs[0], dtype_of(inputs[0])
    wide = accumulation_dtype(dtype)
    result = convolution(node, x, inputs[1], wide, builder)
    if wide != dtype:
        result = R.astype(builder.emit(result), dtype)
    if not node.has_input(2, inputs):
        return result
    bias = per_channel(inputs[2], rank_of(x), builder)
    return R.add(builder.emit(result), bias)


def convolution(
    node: Node, x: relax.Expr, weight: relax.Expr, out_dtype: str, builder: Builder
) -> relax.Expr:
    """The sums of a node with Conv's attributes, in `out_dtype`, without a bias."""
    spatial = spatial_rank(node, x)
    kernel = shape_of(weight)[2:]
    if rank_of(weight) != rank_of(x) or node.ints("kernel_shape", kernel) != kernel:
        raise node.error(
            f"weights {shape_of(weight)} do not fit input {shape_of(x)} and "
            f"kernel_shape {node.ints('kernel_shape', kernel)}"
        )
    windows = Windows(node, shape_of(x)[2:], kernel)
    group = node.int("group", 1)
    channels, per_group = shape_of(x)[1], shape_of(weight)[1]
    if not is_symbolic(channels) and channels != per_group * group:
        raise node.error(
            f"input has {channels} channels; weights {shape_of(weight)} with group={group} "
            f"need {per_group * group}"
        )
    outputs = shape_of(weight)[0]
    if group < 1 or outputs % group:
        raise node.error(f"weights {shape_of(weight)} can't be divided into group={group}")
    sizes = [shape_of(x)[0], outputs, *windows.counts]
    if 0 in (*shape_of(x), *shape_of(weight), *sizes):
        return filled(sizes, 0, out_dtype, builder)
    if not windows.is_fixed:
        x = windows.padded(x, builder)
    data_layout, kernel_layout = _LAYOUT[spatial]
    result = _CONV[spatial](
        x,
        weight,
        strides=windows.strides,
        padding=windows.pads if windows.is_fixed else [0] * (2 * spatial),
        dilation=windows.dilations,
        groups=group,
        data_layout=data_layout,
        kernel_layout=kernel_layout,
        out_dtype=out_dtype,
    )
    # Relax finds another expression for sizes that come from auto_pad.
    return result if windows.is_fixed else reshape(builder.emit(result), sizes, builder)
