"""Convolutions of stride 1 by Winograd's minimal filtering, over channel-blocked data.

F(m x m, r x r) computes m x m outputs of an r x r kernel from (m + r - 1)^2 products for each pair
of channels instead of (m r)^2: transform tiles of the input and the kernel, multiply, transform
back. (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from tvm import te, tirx

from athanor.schedules.blocks import KIND, NOMINAL
from athanor.schedules.compute.conv2d import Conv2dPlan, Padding, pad_spatial

PRODUCT_KIND = "winograd_product"
"""KIND of the block that multiplies transformed tiles with the transformed weight."""
DILATION = "athanor.dilation"
"""Annotation of that block: the kernel's dilation."""
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2))
"""Where the polynomials are evaluated, beside infinity: with these, constants stay small."""

_TRANSFORM = {NOMINAL: [0, 1]}
"""A convolution does not ask for the transforms."""

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, r): y = output (m x n) [(weight (n x r) g) * (data (n x n) d)]."""

    data: Matrix
    weight: Matrix
    output: Matrix


def transforms(outputs: int, taps: int) -> Transforms:
    """The matrices of F(outputs, taps) by Cook and Toom, n = outputs + taps - 1 <= 6 points.

    A product of polynomials of n - 1 points and infinity, transposed: Lagrange's denominators go
    to the weight, so that data and output meet small integers.
    """
    count = outputs + taps - 1
    points = POINTS[: count - 1]
    assert len(points) == count - 1, f"F({outputs}, {taps}) needs {count - 1} points"
    weight, output, data = [], [], []
    for index, point in enumerate(points):
        others = [other for place, other in enumerate(points) if place != index]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        # Signs go where the data's row then begins with a positive constant.
        sign = 1 if scale > 0 else -1
        weight.append([point**power / (scale * sign) for power in range(taps)])
        data.append([sign * c for c in _expand(others)] + [Fraction(0)])
        output.append([point**power for power in range(outputs)])
    weight.append([Fraction(int(power == taps - 1)) for power in range(taps)])
    data.append(_expand(points))
    output.append([Fraction(int(power == outputs - 1)) for power in range(outputs)])
    return Transforms(_rows(data), _rows(weight), tuple(zip(*_rows(output), strict=True)))


def _expand(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of prod(x - root), lowest power first."""
    product = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *product]
        product = [
            high - root * low for high, low in zip(shifted, [*product, Fraction(0)], strict=True)
        ]
    return product


