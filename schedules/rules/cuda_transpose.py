"""GPU schedule of prim_funcs that read along one axis and write along another."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import access, blocks
from athanor.schedules.decisions import decide
from athanor.schedules.device_threads import bits
from athanor.schedules.linear import flat_address
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV

_TILE = 32
"""Rows and columns of a tile: a warp reads a row of it, and writes a column."""
_ROWS = (4, 8, 16)
"""Warps of a block; by themselves 8, which take four turns at a tile."""
_WORTH = 16
"""Length of both axes from which whole lines pay for the way through shared memory."""


class CUDATranspose:
    """Tiles through shared memory, so that loads and stores both are of whole lines.

        for other axes, tiles in blockIdx.x:
            tile[32][32 + 1] in shared memory: rows along what is read
            store: rows along what is written

    A row of the tile has one element more, so that a column lies in different banks.

    Matches: one spatial block that stores along its last axis, and one operand of four bytes or
    less that is read along another one; what else it reads is read along the last one or not at
    all along both. Declines (None): anything else, conditions, symbolic sizes, short axes.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or not all(blocks.is_spatial(sch, block) for block in leaves):
            return None
        left = blocks.inline_spatial(sch, leaves)
        if len(left) != 1 or None in blocks.extents(sch, left[0]):
            return None
        found = _turned(sch, left[0])
        if found is None:
            return None
        _schedule(sch, left[0], *found)
        return sch


def _turned(sch: s_tir.Schedule, block: Block) -> tuple[int, int, int] | None:
    """(read region, axis that it runs along, axis that the store runs along)."""
    stmt = sch.get(block)
    axes = access.block_axes(sch, block)
    loads = blocks.loads(stmt.body.value)
    if not loads or blocks.has_conditions(stmt.body):
        return None

    def along(number: int) -> int | None:
        found = [i for i, axis in enumerate(axes) if axis.strides[number] == 1 and axis.extent != 1]
        return found[-1] if found else None

    stored = along(0)
    turned = [n for n in range(len(loads)) if along(n + 1) not in (None, stored)]
    if stored is None or len(turned) != 1:
        return None
    load = loads[turned[0]]
    read = along(turned[0] + 1)
    assert read is not None, "it is turned"
    sizes = [axes[read].extent or 0, axes[stored].extent or 0]
    if min(sizes) < _WORTH or bits(str(load.source.dtype)) > 32:
        return None
    if sum(load.source.same_as(other.source) for other in loads) != 1:
        return None
    variables = [iterator.var for iterator in stmt.iter_vars]
    plain = all(
        any(index.same_as(var) for var in variables) or blocks.constant(index) is not None
        for index in load.indices
    )
    if not plain or blocks.loads(flat_address(list(load.source.shape), list(load.indices))):
        return None
    regions = [i for i, r in enumerate(stmt.reads) if r.source.same_as(load.source)]
    return (regions[0], read, stored) if len(regions) == 1 else None


def _schedule(sch: s_tir.Schedule, block: Block, region: int, read: int, stored: int) -> None:
    loops = sch.get_loops(block)
    source = sch.get(block).reads[region].source
    rank = len(source.shape)
    tile = sch.cache_read(block, region, "shared")
    others = [loop for i, loop in enumerate(loops) if i not in (read, stored)]
    a, a_inner = sch.split(loops[read], [None, _TILE])
    b, b_inner = sch.split(loops[stored], [None, _TILE])
    sch.reorder(*others, a, b, a_inner, b_inner)
    outer = sch.fuse(*others, a, b)
    sch.bind(outer, "blockIdx.x")
    sch.compute_at(tile, outer, preserve_unit_loops=True)
    rows = decide(sch, "warps", _ROWS, 8)
    _rows(sch, a_inner, b_inner, rows)
    inner = sch.get_loops(tile)[1:]
    wide = [loop for loop in inner if blocks.constant(sch.get(loop).extent) != 1]
    along, across = wide[-1], sch.fuse(*wide[:-1]) if len(wide) > 2 else wide[0]
    _rows(sch, across, along, rows)
    if rank > 1:
        sch.storage_align(tile, 0, axis=rank - 2, factor=_TILE, offset=1)


def _rows(
    sch: s_tir.Schedule,
    across: s_tir.schedule.LoopRV,
    along: s_tir.schedule.LoopRV,
    rows: int,
) -> None:
    turn, row = sch.split(across, [None, rows])
    sch.unroll(turn)
    _, lane = sch.split(along, [None, _TILE])  # an axis may be shorter than the tile
    sch.bind(row, "threadIdx.y")
    sch.bind(lane, "threadIdx.x")
