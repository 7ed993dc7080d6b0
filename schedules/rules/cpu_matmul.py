"""CPU schedule of matrix products with packed weights."""

from __future__ import annotations

import math

import tvm
from tvm import s_tir, tirx

from athanor.schedules import access, blocks
from athanor.schedules.compute.bf16 import BITS
from athanor.schedules.compute.matmul import ROWS, flatten
from athanor.schedules.decisions import decide
from athanor.schedules.rules.cpu_elementwise import schedule_spatial
from athanor.targets.partition_loops import GUARD, HINT
from athanor.targets.prefetch_weights import REDUCTION, SPATIAL
from athanor.targets.target import TargetSpec

PARALLEL_MACS = 1 << 18
"""Multiply-adds below which one core is done before a second one has started."""


class CPUMatmul:
    """A register tile of rows x panel, accumulated over all of K, finished where it lies.

        for row block, column panels in parallel(...):     # or column panels, row block
            for row tile in row block:
                acc[rows, panel] = 0                       # registers
                for k: for row (unrolled): acc[row, :] += a[row, k] * b[panel, k, :]
                out[rows, panel] = epilogue(acc)           # bias, activation, residual, ...

    One panel of b (K x panel floats) stays in the L1 or L2 cache while every row tile of the
    block passes over it; the rows of a block stay in half of L2. With few rows several panels
    are one tile, to have enough independent sums: two pipes times four cycles of latency.

    Matches: one block of KIND "matmul" (`compute.matmul.matmul_packed`) or "batch_matmul" and the
    spatial blocks that FuseTIR put behind it. A batch_matmul copies each panel of b into a
    scratch of that layout first, at the start of its column tile.
    Declines (None): no such block, or one whose result is not read by exactly one spatial block.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        found = blocks.find_kind(sch, "matmul", "batch_matmul")
        if found is None:
            return None
        product = found[0]
        filled = blocks.find_kind(sch, "matmul_panel")
        for block in sch.get_producers(product):
            if sch.get(block).name_hint == BITS:
                sch.compute_inline(block)
        final = blocks.inline_epilogue(sch, product)
        if final is None:
            return None
        for block in blocks.leaf_blocks(sch) or []:
            if blocks.same(sch, block, product) or blocks.same(sch, block, final):
                continue
            if filled is not None and blocks.same(sch, block, filled[0]):
                continue
            if not blocks.is_spatial(sch, block):
                return None
            schedule_spatial(sch, block, target)
        outer = _tile(sch, product, final, filled is None, target)
        if filled is not None:
            _fill_panels(sch, filled[0], outer)
        return sch


def _tile(
    sch: s_tir.Schedule,
    product: s_tir.schedule.SBlockRV,
    final: s_tir.schedule.SBlockRV,
    is_packed: bool,
    target: TargetSpec,
) -> s_tir.schedule.LoopRV:
    """Schedule product and epilogue; the loop in which one panel of b is used.

    is_packed: b comes in panels; else that loop makes them, and makes them again for a row block.
    """
    stmt = sch.get(product)
    rows = int(stmt.annotations[ROWS])
    panel = int(stmt.reads[-1].source.shape[-1])
    *batch_extents, m_extent, n_extent, depth = blocks.extents(sch, product)
    panels = None if n_extent is None else n_extent // panel
    *batch, row, column = _final_loops(sch, final, len(batch_extents))
    tiles = None if m_extent is None else m_extent // rows
    columns = n_extent if is_packed else None
    block_tiles = _block_tiles(tiles, rows, depth, columns, target)
    lanes = target.lanes(tvm.DataType(str(stmt.writes[0].source.dtype)).bits)
    groups = _panel_group(panels, rows, max(1, panel // lanes), target)
    together = decide(sch, "row tiles", *_candidates(block_tiles, tiles))
    row_block, row_tile, row_in = sch.split(row, [None, together, rows])
    group = decide(sch, "panels", *groups)
    column_tile, column_panel, column_in = sch.split(column, [None, group, panel])
    tasks = [row_block, column_tile]
    if decide(sch, "columns first", (0, 1) if tiles != 1 else (0,), 0):
        tasks.reverse()
    sch.reorder(*tasks, row_tile, column_panel, row_in, column_in)
    # Rows past the end are clamped, each to an address of its own, which is too many for the
    # registers: full tiles get a loop of their own (128 x 3072 x 768 in 256 bits, of 117 GFLOP/s:
    # 105 rather than 90).
    sch.annotate(row_tile, GUARD if together == 1 else HINT, 1)
    # Of the last panel only some columns are stored, one by one; of all others vectors.
    sch.annotate(column_panel, GUARD, 1)
    sizes = [*batch_extents, m_extent, n_extent, depth]
    sch.compute_at(product, row_tile, preserve_unit_loops=True)
    outer = sch.fuse(*batch, *tasks)
    large = None in sizes or math.prod(size for size in sizes if size) >= PARALLEL_MACS
    if decide(sch, "parallel", (0, 1), int(large)):
        sch.parallel(outer)
    sch.vectorize(column_in)
    *_, i, j, k = sch.get_loops(product)
    j_panel, j_in = sch.split(j, [None, panel])
    steps = decide(sch, "unrolled steps", *_unroll(depth))
    k_out, k_in = sch.split(k, [None, steps])
    sch.reorder(k_out, k_in, i, j_panel, j_in)
    sch.vectorize(j_in)
    for loop in (k_in, i, j_panel):
        sch.unroll(loop)
    weight_bytes = 4 * depth * n_extent if is_packed and depth and n_extent else 0
    if tiles and depth and weight_bytes > target.l2_bytes // 2:
        sch.annotate(row_tile, SPATIAL, 1)
        sch.annotate(k_out, REDUCTION, [stmt.reads[-1].source.name, depth * panel * group])
    start = sch.decompose_reduction(product, k_out)
    *_, i, j_panel, j_in = sch.get_loops(start)
    sch.vectorize(j_in)
    sch.unroll(i)
    sch.unroll(j_panel)
    return outer


def _fill_panels(
    sch: s_tir.Schedule, filled: s_tir.schedule.SBlockRV, outer: s_tir.schedule.LoopRV
) -> None:
    """Copy the panels of b that a column tile needs right before its row tiles use them."""
    lane_is_column = access.block_axes(sch, filled)[-1].strides[1:] == (1,)
    sch.compute_at(filled, outer, preserve_unit_loops=True)
    *_, depth, lane = sch.get_loops(filled)
    if lane_is_column:
        sch.vectorize(lane)
    else:
        # b is transposed, or its last panel is not full: read along its rows, LLVM does the rest.
        sch.reorder(lane, depth)


def _final_loops(
    sch: s_tir.Schedule, final: s_tir.schedule.SBlockRV, batch: int
) -> list[s_tir.schedule.LoopRV]:
    """The loops of the final block as (batch..., row, column), however many axes it has.

    Its iterators are fused too, not only its loops: a row tile that starts in one batch and ends
    in the next has no bindings that the scheduler can follow otherwise.
    """
    loops = sch.get_loops(final)
    if len(loops) == 1:
        return [sch.add_unit_loop(loops[0]), loops[0]]
    if len(loops) > batch + 2:
        dims = [iterator.dom.extent for iterator in sch.get(final).iter_vars]
        fold = tirx.IndexMap.from_func(
            lambda *i: [*i[:batch], flatten(i[batch:-1], dims[batch:-1]), i[-1]],
            len(dims),
            index_dtype="int64",
        )
        sch.transform_block_layout(final, fold)
    return sch.get_loops(final)


def _block_tiles(
    tiles: int | None, rows: int, depth: int | None, columns: int | None, target: TargetSpec
) -> int:
    """Row tiles of a row block: all where L2 holds them, else half of L2, at least 8.

    Every row block reads all of b again, from L3 or memory, so few blocks are better than small.
    Where L2 holds the columns of a packed b too, a block is one tile: its rows of the result are
    written from end to end, not in pieces of a panel that share their first and last cache lines
    with the next panel's.
    """
    if depth is not None and columns is not None and depth * columns * 4 <= target.l2_bytes // 2:
        return 1
    tile_bytes = rows * (depth or 256) * 4
    if tiles is not None and tiles * tile_bytes <= target.l2_bytes:
        return tiles
    goal = max(8, min(64, target.l2_bytes // 2 // tile_bytes))
    return goal if tiles is None else -(-tiles // -(-tiles // goal))


def _candidates(preferred: int, tiles: int | None) -> tuple[list[int], int]:
    choices = {preferred, 1, 2, 4, 8, 16, 32, 64}
    return sorted(c for c in choices if tiles is None or c <= tiles or c == preferred), preferred


def _panel_group(
    panels: int | None, rows: int, vectors: int, target: TargetSpec
) -> tuple[list[int], int]:
    """Panels that make one tile: enough sums for the latency, no more than the registers hold."""
    room = (target.vector_registers - 1) // (rows * vectors + vectors)
    choices = [
        g for g in (1, 2, 3, 4) if (g == 1 or (panels and panels % g == 0)) and g <= max(1, room)
    ]
    wanted = target.fma_pipes * target.fma_latency
    enough = [g for g in choices if g * rows * vectors >= wanted]
    return choices, enough[0] if enough else choices[-1]


def _unroll(depth: int | None) -> tuple[list[int], int]:
    if depth is None:
        return [1], 1
    choices = [step for step in (1, 2, 3, 4, 5, 6, 7, 8) if depth % step == 0]
    return choices, next(step for step in (4, 2, 1) if depth % step == 0)
