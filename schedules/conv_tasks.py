"""How a convolution is cut into tasks and tiles: the model of the machine behind the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tvm import s_tir

from athanor.schedules.compute.conv2d import MOST_MET, met_share
from athanor.schedules.conv_shape import ConvShape
from athanor.schedules.decisions import decide, nearest
from athanor.schedules.register_tile import (
    RegisterTile,
    best_pixels,
    best_tile,
    divisors,
    line_cycles,
    most_pixels,
    vector_counts,
)
from athanor.targets.target import TargetSpec

PARALLEL_MACS = 1 << 17
"""Multiply-adds below which waking a second core costs more than it gives: some 3 us of AVX2."""
TASKS_PER_CORE = 4
"""So that no core waits long for the last task of another, and more cores find work too."""
FAR_BYTES_PER_CYCLE = 16
"""What comes from beyond the L2 cache in a long stream, beside the arithmetic that it waits for."""
TASK_CYCLES = 300
"""To begin one task."""
ROWS = (1, 2, 4, 8, 16, 32)
"""Rows of a band that a tuner may try."""
ROW_TILE_CYCLES, FLAT_TILE_CYCLES = 15, 40
"""To begin and end one tile; flat tiles compute an address for each pixel."""
POINTERS = 8
"""Pixel addresses that general registers hold beside loop counters."""


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut."""

    tile: RegisterTile
    flat: bool
    """Whether a tile's pixels are cut from the lines of a whole band rather than from one row."""
    rows: int
    """Of one band."""
    chunk: int
    """Channel tiles of one task."""
    parallel: bool
    groups_first: bool = False
    """Whether neighbouring tasks share the input of a band; else the weights of a chunk."""


