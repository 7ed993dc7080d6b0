"""Tiles of convolutions in NCHW: channels x columns, and when they beat blocked layouts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from athanor.schedules.register_tile import best_pixels, most_pixels
from athanor.targets.target import TargetSpec

PACK_BYTES_PER_CYCLE = 10
"""At which channels are put into blocks and taken out again, from and to the L2 cache."""
BLOCKED_EFFICIENCY = 0.95
"""Of blocked convolutions, over full blocks."""
DEAL_CYCLES = 0.5
"""To copy one element to where vectors of results read it, strides undone in registers."""
DEALT_EFFICIENCY = 0.95
"""Of products with such a copy, whose lines lie far from each other."""
PHASES_EFFICIENCY = 0.7
"""Of those that step from phase to phase where every weight needs an instruction to spread it."""
FAR_BYTES_PER_CYCLE = 16
"""What such a copy is written and read at beyond the L2 cache."""

TAP_CYCLES, BLOCKED_TAP_CYCLES = 1.8, 1.05
"""Of a window's tap for one vector: along rows, whose loads cross cache lines, and in blocks."""
SHARED_TAP_CYCLES, SHARED_PART_CYCLES = 1.25, 0.7
"""Along rows where rows of a tile share their loads: for a vector, and for half of one or less."""
COPY_CYCLES = 3
"""Of a vector of a row that gets a border; twice that where columns are dealt out to phases. None
of it where loads have masks."""
ROWS_UNROLLED = 5
"""Rows of taps up to which all are unrolled, so that rows share loads: more is a lot of code."""
WINDOW_UNROLLED = 16
"""Taps of a row, and phases of a stride, that a window along rows writes out."""
WINDOW_PACK_BYTES_PER_CYCLE = (20, 8)
"""At which whole images are put into blocks and taken out again: about the L2 cache, and past it.
These are of a Zen 4 processor, whose cycles for a vector others come near to."""


@dataclass(frozen=True)
class PlainTile:
    """What the registers hold, and the cycles of one reduction step over all channels and a row."""

    channels: int
    columns: int
    cycles: float


def tile_columns(width: int | None, target: TargetSpec) -> list[int]:
    """Columns that a tile may have: some vectors, or a part of one for rows shorter than that."""
    full = target.lanes(32)
    if width is not None and width < full:
        return [1 << (width.bit_length() - 1)]
    return [v * full for v in (1, 2, 4) if width is None or v * full <= width]


def tried_columns(width: int | None, target: TargetSpec) -> list[int]:
    """The same and half of a vector, as a tuner may try.

    It leaves less of a row's last tile to be computed twice, and its loads cross fewer cache lines.
    """
    found = tile_columns(width, target)
    half = target.lanes(32) // 2
    return [half, *found] if width is not None and half >= 8 and width > half else found


