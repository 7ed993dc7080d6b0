"""Transposed convolutions on blocked values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Call, Expr

from athanor.compiler.passes.rewrite import (
    array_constant,
    padding_of,
    pair_of,
    static_shape,
)
from athanor.compiler.passes.split_bands import PART_CYCLES
from athanor.schedules.blocks import constant
from athanor.schedules.compute import conv2d, conv2d_transpose

if TYPE_CHECKING:
    from athanor.compiler.passes.block_layouts import LayoutRewriter


def transposed_convolution(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    """One convolution whose blocks of channels are phases, or one for each phase."""
    data, weight = call.args
    weights, attrs = graph.constant(weight), call.attrs
    if weights is None or str(weight.ty.dtype) != "float32" or weights.ndim != 4:
        return None
    if attrs.data_layout != "NCHW" or attrs.kernel_layout != "IOHW":
        return None
    in_channels, out_channels, *kernel = weights.shape
    strides = pair_of(attrs.strides)
    plan = conv2d_transpose.plan_conv2d_transpose(
        in_channels,
        out_channels,
        (kernel[0], kernel[1]),
        strides,
        pair_of(attrs.dilation),
        int(attrs.groups),
        graph.block,
    )
    if plan is None:
        return None
    phases = conv2d_transpose.phases_apart(
        weights, strides, padding_of(attrs.padding), pair_of(attrs.output_padding)
    )
    uneven = any(size % stride for size, stride in zip(kernel, strides, strict=True))
    if uneven or _saves(graph, call, weights, phases):
        made = _phases_apart(graph, call, weights, phases, plan.in_block)
        if made is not None:
            return graph.emit_blocked(made, out_channels, name)
        if uneven:
            return None
    source = graph.input_in_blocks(data, in_channels, plan.in_block)
    packed = conv2d_transpose.pack_conv2d_transpose_weight(weights, plan, strides)

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return conv2d_transpose.conv2d_transpose_blocked(
            x,
            w,
            plan=plan,
            kernel=(kernel[0], kernel[1]),
            strides=strides,
            padding=padding_of(attrs.padding),
            output_padding=pair_of(attrs.output_padding),
        )

    made = graph.call(compute, source, relax.const(packed, "float32"), hint="conv2d_transpose")
    return graph.emit_blocked(made, out_channels, name)


def _saves(
    graph: LayoutRewriter, call: Call, weights: np.ndarray, phases: list[conv2d_transpose.Phase]
) -> bool:
    """Whether rows and columns that are cut off, and convolved as one all the same, cost more."""
    image = static_shape(call.args[0])
    assert graph.old is not None, "a binding is rewritten"
    result = static_shape(graph.old)
    if image is None or result is None or len(phases) == 1:
        return False
    attrs, taps, kernel = call.attrs, phases[0].weights.shape[2:], weights.shape[2:]
    height, width = conv2d_transpose.joined_size(
        image[2:4],
        (kernel[0], kernel[1]),
        pair_of(attrs.strides),
        padding_of(attrs.padding),
        pair_of(attrs.output_padding),
    )
    left_out = height * width * len(phases) - result[2] * result[3]
    blocks = -(-weights.shape[1] // graph.block) * graph.block
    products = image[0] * left_out * blocks * weights.shape[0] * math.prod(taps)
    rate = graph.target.lanes(32) * graph.target.fma_pipes
    return products / rate > len(phases) * PART_CYCLES


def _phases_apart(
    graph: LayoutRewriter,
    call: Call,
    weights: np.ndarray,
    phases: list[conv2d_transpose.Phase],
    in_block: int,
) -> Call | None:
    """A convolution for each phase, where some have fewer taps than others, or one is wasteful.

    In one convolution those would meet zeros, which costs as much as any tap and makes an infinite
    input NaN in places that it does not reach. None where a phase reads but a part of the input.
    """
    attrs, (inputs, outputs, *_) = call.attrs, weights.shape
    strides, cut, more = (
        pair_of(attrs.strides),
        padding_of(attrs.padding),
        pair_of(attrs.output_padding),
    )
    used = [phase for phase in phases if phase.weights.size]
    sizes = [constant(size) for size in call.args[0].ty.shape.values[2:4]]  # of either layout
    for phase in used:
        for i in (0, 1):
            longer = phase.pads[i] + phase.pads[i + 2] - phase.weights.shape[i + 2] + 1
            if longer + (sizes[i] or 1) < 1:
                return None
    if not used or min(min(phase.pads) for phase in used) < 0:
        return None
    source = graph.input_in_blocks(call.args[0], inputs, in_block)
    parts = []
    for phase in used:
        taps = phase.weights.shape[2], phase.weights.shape[3]
        plan = conv2d.plan_conv2d(inputs, outputs, taps, 1, graph.block)
        assert plan is not None, "channels and taps are there"
        packed = array_constant(conv2d.pack_conv2d_weight(phase.weights, plan))

        def convolve(
            x: te.Tensor,
            w: te.Tensor,
            plan: conv2d.Conv2dPlan = plan,
            pads: conv2d.Padding = phase.pads,
        ) -> te.Tensor:
            return conv2d.conv2d_blocked(x, w, plan=plan, padding=pads)

        parts.append(graph.emit(graph.call(convolve, source, packed, hint="conv2d")))

    def compute(*tensors: te.Tensor) -> te.Tensor:
        size: list[tirx.Expr] = []
        for i in (0, 1):
            taps, pads = used[0].weights.shape[i + 2], used[0].pads
            length = tensors[0].shape[i + 2] - (pads[i] + pads[i + 2] - taps + 1)
            ends = weights.shape[i + 2] - cut[i] - cut[i + 2] + more[i]
            size.append((length - 1) * strides[i] + ends)
        return conv2d_transpose.interleave_blocked(tensors, phases, strides, cut[:2], size)

    return graph.call(compute, *parts, hint="interleave")
