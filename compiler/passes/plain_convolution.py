"""Convolutions in NCHW over copies whose pixels lie as vectors of results read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax, te
from tvm.ir import Call, Expr

from athanor.compiler.passes.rewrite import array_constant, padding_of, pair_of, static_shape
from athanor.schedules.compute import deal
from athanor.schedules.compute.conv2d import Conv2dPlan
from athanor.schedules.plain_tile import PlainForm, plain_form

if TYPE_CHECKING:
    from athanor.compiler.passes.block_layouts import LayoutRewriter


def dense_form(
    graph: LayoutRewriter, call: Call, plan: Conv2dPlan, kernel: Sequence[int]
) -> PlainForm | None:
    """The fastest form in NCHW of a convolution that nobody shares blocks with; None: unknown."""
    assert graph.old is not None, "a binding is rewritten"
    image, result = static_shape(call.args[0]), static_shape(graph.old)
    if image is None or result is None or 0 in (*image, *result):
        return None
    return plain_form(
        (plan.in_channels, plan.out_channels),
        (image[2], image[3]),
        (result[2], result[3]),
        (kernel[0], kernel[1]),
        pair_of(call.attrs.strides)[1],
        plan.groups,
        graph.target,
        any(padding_of(call.attrs.padding)),
    )


def plain_convolution(
    graph: LayoutRewriter, call: Call, weights: np.ndarray, form: PlainForm, name: str
) -> Expr | None:
    """The convolution in that form; None leaves the call as it is."""
    if form.name == "rows":
        return None
    assert graph.old is not None, "a binding is rewritten"
    image, result = static_shape(call.args[0]), static_shape(graph.old)
    assert image is not None and result is not None, "a form is of known sizes"
    attrs, (batch, inputs, *_), (_, _, *size) = call.attrs, image, result
    groups, kernel = int(attrs.groups), (weights.shape[2], weights.shape[3])
    strides, dilation = pair_of(attrs.strides), pair_of(attrs.dilation)
    window = (kernel, strides, padding_of(attrs.padding), dilation)
    copy = deal.deal_columns if form.name == "columns" else deal.deal_taps
    dealt = graph.emit(graph.call(lambda x: copy(x, *window), call.args[0], hint=copy.__name__))
    if form.name == "columns":
        known = static_shape(dealt)
        assert known is not None, "what is copied has known sizes"
        lines = relax.op.reshape(dealt, [*known[:3], known[3] * known[4]])
        options: dict[str, Any] = dict(
            size=(size[0], size[1]), groups=groups, strides=strides, dilation=dilation
        )

        def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
            return deal.conv2d_dealt(x, w, **options)

        made = graph.call(compute, graph.emit(lines), array_constant(weights), hint="conv2d")
        return graph.emit(made, name)
    taps = math.prod(kernel)
    pixels = relax.op.reshape(dealt, [batch, inputs * taps, *size])
    flat = array_constant(weights.reshape(weights.shape[0], -1, 1, 1))
    made = relax.op.nn.conv2d(
        graph.emit(pixels), flat, groups=groups, out_dtype=str(graph.old.ty.dtype)
    )
    return graph.emit(made, name)