def plain_tile(
    channels: int | None, width: int | None, steps: int, target: TargetSpec
) -> PlainTile:
    """The fastest tile for that many channels and columns of a row (None: any).

    steps: of the reduction, and so the distance of one channel's weights from the next one's.
    """
    full = target.lanes(32)
    # Weights a multiple of 4 KiB apart meet in one set of the L1 cache, which has 8 lines or more.
    together = 8 * (4096 // math.gcd(4 * steps, 4096)) - 2
    tiles = []
    # One or two channels, as of a product of few rows: longer runs of each line of the input, lest
    # lines a multiple of 4 KiB apart meet in one set (1 x 1024 x 1024: 65 us rather than 92).
    wide = [v * full for v in (8, 16) if v * (channels or 16) <= 16 and v * full <= (width or 0)]
    for columns in [*tile_columns(width, target), *wide]:
        vectors = max(1, columns // full)
        if not most_pixels(vectors, target):
            continue
        tile = best_pixels(channels, vectors, 1, target, together)
        times = 1 / columns if width is None else -(-width // columns)
        tiles.append(PlainTile(tile.pixels, columns, tile.cycles * times))
    return min(tiles, key=lambda tile: (tile.cycles, -tile.columns))


@dataclass(frozen=True)
class PlainForm:
    """One way to convolve in NCHW, and its cycles less those that blocks take to pack and unpack.

    "rows": vectors along the rows of a padded copy; "columns": of a copy whose columns are dealt
    out by the stride; "taps": of a copy with the pixels of every tap, as one line.
    """

    name: str
    cycles: float


def plain_form(
    channels: tuple[int, int],
    image: tuple[int, int],
    result: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    groups: int,
    target: TargetSpec,
    padded: bool = True,
) -> PlainForm:
    """The fastest form of a convolution in NCHW.

    channels: of input and output; image and result: their rows and columns; stride: along columns;
    padded: whether there are zeros around the image.
    """
    inputs, outputs = channels
    taps, pixels = math.prod(kernel), math.prod(result)
    steps = inputs // groups * taps

    def product(rows: int, width: int) -> float:
        return groups * rows * steps * plain_tile(outputs // groups, width, steps, target).cycles

    forms = []
    if taps == 1 and image == result:
        forms.append(PlainForm("rows", product(1, pixels)))
    else:
        if stride == 1:
            copied = inputs * math.prod(image) * 8 / PACK_BYTES_PER_CYCLE if padded else 0.0
            forms.append(PlainForm("rows", product(*result) + copied))
        else:
            dealt = inputs * image[0] * result[1] * min(stride, kernel[1])
            efficiency = DEALT_EFFICIENCY if target.avx512 else PHASES_EFFICIENCY
            cycles = product(*result) / efficiency + dealt * DEAL_CYCLES
            forms.append(PlainForm("columns", cycles))
        dealt = inputs * taps * pixels
        far = max(0, 4 * dealt - target.l2_bytes // 2) * 2 / FAR_BYTES_PER_CYCLE
        cycles = product(1, pixels) / DEALT_EFFICIENCY + dealt * DEAL_CYCLES + far
        forms.append(PlainForm("taps", cycles))
    best = min(forms, key=lambda form: form.cycles)
    packed = inputs if inputs >= target.channel_block else 0
    moved = packed * math.prod(image) + outputs * pixels
    return PlainForm(best.name, best.cycles - moved * 8 / PACK_BYTES_PER_CYCLE)


def blocked_cycles(result: tuple[int, int], taps: int, products: int, target: TargetSpec) -> float:
    """Cycles of a direct convolution in blocks.

    products: of channels, for one tap and one element of the map, that blocks compute.
    """
    sums = products * taps * math.prod(result) / target.lanes(32)
    return sums / target.fma_pipes / BLOCKED_EFFICIENCY


def plain_window_cycles(
    channels: tuple[int, int],
    image: tuple[int, int],
    result: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    target: TargetSpec,
) -> float:
    """Cycles of pooling or a depthwise convolution along rows, less those of packing for blocks.

    channels: of input and output; image, result, kernel: rows and columns; stride: along the
    columns.
    """
    inputs, outputs = channels
    width, taps = result[1], math.prod(kernel)
    tiles = min(
        -(-width // tile) * max(1, tile // target.lanes(32)) for tile in tile_columns(width, target)
    )
    tap, copied = TAP_CYCLES, math.prod(image) / target.lanes(32) * COPY_CYCLES
    if stride > 1:
        copied *= 2
    elif target.avx512:
        copied = 0
        if kernel[0] <= ROWS_UNROLLED:
            tap = SHARED_PART_CYCLES if width < target.lanes(32) else SHARED_TAP_CYCLES
    plain = outputs * (result[0] * tiles * taps * tap + copied)
    moved = 4 * (inputs * math.prod(image) + outputs * math.prod(result))
    near, far = WINDOW_PACK_BYTES_PER_CYCLE
    return plain - 2 * moved / (near if moved <= 2 * target.l2_bytes else far)


def blocked_window_cycles(
    channels: int, result: tuple[int, int], taps: int, target: TargetSpec
) -> float:
    """Cycles of pooling or a depthwise convolution in blocks."""
    vectors = -(-channels // target.channel_block) * target.channel_block / target.lanes(32)
    return vectors * math.prod(result) * taps * BLOCKED_TAP_CYCLES
