"""Convolutions in NCHW over a copy whose pixels lie as vectors of results read them."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from athanor.schedules.blocks import KIND
from athanor.schedules.compute.conv2d import Padding, Pair
from athanor.schedules.compute.pool2d import out_size

DEAL = "deal"
"""KIND of the block that copies. Its axis number 3 says which neighbour of the input an element
is, and its last axis steps by the stride."""


def deal_columns(
    data: te.Tensor, kernel: Pair, strides: Pair, padding: Padding, dilation: Pair
) -> te.Tensor:
    """(N, C, H, W) -> (N, C, rows, phases, columns): columns by phase of the stride, padded.

    Column w of the padded input is number w // stride of phase w % stride, so that neighbouring
    results read neighbours of one phase.
    """
    height, width = out_size(data, kernel, strides, padding, dilation, ceil_mode=False)
    span, step = (kernel[1] - 1) * dilation[1] + 1, strides[1]
    rows = (height - 1) * strides[0] + (kernel[0] - 1) * dilation[0] + 1
    columns = width + (span - 1) // step
    inside = _padded(data, padding)

    def element(
        n: tirx.Expr, c: tirx.Expr, row: tirx.Expr, phase: tirx.Expr, column: tirx.Expr
    ) -> tirx.Expr:
        return inside(n, c, row, column * step + phase)

    shape = (*data.shape[:2], rows, min(step, span), columns)
    return te.compute(shape, element, name="deal_columns", attrs={KIND: DEAL})


def conv2d_dealt(
    dealt: te.Tensor,
    weight: te.Tensor,
    *,
    size: Pair,
    groups: int,
    strides: Pair,
    dilation: Pair,
) -> te.Tensor:
    """The convolution of what `deal_columns` made, weight OIHW: (N, O, *size).

    dealt: phases one behind the other in a row, (N, C, rows, phases * columns).
    """
    out_channels, depth, *kernel = (int(dim) for dim in weight.shape)
    per_group = out_channels // groups
    columns = size[1] + (kernel[1] - 1) * dilation[1] // strides[1]
    rc = te.reduce_axis((0, depth), "rc")
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")

    def element(n: tirx.Expr, o: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        channel = rc if groups == 1 else o // per_group * depth + rc
        row, right = h * strides[0] + kh * dilation[0], kw * dilation[1]
        place = right % strides[1] * columns + (right // strides[1] + w)
        return te.sum(dealt[n, channel, row, place] * weight[o, rc, kh, kw], axis=[rc, kh, kw])

    return te.compute((dealt.shape[0], out_channels, *size), element, name="conv2d")


def deal_taps(
    data: te.Tensor, kernel: Pair, strides: Pair, padding: Padding, dilation: Pair
) -> te.Tensor:
    """(N, C, H, W) -> (N, C, KH, KW, OH, OW): the pixels that results read by each tap.

    What is left is a 1x1 convolution, over C * KH * KW channels, whose pixels are one line.
    """
    size = out_size(data, kernel, strides, padding, dilation, ceil_mode=False)
    inside = _padded(data, padding)

    def element(
        n: tirx.Expr, c: tirx.Expr, kh: tirx.Expr, kw: tirx.Expr, oh: tirx.Expr, ow: tirx.Expr
    ) -> tirx.Expr:
        row, column = oh * strides[0] + kh * dilation[0], ow * strides[1] + kw * dilation[1]
        return inside(n, c, row, column)

    shape = (*data.shape[:2], *kernel, *size)
    return te.compute(shape, element, name="deal_taps", attrs={KIND: DEAL})


def _padded(data: te.Tensor, padding: Padding) -> Callable[..., tirx.Expr]:
    """The element at a row and a column of the input with zeros around it."""
    top, left = padding[:2]
    height, width = data.shape[2:]

    def element(n: tirx.Expr, c: tirx.Expr, row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        h, w = row - top, column - left
        inside = []
        if top:
            inside.append(h >= 0)
        if left:
            inside.append(w >= 0)
        # A stride may leave columns over, or reach past the last one of a phase.
        inside += [h < height, w < width]
        fill = tirx.const(0.0, data.dtype)
        return tirx.if_then_else(tirx.all(*inside), data[n, c, h, w], fill)

    return element
