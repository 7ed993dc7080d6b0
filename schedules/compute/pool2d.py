"""Pooling over channel-blocked data (N, C / b, H, W, b)."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import te, tirx

from athanor.schedules.blocks import KIND

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]

LARGEST = te.comm_reducer(
    lambda x, y: tirx.max(x, y), lambda dtype: tirx.const(-math.inf, dtype), name="max"
)
"""te.max starts from the least finite number, which a window of -inf would then return."""


def max_pool2d_blocked(
    data: te.Tensor,
    *,
    kernel: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> te.Tensor:
    """The largest element of each window; padding (top, left, bottom, right) never wins.

    Result: (N, C / b, OH, OW, b), in a block of KIND "pool2d". A window of padding alone gives
    -inf. With ceil_mode a last window that the padded image only begins counts too.
    """
    top, left, bottom, right = padding
    out_h, out_w = out_size(data, kernel, strides, padding, dilation, ceil_mode)
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    height, width = data.shape[2:4]
    lowest = tirx.const(-math.inf, data.dtype)
    # A row outside may as well be the nearest row of the same window, if there is one: no branch.
    clamped = dilation[0] == 1 and max(top, bottom + _ceil_rows(strides[0], ceil_mode)) < kernel[0]

    def element(
        n: tirx.Expr, c: tirx.Expr, oh: tirx.Expr, ow: tirx.Expr, ci: tirx.Expr
    ) -> tirx.Expr:
        row = oh * strides[0] + kh * dilation[0] - top
        column = ow * strides[1] + kw * dilation[1] - left
        inside = _inside(column, width, left, right or ceil_mode)
        if clamped:
            row = tirx.max(row, 0) if top else row
            row = tirx.min(row, height - 1) if bottom or ceil_mode else row
        else:
            inside += _inside(row, height, top, bottom or ceil_mode)
        return LARGEST(_select(inside, data[n, c, row, column, ci], lowest), axis=[kh, kw])

    shape = (*data.shape[:2], out_h, out_w, data.shape[4])
    return te.compute(shape, element, name="max_pool2d", attrs={KIND: "pool2d"})


def avg_pool2d_blocked(
    data: te.Tensor,
    *,
    kernel: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> te.Tensor:
    """The mean of each window over its elements inside the image, or inside the padded image.

    Result: (N, C / b, OH, OW, b): a block of KIND "pool2d" that sums, and one that divides. What
    ceil_mode adds to the padding is never counted. An empty window gives 0.
    """
    top, left, bottom, right = padding
    out_h, out_w = out_size(data, kernel, strides, padding, dilation, ceil_mode)
    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    height, width = data.shape[2:4]
    zero = tirx.const(0, data.dtype)

    def element(
        n: tirx.Expr, c: tirx.Expr, oh: tirx.Expr, ow: tirx.Expr, ci: tirx.Expr
    ) -> tirx.Expr:
        row = oh * strides[0] + kh * dilation[0] - top
        column = ow * strides[1] + kw * dilation[1] - left
        inside = _inside(row, height, top, bottom or ceil_mode)
        inside += _inside(column, width, left, right or ceil_mode)
        return te.sum(_select(inside, data[n, c, row, column, ci], zero), axis=[kh, kw])

    shape = (*data.shape[:2], out_h, out_w, data.shape[4])
    total = te.compute(shape, element, name="sum_pool2d", attrs={KIND: "pool2d"})
    divisor = counted(data, kernel, strides, padding, dilation, ceil_mode, count_include_pad)
    return te.compute(
        shape,
        lambda n, c, oh, ow, ci: total[n, c, oh, ow, ci] / divisor(oh, ow),
        name="avg_pool2d",
    )


def counted(
    data: te.Tensor,
    kernel: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Callable[[tirx.Expr, tirx.Expr], tirx.Expr]:
    """By what an average divides the sum of the window at (oh, ow); at least 1, dtype of data."""
    height, width = data.shape[2:4]
    whole = (count_include_pad or not any(padding)) and not ceil_mode
    before, after = (padding[:2], padding[2:]) if count_include_pad else ((0, 0), (0, 0))

    def count(out: tirx.Expr, axis: int) -> tirx.Expr:
        """Window elements along an axis from `-before` to the image's end plus `after`; 1 at least.

        As 32-bit numbers, of which a vector of results needs one register, and apart from the other
        axis, whose count is the same for a whole row.
        """
        size, step, first = (height, width)[axis], dilation[axis], before[axis]
        start = out.astype("int32") * strides[axis] - padding[axis]
        skipped = tirx.max(0, (-first - start + step - 1) // step)
        behind = size.astype("int32") + after[axis]
        end = tirx.min(kernel[axis], (behind - start + step - 1) // step)
        return tirx.max(end - skipped, 1).astype(data.dtype)

    def divisor(oh: tirx.Expr, ow: tirx.Expr) -> tirx.Expr:
        if whole:
            return tirx.const(kernel[0] * kernel[1], data.dtype)
        return count(oh, 0) * count(ow, 1)

    return divisor


def global_avg_pool2d_blocked(data: te.Tensor) -> te.Tensor:
    """The mean of each channel: (N, C / b, H, W, b) -> (N, C / b, 1, 1, b).

    A block of KIND "global_pool2d" that sums, and one that divides.
    """
    batch, blocks, height, width, block = data.shape
    rows, columns = te.reduce_axis((0, height), "rh"), te.reduce_axis((0, width), "rw")
    shape = (batch, blocks, 1, 1, block)
    total = te.compute(
        shape,
        lambda n, c, _h, _w, ci: te.sum(data[n, c, rows, columns, ci], axis=[rows, columns]),
        name="global_sum",
        attrs={KIND: "global_pool2d"},
    )
    pixels = (height * width).astype(data.dtype)
    if isinstance(pixels, tirx.FloatImm) and pixels.value == 0:  # TVM refuses to fold 0 / 0
        return te.compute(shape, lambda *_: tirx.const(math.nan, data.dtype), name="fill")
    return te.compute(shape, lambda *i: total[i] / pixels, name="global_avg_pool2d")


def _inside(index: tirx.Expr, size: tirx.Expr, before: int, after: int | bool) -> list[tirx.Expr]:
    """The conditions for an index to lie in the image, as far as padding makes them needed."""
    return ([index >= 0] if before else []) + ([index < size] if after else [])


def _select(conditions: list[tirx.Expr], value: tirx.Expr, other: tirx.Expr) -> tirx.Expr:
    return tirx.if_then_else(tirx.all(*conditions), value, other) if conditions else value


def _ceil_rows(stride: int, ceil_mode: bool) -> int:
    """Most rows that ceil_mode adds at the end."""
    return stride - 1 if ceil_mode else 0


def out_size(
    data: te.Tensor,
    kernel: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool,
) -> list[tirx.Expr]:
    """Rows and columns of the result, of data (N, C, H, W, ...)."""
    sizes = []
    for axis in (0, 1):
        extent = (kernel[axis] - 1) * dilation[axis] + 1
        room = data.shape[2 + axis] + padding[axis] + padding[axis + 2] - extent
        sizes.append((room + _ceil_rows(strides[axis], ceil_mode)) // strides[axis] + 1)
    return sizes
