"""2-D convolution with channels last, which a GPU computes as a matrix product."""

from __future__ import annotations

from tvm import te, tirx

from athanor.schedules.blocks import KIND

CHANNELS_LAST = "conv2d_channels_last"
"""KIND of the block."""
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
    batch, height, width, _ = data.shape
    out_channels, kernel_h, kernel_w, depth = weight.shape
    top, left, bottom, right = padding
    out_h = (height + top + bottom - (kernel_h - 1) * dilation[0] - 1) // strides[0] + 1
    out_w = (width + left + right - (kernel_w - 1) * dilation[1] - 1) // strides[1] + 1
    kh = te.reduce_axis((0, kernel_h), name="kh")
    kw = te.reduce_axis((0, kernel_w), name="kw")
    c = te.reduce_axis((0, depth), name="c")
    zero = tirx.const(0, data.dtype)

    def element(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        row = y * strides[0] + kh * dilation[0] - top
        column = x * strides[1] + kw * dilation[1] - left
        first = tirx.floordiv(o, out_channels // groups) * depth if groups > 1 else 0
        value = data[n, row, column, first + c]
        if any(padding):
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            value = tirx.if_then_else(inside, value, zero)
        product = value.astype(out_dtype) * weight[o, kh, kw, c].astype(out_dtype)
        return te.sum(product, axis=[kh, kw, c])

    return te.compute(
        (batch, out_h, out_w, out_channels),
        element,
        name="conv2d",
        attrs={KIND: CHANNELS_LAST, GEOMETRY: [*strides, *dilation, top, left, groups]},
    )
