"""CPU schedule of convolutions on channel-blocked data."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d import WINDOW
from athanor.schedules.conv_shape import ConvShape, read_shape, split_convolution
from athanor.schedules.conv_tasks import Tiling, decide_tiling
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_elementwise import schedule_spatial
from athanor.targets.prefetch_weights import REDUCTION, SPATIAL
from athanor.targets.target import TargetSpec

UNROLLED = 64
"""Vector multiply-adds in the body of the innermost loop: it stays in the micro-op cache."""
UNROLLED_TAPS = 128
"""The same where taps are unrolled: 3 rows of 3 channels with 12 sums."""

LoopRV = s_tir.schedule.LoopRV
SBlockRV = s_tir.schedule.SBlockRV


class CPUConv2d:
    """A register tile of pixels x channels, accumulated over all taps, finished where it lies.

        for image, row band, channel chunk in parallel(...):   # or channel chunk, row band
            pad = input rows of the band with zeros around      # where the convolution pads
            for channel tile, row, pixel tile:
                acc[pixels, channels] = 0                       # registers
                for input block, kh, kw, input channel: # taps that meet more than padding
                    for pixel (unrolled): acc[pixel, :] += pad[pixel] * weight[:]
                out[pixels, channels] = epilogue(acc)           # bias, residual, activation, ...

    Pixels of a tile lie in one row, or in consecutive rows taken as one line ("flat") where that
    fills tiles better: a 7x7 map is 49 = 9 * 5 + 4 pixels. The weights of a channel tile stream
    from the L2 cache once for each pixel tile; the tile is wide enough for that to be a third of
    what L2 delivers. Every address of the inner loops steps by whole cache lines one after the
    other, so no power-of-two stride thrashes a set of L1.

    Matches: one block of KIND "conv2d" (`compute.conv2d.conv2d_blocked`), its padding, and spatial
    blocks behind it that end in one output; batch, height and width may be symbolic.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        parts = split_convolution(sch, "conv2d")
        if parts is None:
            return None
        conv, pad, last = parts.product, parts.pad, parts.last
        if parts.rest is not None:
            schedule_rest(sch, parts.rest, target)
        shape = read_shape(sch, conv, pad)
        tiling = decide_tiling(sch, shape, target)
        if tiling.flat:
            _make_flat(sch, conv, last, shape, tiling)
        channel_loops, tile_loops, pixel_loops = _tile_output(sch, last, shape, tiling, target)
        tile = tile_loops[-1]
        # Not scope "local": TVM takes that from the workspace, and then LLVM keeps dead stores.
        sch.compute_at(conv, tile, preserve_unit_loops=True)
        if pad is not None:
            sch.compute_at(pad, channel_loops[-1], preserve_unit_loops=True)
            schedule_padding(sch, pad, shape, target)
        steps = _tile_reduction(sch, conv, tiling, shape, target)
        _prefetch_weights(sch, conv, tile_loops, steps, shape, tiling, target)
        for loop in pixel_loops[:-1]:
            sch.unroll(loop)
        sch.vectorize(pixel_loops[-1])
        task = sch.fuse(*channel_loops)
        if tiling.parallel:
            sch.parallel(task)
        init = sch.decompose_reduction(conv, steps[0])
        *outer, lane = sch.get_loops(init)
        sch.vectorize(lane)
        for loop in outer[-(3 if tiling.flat else 4) :]:
            sch.unroll(loop)
        return sch


def schedule_rest(sch: s_tir.Schedule, block: SBlockRV, target: TargetSpec) -> None:
    """A spatial block that could not be part of the tile gets loops of its own."""
    sizes = blocks.extents(sch, block)
    if None not in sizes:
        schedule_spatial(sch, block, target)
        return
    # Symbolic rows and columns stay apart: TVM fails to bound quotients of a fused symbolic loop.
    loops = sch.get_loops(block)
    if len(loops) > 2 and sizes[-1] == target.channel_block:
        sch.vectorize(loops[-1])
    known = next((i for i, size in enumerate(sizes) if i and size is None), len(sizes) - 1)
    sch.parallel(sch.fuse(*loops[:known]) if known > 1 else loops[0])


def schedule_padding(
    sch: s_tir.Schedule, pad: SBlockRV, shape: ConvShape, target: TargetSpec
) -> None:
    """Copy whole vectors, or whole rows where the channels of a pixel are no vector."""
    *_, column, lane = sch.get_loops(pad)
    if shape.in_block >= target.lanes(32):
        sch.vectorize(lane)
    else:
        sch.annotate(column, "pragma_loop_partition_hint", 1)


