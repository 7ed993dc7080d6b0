"""CPU schedule of convolutions by Winograd's minimal filtering."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d import PAD_KIND
from athanor.schedules.compute.winograd import DILATION, PRODUCT_KIND
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import UNROLLED, schedule_rest
from athanor.schedules.winograd_tasks import (
    WinogradShape,
    WinogradTiling,
    decide_winograd_tiling,
)
from athanor.targets.target import TargetSpec

LoopRV = s_tir.schedule.LoopRV
SBlockRV = s_tir.schedule.SBlockRV


class CPUWinograd:
    """Transform a chunk of tiles, multiply, transform back and finish, while it lies in L2.

        for image, chunk of tiles in parallel(...):            # or whole images, see below
            for input block, tile:                             # data -> data_tiles
                data_tiles[x, y] = transform(pad[tile])
            for channel group:
                for x, y, register tile:                       # points: n x n products
                    for input channel:
                        acc[tiles, channels] += data_tiles[x, y] * weight[x, y]
                for tile:
                    out[tile] = epilogue(transform back(product[:, :]))

    Where an image has few tiles, a chunk is not enough work for the weights that stream past it:
    then the data of all images is transformed first, by parallel tasks of input blocks, and
    chunks and channel groups together are the tasks of what follows. The pixels of a dilated
    convolution's tiles interleave, and are put in order, with the epilogue, by a pass behind.

    Matches: one block of KIND PRODUCT_KIND (`compute.winograd.winograd_conv2d_blocked`) with its
    transforms, and spatial blocks behind it that end in one output; batch may be symbolic.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        parts = _find_parts(sch)
        if parts is None:
            return None
        shape = _read_shape(sch, parts)
        tiling = decide_winograd_tiling(sch, shape, target)

        # The anchor: output tiles, in chunks of tiles and groups of channel blocks.
        image, channel, row, column, lane = sch.get_loops(parts.whole)
        row, in_row = sch.split(row, [None, shape.tile])
        column, in_column = sch.split(column, [None, shape.tile])
        chunk_row, row = sch.split(row, [None, tiling.chunk_h])
        chunk_column, column = sch.split(column, [None, tiling.chunk_w])
        group, channel = sch.split(channel, [None, tiling.blocks])
        sch.reorder(
            image, chunk_row, chunk_column, group, channel, row, column, in_row, in_column, lane
        )
        sch.compute_at(parts.rows, column, preserve_unit_loops=True)
        if parts.last is not None:
            sch.reverse_compute_at(parts.last, column, preserve_unit_loops=True)
            _unroll_lanes(sch, sch.get_loops(parts.last)[-3:])
        _unroll_lanes(sch, [in_row, in_column, lane])
        _unroll_lanes(sch, sch.get_loops(parts.rows)[-3:])

        store = sch.cache_write(parts.product, 0, "global")
        sch.compute_at(store, group, preserve_unit_loops=True)
        reduction = _schedule_product(sch, parts.product, store, shape, tiling, target)
        chunks = [image, chunk_row, chunk_column]
        if tiling.whole:
            _schedule_data(sch, parts, None)
            sch.parallel(sch.fuse(*chunks, group))
        else:
            _schedule_data(sch, parts, chunk_column)
            sch.parallel(sch.fuse(*chunks))
        if parts.rest is not None:
            schedule_rest(sch, parts.rest, target)
        init = sch.decompose_reduction(parts.product, reduction)
        _unroll_lanes(sch, sch.get_loops(init)[-5:])
        return sch


@dataclass(frozen=True)
class WinogradBlocks:
    """The blocks of a prim_func, in the order of the data."""

    pad: SBlockRV | None
    columns: SBlockRV
    tiles: SBlockRV
    product: SBlockRV
    rows: SBlockRV
    whole: SBlockRV
    last: SBlockRV | None
    """What stores output pixels, one for one, with whatever was inlined into it."""
    rest: SBlockRV | None
    """A spatial block behind that reads them in another order."""


