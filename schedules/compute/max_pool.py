"""The largest element of each window, in any layout and of any float type."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import te, tirx, topi

from athanor.schedules.compute.pool2d import LARGEST


def max_pool(
    data: te.Tensor,
    axes: Sequence[int],
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> te.Tensor:
    """Windows over `axes`: (size + padding - reach) / stride + 1 of them, rounded up by ceil_mode.

    padding: before each axis, then behind each; it never wins, and a window of -inf gives that,
    which TVM's own pooling does not.
    """
    count = len(axes)
    before, behind = [0] * data.ndim, [0] * data.ndim
    for place, axis in enumerate(axes):
        before[axis] = padding[place]
        behind[axis] = padding[count + place] + (strides[place] - 1 if ceil_mode else 0)
    if any(before) or any(behind):
        data = topi.nn.pad(data, before, behind, pad_value=tirx.const(-math.inf, data.dtype))
    taps = [te.reduce_axis((0, length), "k") for length in kernel]
    shape = list(data.shape)
    for axis, length, stride, step in zip(axes, kernel, strides, dilation, strict=True):
        shape[axis] = tirx.floordiv(shape[axis] - (length - 1) * step - 1, stride) + 1

    def element(*i: tirx.Expr) -> tirx.Expr:
        index = list(i)
        for axis, tap, stride, step in zip(axes, taps, strides, dilation, strict=True):
            index[axis] = i[axis] * stride + tap * step
        return LARGEST(data(*index), axis=taps)

    return te.compute(shape, element, name="max_pool")