def decide_tiling(sch: s_tir.Schedule, shape: ConvShape, target: TargetSpec) -> Tiling:
    """The tiling as it is decided: the cheapest by the model, or what a tuner wants."""
    wanted = choose_tiling(shape, target)
    height, width = shape.out_height, shape.out_width
    static = height is not None and width is not None
    ways = (0,) if not static else (0, 1) if shape.phases == 1 else (1,)
    flat = bool(decide(sch, "flat", ways, int(wanted.flat)))
    counts = vector_counts(shape.phase_blocks, shape.out_block, target)
    vectors = decide(sch, "vectors", counts, wanted.tile.vectors)
    length, bands = width, sorted({*ROWS, wanted.rows})
    if height is not None:
        bands = divisors(height) if flat else sorted({*_bands(height), wanted.rows})
    rows = decide(sch, "rows", bands, nearest(bands, wanted.rows))
    if flat and width is not None:
        length = rows * width
    most = most_pixels(vectors, target)
    sizes = range(1, min(most, length or most) + 1)
    same = flat == wanted.flat and vectors == wanted.tile.vectors
    best = wanted.tile if same else best_pixels(length, vectors, shape.taps, target)
    pixels = decide(sch, "pixels", sizes, nearest(sizes, best.pixels))
    tile = RegisterTile(pixels, vectors, best.cycles)
    chunks = divisors(_channel_tiles(shape, tile, target) // shape.phases)
    chunk = decide(sch, "channel tiles", chunks, nearest(chunks, wanted.chunk))
    first = bool(decide(sch, "channels first", (0, 1), 0))
    parallel = bool(decide(sch, "parallel", (0, 1), int(wanted.parallel)))
    return Tiling(tile, flat, rows, chunk, parallel, first)


def choose_tiling(shape: ConvShape, target: TargetSpec) -> Tiling:
    """The cheapest tiling by the model."""
    height, width = shape.out_height, shape.out_width
    if height is None or width is None:
        tile = best_tile(width, shape.phase_blocks, shape.out_block, shape.taps, target)
        rows = min(height, 8) if height else 8
        return Tiling(
            tile, False, rows, min(4, _channel_tiles(shape, tile, target) // shape.phases), True
        )
    options = [_flat_tiling(shape, rows, target) for rows in divisors(height)]
    if shape.phases == 1:
        options = [_row_tiling(shape, rows, target) for rows in _bands(height)] + options
    best = min((o for group in options for o in group), key=lambda option: option[0])
    return best[1]


def _bands(height: int) -> list[int]:
    """Heights of bands: divisors, or where there are few, heights whose last band is short."""
    exact = divisors(height)
    return exact if len(exact) > 2 or height < 8 else sorted({*exact, *ROWS[2:], height})


def _row_tiling(shape: ConvShape, rows: int, target: TargetSpec) -> list[tuple[float, Tiling]]:
    assert shape.out_width is not None
    tile = _row_tile(shape, target)
    tiles = math.ceil(shape.out_width / tile.pixels)
    cycles = tile.cycles * shape.taps + tiles * ROW_TILE_CYCLES
    return _with_tasks(shape, tile, False, rows, rows * cycles, target)


def _row_tile(shape: ConvShape, target: TargetSpec) -> RegisterTile:
    """The cheapest tile over a row; its cycles are those of the taps that meet elements."""
    width, height = shape.out_width, shape.out_height
    assert width is not None and height is not None
    sizes = (width, shape.phase_blocks, shape.out_block, shape.taps, target)
    if shape.windows is None:
        return best_tile(*sizes)
    windows, tiles = shape.windows, [best_tile(*sizes)]
    if met_share(windows, (height, width), 1) < MOST_MET:  # tiles may end where a tap begins
        for vectors in vector_counts(shape.phase_blocks, shape.out_block, target):
            for pixels in range(1, min(width, most_pixels(vectors, target)) + 1):
                cycles = line_cycles(width, pixels, vectors, shape.taps, target)
                tiles.append(RegisterTile(pixels, vectors, cycles))
    shares = {p: met_share(windows, (height, width), p) for p in {t.pixels for t in tiles}}
    less = [replace(tile, cycles=tile.cycles * shares[tile.pixels]) for tile in tiles]
    return min(less, key=lambda tile: tile.cycles / tile.vectors)


def _flat_tiling(shape: ConvShape, rows: int, target: TargetSpec) -> list[tuple[float, Tiling]]:
    assert shape.out_width is not None
    tile = best_tile(
        rows * shape.out_width, shape.phase_blocks, shape.out_block, shape.taps, target
    )
    tiles = math.ceil(rows * shape.out_width / tile.pixels)
    fixed = ROW_TILE_CYCLES if shape.linear else FLAT_TILE_CYCLES
    cycles = tile.cycles * shape.taps + tiles * fixed
    if not shape.linear and tile.pixels > POINTERS:
        cycles *= 1.2
    return _with_tasks(shape, tile, True, rows, cycles, target)


def _with_tasks(
    shape: ConvShape,
    tile: RegisterTile,
    flat: bool,
    rows: int,
    band_cycles: float,
    target: TargetSpec,
) -> list[tuple[float, Tiling]]:
    """Tilings of one band height by channel tiles a task, each with its cost in cycles.

    band_cycles: of one register tile's channels over one band.
    """
    assert shape.out_height is not None
    bands = math.ceil(shape.out_height / rows)
    tiles = _channel_tiles(shape, tile, target)
    # A tile of less than one block takes several to a block.
    band_cycles *= max(1, shape.out_block // target.lanes(32) // tile.vectors)
    images = shape.batch or 1
    macs = band_cycles * tiles * bands * images * 2 * target.lanes(32)
    parallel = macs > 2 * PARALLEL_MACS
    tile_bytes = tile.vectors * target.vector_bits // 8 * shape.taps
    found = []
    for chunk in divisors(tiles // shape.phases):
        tasks = images * bands * (tiles // chunk)
        cycles = band_cycles * chunk + _padding_cycles(shape, rows, target) + TASK_CYCLES
        if chunk * tile_bytes > target.l2_bytes // 2:  # every band fetches them anew
            cycles += chunk * tile_bytes / FAR_BYTES_PER_CYCLE
        if _band_bytes(shape, rows) > target.l2_bytes // 2:  # every channel tile fetches it anew
            cycles += chunk * _band_bytes(shape, rows) / FAR_BYTES_PER_CYCLE
        cost = tasks * cycles
        if parallel:
            # Half for one core, half for all: the core with most tasks ends last.
            rounds = math.ceil(tasks / target.cores)
            cost *= (1 + rounds * target.cores / tasks) / 2
            cost *= 1 + 0.02 * math.log2(max(1.0, TASKS_PER_CORE * target.cores / tasks))
        found.append((cost, Tiling(tile, flat, rows, chunk, parallel)))
    return found


def _channel_tiles(shape: ConvShape, tile: RegisterTile, target: TargetSpec) -> int:
    """Channel tiles that a task may be cut at: whole blocks."""
    per_block = max(1, shape.out_block // target.lanes(32))
    return shape.out_blocks // max(1, tile.vectors // per_block)


def _padding_cycles(shape: ConvShape, rows: int, target: TargetSpec) -> float:
    """To copy a band of the input: cycles a vector measured on Zen 3, within L2 and beyond."""
    if not shape.padded:
        return 0.0
    band_bytes = _band_bytes(shape, rows)
    slow = 3 if band_bytes <= target.l2_bytes // 2 else 6
    return band_bytes / 4 / target.lanes(32) * slow


def _band_bytes(shape: ConvShape, rows: int) -> int:
    """Of the input that a band of so many output rows reads; 0 where only the run tells."""
    if shape.in_height is None or shape.in_width is None or shape.out_height is None:
        return 0
    stride = max(1, (shape.in_height - shape.kernel[0]) // max(1, shape.out_height - 1))
    band = min(shape.in_height, (rows - 1) * stride + shape.kernel[0])
    return 4 * band * shape.in_width * shape.steps * shape.depth