def _rows(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def pack_winograd_weight(weight: np.ndarray, plan: Conv2dPlan, tile: int) -> np.ndarray:
    """Weight OIHW -> (ceil(O / 16), n, n, reduction_steps, 16, 16), transformed in float64.

    The last axes are input channel and output channel; channels that are missing are zero.
    """
    out_channels, group_in, taps, _ = weight.shape
    matrix = np.array(transforms(tile, taps).weight, dtype=np.float64)
    count, blocks = len(matrix), -(-out_channels // plan.out_block)
    depth = plan.reduction_steps * plan.reduction_block
    full = np.zeros((blocks * plan.out_block, depth, count, count), np.float32)
    group_out = out_channels // plan.groups
    for channel in range(out_channels):
        start = plan.start(channel // plan.out_block)
        assert isinstance(start, int)
        first = channel // group_out * group_in - start * plan.reduction_block
        rows = weight[channel].astype(np.float64).reshape(-1, taps) @ matrix.T  # (I * r, n)
        square = matrix @ rows.reshape(group_in, taps, count).transpose(1, 0, 2).reshape(taps, -1)
        full[channel, first : first + group_in] = square.reshape(count, group_in, count).swapaxes(
            0, 1
        )
    split = full.reshape(blocks, plan.out_block, depth, count, count).transpose(0, 3, 4, 2, 1)
    shape = (blocks, count, count, plan.reduction_steps, plan.reduction_block, plan.out_block)
    return np.ascontiguousarray(split).reshape(shape)


def winograd_out_size(
    size: tuple[int, int], padding: Padding, taps: int, dilation: int
) -> tuple[int, int]:
    """Height and width of the result."""
    reach = (taps - 1) * dilation
    top, left, bottom, right = padding
    return size[0] + top + bottom - reach, size[1] + left + right - reach


def winograd_tiles(size: int, tile: int, dilation: int) -> int:
    """Tiles that cover an axis of the output, of all images of a dilated convolution."""
    return dilation * -(-(-(-size // dilation)) // tile)


def winograd_conv2d_blocked(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    plan: Conv2dPlan,
    tile: int,
    taps: int,
    padding: Padding = (0, 0, 0, 0),
    dilation: int = 1,
) -> te.Tensor:
    """Convolution of stride 1, taps x taps: data (N, IC / 16, H, W, 16), weight packed as above.

    Result: (N, ceil(OC / 16), OH, OW, 16). H and W are known, N may be symbolic. The plan reads
    whole blocks of input channels. padding: zeros at top, left, bottom, right. A dilated kernel
    meets every d-th pixel only: d x d images of those, each convolved without dilation; tile
    t is tile t // d of the image that begins at pixel t % d.
    """
    matrices = transforms(tile, taps)
    count = tile + taps - 1
    batch, in_blocks, height, width, in_block = data.shape
    out_blocks, _, _, steps, _, out_block = weight.shape
    top, left, *_ = padding
    out_h, out_w = winograd_out_size((int(height), int(width)), padding, taps, dilation)
    tiles_h, tiles_w = (winograd_tiles(size, tile, dilation) for size in (out_h, out_w))
    asked, done = plan.nominal
    nominal = [asked * out_h * out_w * taps * taps, done * count * count * tiles_h * tiles_w]
    below = tiles_h * tile + (taps - 1) * dilation - int(height) - top
    beside = tiles_w * tile + (taps - 1) * dilation - int(width) - left

    def pixel(t: tirx.Expr, place: int) -> tirx.Expr:
        """The input row or column of a place in tile t."""
        if dilation == 1:
            return t * tile + place
        return (t // dilation * tile + place) * dilation + t % dilation

    def line(pixel: tirx.Expr) -> tirx.Expr:
        """Where `whole` has an output row or column: tile after tile."""
        if dilation == 1:
            return pixel
        place = pixel // dilation
        return (place // tile * dilation + pixel % dilation) * tile + place % tile

    padded = pad_spatial(data, (top, left, below, beside), 0.0)
    columns = te.compute(
        (batch, in_blocks, tiles_h, tiles_w, count, count, in_block),
        lambda n, c, h, w, x, s, i: _combine(
            matrices.data, x, lambda r: padded[n, c, pixel(h, r), pixel(w, s), i]
        ),
        name="data_columns",
        attrs=_TRANSFORM,
    )
    transformed = te.compute(
        (count, count, batch, in_blocks, tiles_h, tiles_w, in_block),
        lambda x, y, n, c, h, w, i: _combine(
            matrices.data, y, lambda s: columns[n, c, h, w, x, s, i]
        ),
        name="data_tiles",
        attrs=_TRANSFORM,
    )
    rc = te.reduce_axis((0, steps), name="rc")
    ri = te.reduce_axis((0, plan.reduction_block), name="ri")
    product = te.compute(
        (batch, out_blocks, count, count, tiles_h, tiles_w, out_block),
        lambda n, o, x, y, h, w, i: te.sum(
            transformed[x, y, n, plan.start(o) + rc, h, w, ri] * weight[o, x, y, rc, ri, i],
            axis=[rc, ri],
        ),
        name="product",
        attrs={DILATION: dilation, KIND: PRODUCT_KIND, NOMINAL: nominal},
    )
    rows = te.compute(
        (batch, out_blocks, tiles_h, tiles_w, tile, count, out_block),
        lambda n, o, h, w, a, y, i: _combine(
            matrices.output, a, lambda x: product[n, o, x, y, h, w, i]
        ),
        name="output_columns",
        attrs=_TRANSFORM,
    )
    whole = te.compute(
        (batch, out_blocks, tiles_h * tile, tiles_w * tile, out_block),
        lambda n, o, h, w, i: _combine(
            matrices.output, w % tile, lambda y: rows[n, o, h // tile, w // tile, h % tile, y, i]
        ),
        name="output_tiles",
        attrs=_TRANSFORM,
    )
    return te.compute(
        (batch, out_blocks, out_h, out_w, out_block),
        lambda n, o, h, w, i: whole[n, o, line(h), line(w), i],
        name="conv2d",
    )


def _combine(matrix: Matrix, row: tirx.Expr, element: Callable[[int], tirx.Expr]) -> tirx.Expr:
    """sum(matrix[row][k] * element(k)); once loops are unrolled, `row` is a number and picks one.

    Even and odd terms are added apart: the rows of two opposite points share both sums.
    """

    def term(constants: Sequence[Fraction], parity: int) -> tirx.Expr | None:
        total = None
        for index in range(parity, len(constants), 2):
            if constants[index]:
                value = element(index)
                if constants[index] != 1:
                    value = value * tirx.const(float(constants[index]), "float32")
                total = value if total is None else total + value
        return total

    def line(constants: Sequence[Fraction]) -> tirx.Expr:
        first_odd = next((c for c in constants[1::2] if c), Fraction(1))
        flip = first_odd < 0
        odd = term([-c if flip else c for c in constants], 1)
        even = term(constants, 0)
        if even is None or odd is None:
            single = even if odd is None else odd
            assert single is not None, "a row of zeros"
            return single if odd is None or not flip else -single
        return even - odd if flip else even + odd

    value = line(matrix[-1])
    for index in range(len(matrix) - 2, -1, -1):
        value = tirx.if_then_else(row == index, line(matrix[index]), value)
    return value