def _find_parts(sch: s_tir.Schedule) -> WinogradBlocks | None:
    leaves = blocks.leaf_blocks(sch)
    if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
        return None
    found = blocks.find_kind(sch, PRODUCT_KIND)
    if found is None:
        return None
    product = found[0]
    tiles = sch.get_producers(product)[0]
    columns = sch.get_producers(tiles)[0]
    padding = blocks.find_kind(sch, PAD_KIND)
    rows = sch.get_consumers(product)[0]
    whole = sch.get_consumers(rows)[0]
    pad = padding[0] if padding else None
    known = [sch.get(b).name_hint for b in (pad, columns, tiles, product, rows, whole) if b]
    left = blocks.inline_spatial(
        sch, [block for block in leaves if sch.get(block).name_hint not in known]
    )
    if len(left) != 1 or not blocks.is_spatial(sch, left[0]):
        return None
    made, stored = (
        [blocks.constant(dim) for dim in sch.get(block).writes[0].source.shape]
        for block in (whole, left[0])
    )
    fits = len(stored) == 5 and [made[1], made[4]] == [stored[1], stored[4]]
    # Tiles of a dilated convolution interleave: what stores their pixels in order comes after.
    fits = fits and int(sch.get(product).annotations[DILATION]) == 1
    last, rest = (left[0], None) if fits else (None, left[0])
    return WinogradBlocks(pad, columns, tiles, product, rows, whole, last, rest)


def _read_shape(sch: s_tir.Schedule, parts: WinogradBlocks) -> WinogradShape:
    axes = sch.get(parts.product).iter_vars
    batch, out_blocks, count, _, tiles_h, tiles_w, out_block, steps, depth = (
        blocks.constant(axis.dom.extent) for axis in axes
    )
    *_, tile, _, _ = blocks.extents(sch, parts.rows)
    in_blocks = blocks.constant(sch.get(parts.tiles).writes[0].source.shape[3])
    assert out_blocks and count and tiles_h and tiles_w and out_block and steps and depth
    assert tile and in_blocks, "only the batch may be symbolic"
    return WinogradShape(
        batch, in_blocks, steps * depth, out_blocks, out_block, tiles_h, tiles_w, tile, count
    )


def _schedule_product(
    sch: s_tir.Schedule,
    product: SBlockRV,
    store: SBlockRV,
    shape: WinogradShape,
    tiling: WinogradTiling,
    target: TargetSpec,
) -> LoopRV:
    """Register tiles of tiles x channels, for one point of the transform after another.

    Returns the outermost loop of the sum.
    """
    lanes = min(target.lanes(32), shape.block)
    per_block = shape.block // lanes
    *_, channel, x, y, row, column, inner = sch.get_loops(store)
    part, vector, lane = sch.split(inner, [None, min(tiling.vectors, per_block), lanes])
    row, tile_row = sch.split(row, [None, tiling.tile_h])
    column, tile_column = sch.split(column, [None, tiling.tile_w])
    together = max(1, tiling.vectors // per_block)
    channel, tile_channel = sch.split(channel, [None, together])
    sch.reorder(x, y, channel, part, row, column, tile_row, tile_column, tile_channel, vector, lane)
    sch.compute_at(product, column, preserve_unit_loops=True)
    _unroll_lanes(sch, [tile_row, tile_column, tile_channel, vector, lane])
    *_, n, o, px, py, pixel_row, pixel, inner, rc, ri = sch.get_loops(product)
    vector, lane = sch.split(inner, [None, lanes])
    sums = tiling.tile_h * tiling.tile_w * tiling.vectors
    factors = [d for d in divisors(blocks.extents(sch, product)[-1] or 1) if d <= UNROLLED]
    wanted = max(d for d in factors if d == 1 or d * sums <= UNROLLED)
    inside, step = sch.split(ri, [None, decide(sch, "unrolled steps", factors, wanted)])
    sch.reorder(n, px, py, rc, inside, step, pixel_row, pixel, o, vector, lane)
    _unroll_lanes(sch, [step, pixel_row, pixel, o, vector, lane])
    return rc


def _schedule_data(sch: s_tir.Schedule, parts: WinogradBlocks, chunk: LoopRV | None) -> None:
    """Transform the input's tiles: those of a chunk, or all of them by tasks of their own."""
    if chunk is not None:
        sch.compute_at(parts.tiles, chunk, preserve_unit_loops=True)
    x, y, image, channel, row, column, lane = sch.get_loops(parts.tiles)[-7:]
    sch.reorder(image, channel, row, column, x, y, lane)
    sch.compute_at(parts.columns, column, preserve_unit_loops=True)
    if parts.pad is not None:
        sch.compute_at(parts.pad, channel, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(parts.pad)[-1])
    _unroll_lanes(sch, sch.get_loops(parts.columns)[-3:])
    _unroll_lanes(sch, [x, y, lane])
    if chunk is None:
        sch.parallel(sch.fuse(image, channel))


def _unroll_lanes(sch: s_tir.Schedule, loops: list[LoopRV]) -> None:
    """Unroll all but the last, which becomes a vector."""
    for loop in loops[:-1]:
        sch.unroll(loop)
    sch.vectorize(loops[-1])
