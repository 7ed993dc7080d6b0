"""Schedules whole rows: every block of a function computed a row at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir, tirx

from athanor.schedules import access, blocks, loops
from athanor.schedules.decisions import decide
from athanor.schedules.row_loops import finish
from athanor.schedules.rows_together import next_rows, rows_together
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV
Loop = s_tir.schedule.LoopRV

PARALLEL_BYTES = 64 * 1024
"""Below this much data one core is done before a second one has started."""

_LINE = 16
"""Elements in a line of memory from which on the vectors of a reduction stay within it."""

_CHEAP = 20
"""Cost up to which an elementwise prologue is computed again for every block that reads it."""


@dataclass(frozen=True)
class RowShape:
    """How the axes of the data lie around the reduction: (outer..., reduced..., inner...)."""

    outer: list[tirx.Expr]
    """Extents of the axes before the reduced ones: one row each."""
    inner: list[tirx.Expr]
    """Extents of the axes after them; empty where rows are contiguous."""


def schedule_rows(sch: s_tir.Schedule, leaves: list[Block], target: TargetSpec) -> bool:
    """Schedule reductions and the spatial blocks around them; False if they do not fit.

        for row in parallel(outer axes):              # rows contiguous
            for each block: its part of the row       # lanes along the row

        for row, some inner elements in parallel(...):  # reduced axis not the last
            for each block: its part of the column      # lanes across columns

    Sums along a contiguous row are kept in several vectors of partial results, which are added
    at the row's end: one chain of dependent additions would run at a fraction of the bandwidth.
    How many, how wide other vectors are and whether cores share the rows are decisions.
    May leave `sch` half changed when the answer is False.
    """
    matched = match_rows(sch, leaves)
    if matched is None:
        return False
    leaves, shape = matched
    reductions = [block for block in leaves if not _is_spatial(sch, block)]
    parallel = bool(decide(sch, "parallel", (0, 1), int(_is_long(sch, reductions[0]))))
    if shape.inner:
        return _schedule_columns(sch, leaves, shape, target, parallel)
    return _schedule_contiguous(sch, leaves, shape, target, parallel)


def match_rows(sch: s_tir.Schedule, leaves: list[Block]) -> tuple[list[Block], RowShape] | None:
    """The blocks that are left when what is cheap is inlined, and the rows that all are parts of.

    None where some block is no part of a row, or reads another one's result for another row.
    """
    leaves = _inline(sch, leaves)
    reductions = [block for block in leaves if not _is_spatial(sch, block)]
    if not reductions or not all(_is_simple(sch, block) for block in leaves):
        return None
    shape = row_shape(sch, reductions[0])
    if shape is None or not all(sch.get_consumers(block) for block in leaves[:-1]):
        return None
    return (leaves, shape) if _stays_in_row(sch, leaves, shape) else None


def row_shape(sch: s_tir.Schedule, reduction: Block) -> RowShape | None:
    """The axes around the reduced ones, from the strides of what `reduction` reads."""
    stmt = sch.get(reduction)
    kinds = blocks.iterator_kinds(sch, reduction)
    spatial = len(kinds.rstrip("R"))
    steps = access.read_strides(stmt)
    if steps is None:
        return None
    reduced = [step for step in steps[spatial:] if step]
    if not reduced:
        return RowShape([i.dom.extent for i in stmt.iter_vars[:spatial]], [])
    outer: list[tirx.Expr] = []
    inner: list[tirx.Expr] = []
    for iterator, step in zip(stmt.iter_vars[:spatial], steps[:spatial], strict=True):
        extent = iterator.dom.extent
        if blocks.constant(extent) == 1:
            continue
        if step is not None and 0 < step < min(reduced):
            inner.append(extent)
        elif inner:
            return None
        else:
            outer.append(extent)
    return RowShape(outer, inner)


def _stays_in_row(sch: s_tir.Schedule, leaves: list[Block], shape: RowShape) -> bool:
    """Whether no block reads what another computes for a different row.

    Extents alone do not tell: `x[i, j] - mean[j]` has the loops of `x[i, j] - mean[i]`.
    """
    written: list[tuple[tirx.Buffer, list[int]]] = []
    for block in leaves:
        rows = _row_indices(sch, block, shape)
        if rows is None:
            return False
        stmt = sch.get(block)
        own = [write.source for write in stmt.writes]
        for load in blocks.loads(stmt.body):
            if any(load.source.same_as(buffer) for buffer in own):
                continue
            for buffer, places in written:
                if load.source.same_as(buffer) and not all(
                    tvm_ffi.structural_equal(load.indices[place], row)
                    for place, row in zip(places, rows, strict=True)
                ):
                    return False
        for write in stmt.writes:
            starts = [dim.min for dim in write.region]
            places = [_find(starts, row) for row in rows]
            if None in places and block is not leaves[-1]:
                return False
            written.append((write.source, [place for place in places if place is not None]))
    return True


def _row_indices(sch: s_tir.Schedule, block: Block, shape: RowShape) -> list[tirx.Expr] | None:
    """Which row an element of `block` belongs to, in terms of its iterators."""
    iterators = [
        (iterator.var, iterator.dom.extent)
        for iterator, kind in zip(
            sch.get(block).iter_vars, blocks.iterator_kinds(sch, block), strict=True
        )
        if kind == "S"
    ]
    wide = [(var, extent) for var, extent in iterators if blocks.constant(extent) != 1]
    if len(wide) < len(shape.outer) + len(shape.inner):
        return None
    rows: list[tirx.Expr] = []
    for (var, mine), extent in zip(wide, shape.outer, strict=False):
        if loops.equal(mine, extent):
            rows.append(var)
            continue
        size, groups = blocks.constant(mine), blocks.constant(extent)
        if size is None or groups is None or size % groups:
            return None
        rows.append(tirx.floordiv(var, tirx.IntImm(str(var.ty.dtype), size // groups)))
    return rows + [var for var, _ in iterators[len(iterators) - len(shape.inner) :]]


def _find(indices: list[tirx.Expr], wanted: tirx.Expr) -> int | None:
    return next(
        (i for i, index in enumerate(indices) if tvm_ffi.structural_equal(index, wanted)), None
    )


def _is_spatial(sch: s_tir.Schedule, block: Block) -> bool:
    return "R" not in blocks.iterator_kinds(sch, block)


def _is_simple(sch: s_tir.Schedule, block: Block) -> bool:
    """Spatial, or reduced over its last iterators."""
    kinds = blocks.iterator_kinds(sch, block)
    if "R" not in kinds:
        return blocks.is_spatial(sch, block)
    return set(kinds.rstrip("R")) <= {"S"} and sch.get(block).init is not None


def _is_long(sch: s_tir.Schedule, reduction: Block) -> bool:
    sizes = blocks.extents(sch, reduction)
    if None in sizes:
        return True
    return math.prod(size for size in sizes if size) * 4 >= PARALLEL_BYTES


def _inline(sch: s_tir.Schedule, leaves: list[Block]) -> list[Block]:
    """Inline what is cheap or read once, but nothing that is computed once a row into a row."""
    left: list[Block] = []
    late: list[tirx.Buffer] = []  # buffers that depend on a reduction
    for block in leaves:
        stmt = sch.get(block)
        reads = [load.source for load in blocks.loads(stmt.body)]
        depends = any(buffer.same_as(other) for buffer in reads for other in late)
        keep = not blocks.is_spatial(sch, block) or not _may_inline(sch, block, depends)
        if not keep:
            try:
                sch.compute_inline(block)
                if depends:
                    late.append(stmt.writes[0].source)
                continue
            except s_tir.ScheduleError:
                pass  # an output
        left.append(block)
        if depends or not _is_spatial(sch, block):
            late += [write.source for write in stmt.writes]
    return left


def _may_inline(sch: s_tir.Schedule, block: Block, depends: bool) -> bool:
    readers = sch.get_consumers(block)
    size = len(_long_extents(sch, block))
    if depends and any(len(_long_extents(sch, reader)) > size for reader in readers):
        return False
    buffer = sch.get(block).writes[0].source
    reads = sum(
        load.source.same_as(buffer)
        for reader in readers
        for load in blocks.loads(sch.get(reader).body)
    )
    return reads <= 1 or blocks.expression_cost(sch.get(block).body) < _CHEAP


def _long_extents(sch: s_tir.Schedule, block: Block) -> list[int | None]:
    return [extent for extent in blocks.extents(sch, block) if extent != 1]


def _partial(sch: s_tir.Schedule, block: Block, target: TargetSpec) -> list[Block]:
    """Cut a reduction into vectors of partial results; the new blocks, which `block` adds up.

    Four vectors hide the latency of an addition behind two a cycle; they are added to one, its
    quarters to one of four lanes, and those one by one.
    """
    stmt = sch.get(block)
    if _is_spatial(sch, block) or len(stmt.writes) != 1:
        return []
    kinds = loops.loop_kinds(sch, block)
    loop = loops.fuse(sch, _walked_on(sch, block, sch.get_loops(block)[len(kinds.rstrip("R")) :]))
    extent = blocks.constant(sch.get(loop).extent)
    vector = target.lanes(max(16, stmt.writes[0].source.dtype.bits))
    lanes = vector * 4
    if extent is not None and extent % lanes and extent < 4 * lanes:
        lanes = vector  # the rest of a short row costs more than the latency
    while extent is not None and lanes > extent:
        lanes //= 2
    if lanes < 4:
        return []
    wider = {n * vector for n in (1, 2, 4, 8) if extent is None or n * vector <= extent}
    lanes = decide(sch, "partial sums", sorted({lanes, *wider}), lanes)
    rank = len(stmt.writes[0].source.shape)
    _, lane = sch.split(loop, [None, lanes])
    made = [sch.rfactor(lane, factor_axis=rank)]
    steps = [vector] if lanes > vector else []
    lanes = min(lanes, vector)
    while lanes > 4:
        lanes = max(4, lanes // 4)
        steps.append(lanes)
    for step in steps:
        _, lane = sch.split(sch.get_loops(block)[-1], [None, step])
        made.append(sch.rfactor(lane, factor_axis=rank))
    return made  # in scope "global": of "local" TVM makes a heap allocation, even of 32 bytes


def _walked_on(sch: s_tir.Schedule, block: Block, reduced: list[Loop]) -> list[Loop]:
    """The last loops over reduced axes that are one line in memory; all where that is too short.

    Of a batch of images, say, whose channels are not reduced: a vector over the end of one line
    and the start of the next would be put together element by element.
    """
    steps = access.read_strides(sch.get(block))
    if steps is None:
        return reduced
    steps, line = steps[-len(reduced) :], 1
    for number in reversed(range(len(reduced))):
        extent = blocks.constant(sch.get(reduced[number]).extent)
        if extent is None or (extent > 1 and steps[number] != line):
            break
        line *= extent
    else:
        return reduced
    return reduced[number + 1 :] if line >= _LINE else reduced


def _schedule_contiguous(
    sch: s_tir.Schedule,
    leaves: list[Block],
    shape: RowShape,
    target: TargetSpec,
    parallel: bool,
) -> bool:
    together = rows_together(sch, leaves, shape.outer, target)
    upcoming = next_rows(sch, leaves, target)
    parts = list(leaves)
    ahead: list[int | str] = []
    again: Block | None = None
    if all(sch.get_loops(block) for block in leaves):  # rfactor fails next to a scalar's block
        parts = []
        for block in leaves:
            several = [*_partial(sch, block, target), block]
            parts += several
            if upcoming is not None and blocks.same(sch, block, upcoming.reader):
                ahead = [together * upcoming.length, *upcoming.names]
                again = several[0]
    rows = []
    for part in parts:
        outer = loops.match_prefix(sch, part, shape.outer)
        if outer is None:
            return False
        if outer:
            rows.append(loops.fuse(sch, outer))
    count = blocks.constant(sch.get(rows[0]).extent) if rows else None
    if together > 1:
        rows = [
            _split_rows(sch, part, row, together) for part, row in zip(parts, rows, strict=True)
        ]
    for part in parts:
        mine = ahead if again is not None and blocks.same(sch, part, again) else []
        finish(sch, part, target, len(rows[:1]) + (together > 1), ahead=mine)
    if rows:
        row = _merge(sch, rows, parallel)
        if count is not None and count % together:
            sch.annotate(row, OVERLAP, [count, together])
    return True


def _split_rows(sch: s_tir.Schedule, part: Block, row: Loop, together: int) -> Loop:
    """The loop over several rows at a time; the one over these is unrolled around what is short."""
    several, each = sch.split(row, [None, together])
    if not _is_spatial(sch, part) or loops.among(sch, sch.get_loops(part)[-1], [each]):
        sch.unroll(each)
    return several


def _schedule_columns(
    sch: s_tir.Schedule,
    leaves: list[Block],
    shape: RowShape,
    target: TargetSpec,
    parallel: bool,
) -> bool:
    lanes = target.lanes(32) * 4
    width = blocks.constant(shape.inner[-1])
    while width is not None and width % lanes:
        lanes //= 2
    tiled = width is not None and lanes >= target.lanes(32)
    if width is not None and tiled:
        fits = [n * target.lanes(32) for n in (1, 2, 4, 8)]
        lanes = decide(sch, "columns", [n for n in fits if width % n == 0], lanes)
    rows = []
    for block in leaves:
        outer = loops.match_prefix(sch, block, shape.outer)
        columns = _match_columns(sch, block, shape.inner)
        if outer is None or columns is None:
            return False
        *several, lane = columns
        outer += several
        if tiled:
            column, lane = sch.split(lane, [None, lanes])
            outer.append(column)
        rest = [loop for loop in sch.get_loops(block) if not loops.among(sch, loop, [*outer, lane])]
        sch.reorder(*outer, *rest, lane)
        rows.append(loops.fuse(sch, outer) if outer else loops.unit_loop(sch, block))
    for block in leaves:
        finish(sch, block, target, place=1, fuse=False)
    _merge(sch, rows, parallel and (tiled or len(shape.outer) + len(shape.inner) > 1))
    return True


def _match_columns(sch: s_tir.Schedule, block: Block, inner: list[tirx.Expr]) -> list[Loop] | None:
    """The last spatial loops of `block`, if they run over `inner`."""
    kinds = loops.loop_kinds(sch, block)
    pairs = zip(sch.get_loops(block), kinds, strict=True)
    spatial = [loop for loop, kind in pairs if kind == "S"]
    found = spatial[len(spatial) - len(inner) :]
    if len(found) != len(inner):
        return None
    equal = (loops.equal(sch.get(a).extent, b) for a, b in zip(found, inner, strict=True))
    return found if all(equal) else None


def _merge(sch: s_tir.Schedule, rows: list[Loop], parallel: bool) -> Loop:
    """One loop over rows for all blocks; compute_at would forget the conditions of blocks."""
    row = sch.merge(*rows) if len(rows) > 1 else rows[0]
    if parallel:
        sch.parallel(row)
    return row