def _make_flat(
    sch: s_tir.Schedule, conv: SBlockRV, last: SBlockRV, shape: ConvShape, tiling: Tiling
) -> None:
    """(oh, ow) of the product and of what stores it -> (band, pixel in band)."""
    if shape.windows is not None:
        sch.unannotate(conv, WINDOW)  # a tile is of several rows
    rows, width = tiling.rows, shape.out_width
    assert rows is not None and width is not None, "symbolic maps are tiled by rows"

    def bands(oh: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        return oh // rows, oh % rows

    def line(row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        return row * width + column

    # In two steps: TVM simplifies what each does to the storing block's reads, not both at once.
    sch.transform_block_layout(
        conv, lambda n, o, h, w, i, rc, kh, kw, ri: (n, o, *bands(h), w, i, rc, kh, kw, ri)
    )
    sch.transform_layout(conv, ("write", 0), lambda n, o, h, w, i: (n, o, *bands(h), w, i))
    sch.transform_block_layout(last, lambda n, o, h, w, i: (n, o, *bands(h), w, i))
    sch.transform_block_layout(
        conv, lambda n, o, b, h, w, i, rc, kh, kw, ri: (n, o, b, line(h, w), i, rc, kh, kw, ri)
    )
    sch.transform_layout(conv, ("write", 0), lambda n, o, b, h, w, i: (n, o, b, line(h, w), i))
    sch.transform_block_layout(last, lambda n, o, b, h, w, i: (n, o, b, line(h, w), i))


def _tile_output(
    sch: s_tir.Schedule, last: SBlockRV, shape: ConvShape, tiling: Tiling, target: TargetSpec
) -> tuple[list[LoopRV], list[LoopRV], list[LoopRV]]:
    """Loops of the storing block -> loops over tasks, over tiles of the same weights, of a tile."""
    image, channel, row, column, inner = sch.get_loops(last)
    lanes = min(target.lanes(32), shape.out_block)
    per_block = shape.out_block // lanes
    vectors = tiling.tile.vectors
    part, vector, lane = sch.split(inner, [None, min(vectors, per_block), lanes])
    wide = max(1, vectors // per_block)
    group, channel_tile, channel = sch.split(channel, [None, tiling.chunk, wide])
    if tiling.flat:
        band, tile, pixel = row, *sch.split(column, [None, tiling.tile.pixels])
        tiles = [part, tile]
    else:
        band, row = sch.split(row, [None, tiling.rows])
        tile, pixel = sch.split(column, [None, tiling.tile.pixels])
        tiles = [part, row, tile]
    tasks = [image, group, band] if tiling.groups_first else [image, band, group]
    sch.reorder(*tasks, channel_tile, *tiles, pixel, channel, vector, lane)
    sch.annotate(tile, "pragma_loop_partition_hint", 1)
    return tasks, tiles, [pixel, channel, vector, lane]


def _tile_reduction(
    sch: s_tir.Schedule, conv: SBlockRV, tiling: Tiling, shape: ConvShape, target: TargetSpec
) -> list[LoopRV]:
    """Order the product's loops within one tile; those of the reduction that are not unrolled."""
    *_, image, channel, row, pixel, inner, rc, kh, kw, ri = sch.get_loops(conv)
    lanes = min(target.lanes(32), shape.out_block)
    vector, lane = sch.split(inner, [None, lanes])
    adds = tiling.tile.pixels * tiling.tile.vectors
    length = shape.depth if shape.depth > 1 else shape.steps
    factors = [d for d in divisors(length) if d <= 16]
    wanted = max(d for d in factors if d == 1 or d * adds <= UNROLLED)
    factor = decide(sch, "unrolled steps", factors, wanted)
    inside, step = sch.split(ri if shape.depth > 1 else rc, [None, factor])
    if shape.depth > 1:
        order = [rc, kh, kw, inside]
    else:
        # Few input channels, all of a pixel apart, as an image has. Unrolled taps of a row read
        # the same pixels again, and LLVM would rather spill those than load them twice; so they
        # go outside, and a body that is large enough keeps LLVM from unrolling them itself.
        order = [kw, inside, ri, kh]
        small = shape.kernel[0] * factor * adds <= UNROLLED_TAPS
        if decide(sch, "unrolled kernel rows", (0, 1), int(small)):
            sch.unroll(kh)
    sch.reorder(image, row, *order, step, pixel, channel, vector, lane)
    for loop in (step, pixel, channel, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    return order


def _prefetch_weights(
    sch: s_tir.Schedule,
    conv: SBlockRV,
    tiles: list[LoopRV],
    steps: list[LoopRV],
    shape: ConvShape,
    tiling: Tiling,
    target: TargetSpec,
) -> None:
    """Let weights that L2 does not hold come while the channel tile before them is at work."""
    block_elements = shape.taps * shape.out_block
    fits = shape.out_blocks * block_elements * 4 <= target.l2_bytes // 2
    if fits or shape.depth == 1 or shape.out_height is None or shape.out_width is None:
        return
    per_block = max(1, shape.out_block // target.lanes(32))
    blocks_together = max(1, tiling.tile.vectors // per_block)
    for loop in tiles:
        sch.annotate(loop, SPATIAL, 1)
    weights = sch.get(conv).reads[-1].source.name
    for loop in steps:
        sch.annotate(loop, REDUCTION, [weights, blocks_together * block_elements])
