"""Convolutions in 1, 2 and 3 spatial dimensions; NCHW data, OIHW weights."""

from __future__ import annotations

from typing import Any

from tvm import relax

from athanor.frontends.onnx.known import is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import per_channel, rank_of, shape_of

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
    x, weight = inputs[0], inputs[1]
    spatial = rank_of(x) - 2
    if spatial not in _CONV:
        raise node.error(f"{spatial} spatial dimensions; 1, 2 and 3 are supported")
    kernel = shape_of(weight)[2:]
    if rank_of(weight) != rank_of(x) or node.ints("kernel_shape", kernel) != kernel:
        raise node.error(
            f"weights {shape_of(weight)} do not fit input {shape_of(x)} and "
            f"kernel_shape {node.ints('kernel_shape', kernel)}"
        )
    strides, dilations = window(node, spatial)
    pads = padding(node, shape_of(x)[2:], kernel, strides, dilations)
    group = node.int("group", 1)
    channels, per_group = shape_of(x)[1], shape_of(weight)[1]
    if not is_symbolic(channels) and channels != per_group * group:
        raise node.error(
            f"input has {channels} channels; weights {shape_of(weight)} with group={group} "
            f"need {per_group * group}"
        )
    data_layout, kernel_layout = _LAYOUT[spatial]
    result = _CONV[spatial](
        x,
        weight,
        strides=strides,
        padding=pads,
        dilation=dilations,
        groups=group,
        data_layout=data_layout,
        kernel_layout=kernel_layout,
    )
    if not node.has_input(2, inputs):
        return result
    bias = per_channel(inputs[2], rank_of(x), builder)
    return R.add(builder.emit(result), bias)


def window(node: Node, spatial: int) -> tuple[list[int], list[int]]:
    """The attributes strides and dilations, each 1 by default; CompileError unless positive."""
    strides = node.ints("strides", [1] * spatial)
    dilations = node.ints("dilations", [1] * spatial)
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != spatial or any(value < 1 for value in values):
            raise node.error(f"{name}={values} has to be {spatial} positive integers")
    return strides, dilations


def padding(
    node: Node, dims: list[Any], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    """Pads before and after each spatial axis (begins, then ends), after auto_pad.

    SAME_UPPER and SAME_LOWER give ceil(dim / stride) results; the odd pad goes to the end or
    to the beginning.
    """
    spatial = len(kernel)
    mode = node.string("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = node.ints("pads", [0] * (2 * spatial))
        if len(pads) != 2 * spatial:
            raise node.error(f"pads={pads} has to be {2 * spatial} integers")
        return pads
    if mode == "VALID":
        return [0] * (2 * spatial)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"auto_pad={mode!r} is not one of the standard's modes")
    begins, ends = [], []
    for dim, size, stride, dilation in zip(dims, kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        if is_symbolic(dim):
            if stride != 1:
                raise node.error(
                    f"auto_pad={mode} with stride {stride} on the symbolic dimension "
                    f"{simplify(dim)}; fix the dimension with shapes="
                )
            total = reach - 1
        else:
            total = max((-(-dim // stride) - 1) * stride + reach - dim, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends
