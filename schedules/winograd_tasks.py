"""How a Winograd convolution is cut into tasks and tiles, and when it beats the direct method."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir

from athanor.schedules.compute.winograd import winograd_out_size, winograd_tiles
from athanor.schedules.decisions import decide, nearest
from athanor.schedules.register_tile import divisors, most_pixels, step_cycles
from athanor.targets.target import TargetSpec

TILES = {3: (2, 4), 5: (2,)}
"""Output tiles by kernel size. All need 4 or 6 points: more would cost float32 its accuracy."""
FAR_BYTES_PER_CYCLE = 12
"""What a long stream from the L3 cache delivers beside arithmetic."""
MEMORY_BYTES_PER_CYCLE = 5
"""The same from memory, where the weights of a whole model come from: 20 GB/s at 4 GHz."""
OVERLAP = 0.65
"""Share of the shorter of arithmetic and streams that hides behind the longer."""
TILE_CYCLES = 12
"""To begin, end and store one register tile."""
MOVE_CYCLES = 4
"""To transform one vector of one point, with its loads and stores."""
WORTH = 0.9
"""Time against the direct method from which the larger weight is worth it."""
DIRECT_EFFICIENCY = 0.92
"""Of the multiply-add rate, reached by the direct method."""
MOST_WEIGHT_BYTES = 64 << 20
"""A transformed weight beyond this is not worth its size in the artifact."""


@dataclass(frozen=True)
class WinogradShape:
    """Sizes of F(tile x tile, ...) on blocked data; batch None where it is symbolic."""

    batch: int | None
    in_blocks: int
    depth: int
    """Input channels that an output channel sums over."""
    out_blocks: int
    block: int
    """Channels of a block."""
    tiles_h: int
    tiles_w: int
    tile: int
    """Outputs of a tile along an axis."""
    points: int
    """Inputs, and products, of a tile along an axis."""

    @property
    def weight_bytes(self) -> int:
        """Of the whole transformed weight."""
        return self.points**2 * self.depth * self.out_blocks * self.block * 4


@dataclass(frozen=True)
class WinogradTiling:
    """How a convolution is cut."""

    chunk_h: int
    chunk_w: int
    """Tiles of one task."""
    blocks: int
    """Output channel blocks whose products are held at once."""
    tile_h: int
    tile_w: int
    """Tiles of one register tile."""
    vectors: int
    """Vectors of output channels of one register tile."""
    whole: bool
    """Whether all data is transformed before the first product."""
    cycles: float
    """Of the whole convolution, by the model: half for one core, half for all of them."""


def winograd_tile(
    in_size: tuple[int, int],
    padding: tuple[int, int, int, int],
    taps: int,
    in_blocks: int,
    depth: int,
    out_blocks: int,
    target: TargetSpec,
    dilation: int = 1,
    block: int = 16,
    limit: float = math.inf,
    share: float = 1.0,
) -> int | None:
    """Output tile for one image of a taps x taps convolution; None: the direct method is faster.

    in_size: of the input without padding (top, left, bottom, right); depth: input channels that an
    output channel sums over; limit: cycles of another method yet; share: of the products, what the
    direct method computes.
    """
    height, width = winograd_out_size(in_size, padding, taps, dilation)
    if min(height, width) < 1:
        return None
    lanes = target.lanes(32)
    steps = share * height * width * taps * taps * depth * out_blocks * block / lanes
    arithmetic = steps / target.fma_pipes / DIRECT_EFFICIENCY
    stream = taps * taps * depth * out_blocks * block * 4 / MEMORY_BYTES_PER_CYCLE
    best, chosen = min(limit, WORTH * _together(arithmetic, stream)), None
    for tile, shape in _shapes(
        (height, width), taps, in_blocks, depth, out_blocks, dilation, block
    ).items():
        cycles = choose_winograd_tiling(shape, target).cycles
        if dilation > 1:  # its pixels are put in order by a pass of their own
            cycles += 2 * MOVE_CYCLES * height * width * out_blocks * block / lanes
        if cycles < best:
            best, chosen = cycles, tile
    return chosen


def winograd_tiles_of(
    in_size: tuple[int, int],
    padding: tuple[int, int, int, int],
    taps: int,
    in_blocks: int,
    depth: int,
    out_blocks: int,
    _target: TargetSpec,
    dilation: int = 1,
    block: int = 16,
) -> tuple[int, ...]:
    """Output tiles that are possible; arguments as those of `winograd_tile`."""
    size = winograd_out_size(in_size, padding, taps, dilation)
    if min(size) < 1:
        return ()
    return tuple(_shapes(size, taps, in_blocks, depth, out_blocks, dilation, block))


def _shapes(
    size: tuple[int, int],
    taps: int,
    in_blocks: int,
    depth: int,
    out_blocks: int,
    dilation: int,
    block: int,
) -> dict[int, WinogradShape]:
    """The shape for each output tile whose weight is worth its size in the artifact."""
    height, width = size
    found = {}
    for tile in TILES.get(taps, ()):
        shape = WinogradShape(
            1, in_blocks, depth, out_blocks, block, winograd_tiles(height, tile, dilation),
            winograd_tiles(width, tile, dilation), tile, tile + taps - 1,
        )  # fmt: skip
        if shape.weight_bytes <= MOST_WEIGHT_BYTES:
            found[tile] = shape
    return found


def decide_winograd_tiling(
    sch: s_tir.Schedule, shape: WinogradShape, target: TargetSpec
) -> WinogradTiling:
    """The tiling as it is decided: the cheapest by the model, or what a tuner wants."""
    model = choose_winograd_tiling(shape, target)
    high = decide(sch, "chunk rows", divisors(shape.tiles_h), model.chunk_h)
    wide = decide(sch, "chunk columns", divisors(shape.tiles_w), model.chunk_w)
    whole = bool(
        decide(sch, "whole", (0, 1) if shape.batch is not None else (0,), int(model.whole))
    )
    best = model
    if (high, wide, whole) != (model.chunk_h, model.chunk_w, model.whole):
        best = _tiling(shape, high, wide, whole, target)
    counts = _vector_counts(shape, target)
    vectors = decide(sch, "vectors", counts, best.vectors)
    most = most_pixels(vectors, target)
    columns = [d for d in divisors(wide) if d <= most]
    tile_w = decide(sch, "tile columns", columns, nearest(columns, best.tile_w))
    rows = [d for d in divisors(high) if d * tile_w <= most]
    tile_h = decide(sch, "tile rows", rows, nearest(rows, best.tile_h))
    together = max(1, vectors // max(1, shape.block // target.lanes(32)))
    groups = [d for d in divisors(shape.out_blocks) if d % together == 0]
    grouped = decide(sch, "channel blocks", groups, nearest(groups, best.blocks))
    return WinogradTiling(high, wide, grouped, tile_h, tile_w, vectors, whole, best.cycles)


def choose_winograd_tiling(shape: WinogradShape, target: TargetSpec) -> WinogradTiling:
    """The cheapest tiling by the model."""
    options = [
        _tiling(shape, high, wide, whole, target)
        for wide in divisors(shape.tiles_w)
        for high in divisors(shape.tiles_h)
        for whole in ((False, True) if shape.batch is not None else (False,))
        if high == 1 or wide == shape.tiles_w
    ]
    return min(options, key=lambda option: option.cycles)


def _together(arithmetic: float, stream: float) -> float:
    return max(arithmetic, stream) + (1 - OVERLAP) * min(arithmetic, stream)


def _tiling(
    shape: WinogradShape, high: int, wide: int, whole: bool, target: TargetSpec
) -> WinogradTiling:
    square = shape.points**2
    tiles = high * wide
    chunks = (shape.batch or 1) * (shape.tiles_h // high) * (shape.tiles_w // wide)
    vectors, tile_h, tile_w, step = _register_tile(shape, high, wide, target)
    per_block = max(1, shape.block // target.lanes(32))
    grouped = max(1, vectors // per_block)
    groups = shape.out_blocks // grouped

    passes = groups * max(1, per_block // vectors) * tiles // (tile_h * tile_w)
    arithmetic = chunks * square * passes * (step * shape.depth + TILE_CYCLES)
    moved = (shape.in_blocks + shape.out_blocks) * shape.block / target.lanes(32)
    arithmetic += chunks * tiles * square * moved * MOVE_CYCLES

    # What passes by from beyond the L2 cache: weights once for each chunk, first from memory; the
    # transformed data once for each channel group; products there and back.
    half = target.l2_bytes // 2
    stream = shape.weight_bytes / MEMORY_BYTES_PER_CYCLE
    if shape.weight_bytes > half:
        stream += (chunks - 1) * shape.weight_bytes / FAR_BYTES_PER_CYCLE
    one_block = square * tiles * shape.block * 4
    data = shape.in_blocks * one_block * (chunks if whole else 1)
    if data + grouped * one_block > half:
        stream += data * (1 if whole else chunks) * groups / FAR_BYTES_PER_CYCLE
    if grouped * one_block > half:
        stream += 2 * chunks * shape.out_blocks * one_block / FAR_BYTES_PER_CYCLE

    tasks = chunks * groups if whole else chunks
    rounds = math.ceil(tasks / target.cores)
    cycles = _together(arithmetic, stream) * (1 + rounds * target.cores / tasks) / 2
    return WinogradTiling(high, wide, grouped, tile_h, tile_w, vectors, whole, cycles)


def _register_tile(
    shape: WinogradShape, high: int, wide: int, target: TargetSpec
) -> tuple[int, int, int, float]:
    """(vectors, tiles down, tiles across, cycles of a step) that take a chunk in least cycles."""
    options = []
    for vectors in _vector_counts(shape, target):
        most = most_pixels(vectors, target)
        for tile_w in divisors(wide):
            for tile_h in divisors(high) if tile_w == wide else (1,):
                if tile_h * tile_w <= most:
                    step = step_cycles(tile_h * tile_w, vectors, shape.depth, target)
                    options.append((vectors, tile_h, tile_w, step))
    return min(options, key=lambda o: (o[3] / (o[0] * o[1] * o[2]), -o[1] * o[2]))


def _vector_counts(shape: WinogradShape, target: TargetSpec) -> list[int]:
    """Vectors of output channels that a register tile may have."""
    per_block = max(1, shape.block // target.lanes(32))
    counts = divisors(per_block)
    return counts + [n * per_block for n in range(2, 5) if shape.out_blocks % n == 0]
