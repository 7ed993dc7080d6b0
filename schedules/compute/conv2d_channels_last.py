"""2-D convolution with channels last, which a GPU computes as a matrix product."""

from __future__ import annotations

from tvm import te, tirx

from athanor.schedules.blocks import KIND

CHANNELS_LAST = "conv2d_channels_last"
"""KIND of the block."""
DEPTHWISE = "depthwise_channels_last"
"""KIND of the block of a depthwise one."""
GEOMETRY = "athanor.geometry"
"""Block annotation: strides, dilation (two each), zeros at top and left, groups."""


def conv2d_channels_last(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    out_dtype: str,
) -> te.Tensor:
    """Data (N, H, W, C), weight (O, KH, KW, C / groups) -> (N, OH, OW, O), summed in `out_dtype`.

    padding: zeros at top, left, bottom, right; they are read as such, no padded copy is made.
    """
    out_channels, kernel_h, kernel_w, depth = weight.shape
    window = _Window(data, (kernel_h, kernel_w), strides, padding, dilation)
    kh, kw = window.taps
    c = te.reduce_axis((0, depth), name="c")

    def element(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        first = tirx.floordiv(o, out_channels // groups) * depth if groups > 1 else 0
        value = window.value(n, y, x, first + c)
        product = value.astype(out_dtype) * weight[o, kh, kw, c].astype(out_dtype)
        return te.sum(product, axis=[kh, kw, c])

    return te.compute(
        (*window.places, out_channels),
        element,
        name="conv2d",
        attrs={KIND: CHANNELS_LAST, GEOMETRY: [*strides, *dilation, *padding[:2], groups]},
    )


def depthwise_channels_last(
    data: te.Tensor,
    weight: te.Tensor,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    out_dtype: str,
) -> te.Tensor:
    """The same of a group for each channel: weight (KH, KW, C) -> (N, OH, OW, C).

    The zeros are a stage of their own here, so that a thread may have its window in registers.
    """
    kernel_h, kernel_w, channels = weight.shape
    window = _Window(data, (kernel_h, kernel_w), strides, padding, dilation)
    kh, kw = window.taps
    batch, height, width, _ = data.shape
    top, left, bottom, right = padding

    def inside(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row, column = y - top, x - left
        there = tirx.all(row >= 0, row < height, column >= 0, column < width)
        return tirx.if_then_else(there, data[n, row, column, c], tirx.const(0, data.dtype))

    framed = data
    if any(padding):
        shape = (batch, height + top + bottom, width + left + right, channels)
        framed = te.compute(shape, inside, name="framed")

    def element(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row = y * strides[0] + kh * dilation[0]
        value = framed[n, row, x * strides[1] + kw * dilation[1], c].astype(out_dtype)
        return te.sum(value * weight[kh, kw, c].astype(out_dtype), axis=[kh, kw])

    return te.compute(
        (*window.places, channels), element, name="depthwise", attrs={KIND: DEPTHWISE}
    )


class _Window:
    """What a convolution's results meet."""

    def __init__(
        self,
        data: te.Tensor,
        kernel: tuple[tirx.Expr, tirx.Expr],
        strides: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.data, self.strides, self.padding, self.dilation = data, strides, padding, dilation
        self.taps = (
            te.reduce_axis((0, kernel[0]), name="kh"),
            te.reduce_axis((0, kernel[1]), name="kw"),
        )
        batch, height, width, _ = data.shape
        top, left, bottom, right = padding
        self.places = (
            batch,
            (height + top + bottom - (kernel[0] - 1) * dilation[0] - 1) // strides[0] + 1,
            (width + left + right - (kernel[1] - 1) * dilation[1] - 1) // strides[1] + 1,
        )

    def value(self, n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, channel: tirx.Expr) -> tirx.Expr:
        """What place (y, x) meets at the taps; zero outside."""
        _, height, width, _ = self.data.shape
        row = y * self.strides[0] + self.taps[0] * self.dilation[0] - self.padding[0]
        column = x * self.strides[1] + self.taps[1] * self.dilation[1] - self.padding[1]
        value = self.data[n, row, column, channel]
        if not any(self.padding):
            return value
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        return tirx.if_then_else(inside, value, tirx.const(0, self.data.dtype))
