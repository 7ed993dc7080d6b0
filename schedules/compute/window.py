"""Pooling and depthwise convolutions over NCHW, with vectors along rows."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import te, tirx

from athanor.schedules.blocks import KIND
from athanor.schedules.compute.conv2d import PAD_KIND
from athanor.schedules.compute.pool2d import LARGEST, Padding, Pair, counted, out_size

PLAIN_WINDOW = "plain_window"
"""KIND of the blocks that reduce windows."""

Element = Callable[..., tirx.Expr]


def depthwise_conv2d_plain(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> te.Tensor:
    """Each channel with kernels of its own: data (N, C, H, W), weight (C * times, KH, KW).

    Result: (N, C * times, OH, OW). padding: zeros at top, left, bottom, right.
    """
    kernel = int(weight.shape[1]), int(weight.shape[2])
    size = out_size(data, kernel, strides, padding, dilation, ceil_mode=False)
    element = _windows(data, kernel, strides, padding, dilation, size, 0.0)
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    times = int(weight.shape[0]) // int(data.shape[1])
    return te.compute(
        (data.shape[0], weight.shape[0], *size),
        lambda n, c, oh, ow: te.sum(
            element(n, c if times == 1 else c // times, oh, ow, kh, kw) * weight[c, kh, kw],
            axis=[kh, kw],
        ),
        name="depthwise_conv2d",
        attrs={KIND: PLAIN_WINDOW},
    )


def max_pool2d_plain(
    data: te.Tensor,
    *,
    kernel: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> te.Tensor:
    """`pool2d.max_pool2d_blocked` over (N, C, H, W)."""
    size = out_size(data, kernel, strides, padding, dilation, ceil_mode)
    element = _windows(data, kernel, strides, padding, dilation, size, -math.inf)
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    return te.compute(
        (*data.shape[:2], *size),
        lambda n, c, oh, ow: LARGEST(element(n, c, oh, ow, kh, kw), axis=[kh, kw]),
        name="max_pool2d",
        attrs={KIND: PLAIN_WINDOW},
    )


def avg_pool2d_plain(
    data: te.Tensor,
    *,
    kernel: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> te.Tensor:
    """`pool2d.avg_pool2d_blocked` over (N, C, H, W)."""
    size = out_size(data, kernel, strides, padding, dilation, ceil_mode)
    element = _windows(data, kernel, strides, padding, dilation, size, 0.0)
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    total = te.compute(
        (*data.shape[:2], *size),
        lambda n, c, oh, ow: te.sum(element(n, c, oh, ow, kh, kw), axis=[kh, kw]),
        name="sum_pool2d",
        attrs={KIND: PLAIN_WINDOW},
    )
    divisor = counted(data, kernel, strides, padding, dilation, ceil_mode, count_include_pad)
    return te.compute(
        total.shape, lambda n, c, oh, ow: total[n, c, oh, ow] / divisor(oh, ow), name="avg_pool2d"
    )


def _windows(
    data: te.Tensor,
    kernel: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    size: list[tirx.Expr],
    fill: float,
) -> Element:
    """What the window at (n, c, oh, ow) has at (kh, kw).

    Read from a copy with `fill` around it and the columns dealt out to as many rows as the stride
    is long, (N, C, rows, stride, columns): a vector of outputs reads neighbours in one of them.
    """
    top, left = padding[:2]
    height, width = data.shape[2:]
    step = strides[1]
    rows = (size[0] - 1) * strides[0] + (kernel[0] - 1) * dilation[0] + 1
    columns = size[1] + (kernel[1] - 1) * dilation[1] // step
    outer = tirx.const(fill, data.dtype)

    def place(
        n: tirx.Expr, c: tirx.Expr, row: tirx.Expr, phase: tirx.Expr, column: tirx.Expr
    ) -> tirx.Expr:
        h, w = row - top, column * step + phase - left
        inside = tirx.all(h >= 0, h < height, w >= 0, w < width)
        return tirx.if_then_else(inside, data[n, c, h, w], outer)

    copy = None
    if step > 1 or any(padding) or int(rows) > int(height):
        shape = (*data.shape[:2], rows, step, columns)
        copy = te.compute(shape, place, name="pad", attrs={KIND: PAD_KIND})

    def element(
        n: tirx.Expr,
        c: tirx.Expr,
        oh: tirx.Expr,
        ow: tirx.Expr,
        kh: tirx.Expr,
        kw: tirx.Expr,
    ) -> tirx.Expr:
        row, right = oh * strides[0] + kh * dilation[0], kw * dilation[1]
        if copy is None:
            return data[n, c, row, ow + right]
        return copy[n, c, row, right % step, ow + right // step]

    return element
