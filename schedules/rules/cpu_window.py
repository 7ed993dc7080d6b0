"""CPU schedule of pooling in NCHW, and whatever else reduces windows that slide along rows."""

from __future__ import annotations

import math

from tvm import s_tir, tirx

from athanor.schedules import access, blocks
from athanor.targets.partition_loops import HINT
from athanor.targets.target import TargetSpec


class CPUWindow:
    """One window at a time; the columns whose windows lie in the border apart from the others.

        for row in parallel(all axes but the last):
            for column:                         # first and last columns peeled where padded
                acc = start                     # a register
                for window: acc = f(acc, data[...])
                out = epilogue(acc)

    More data than a core's own cache holds is read row by row, for memory delivers rows that are
    read by turns at half the speed (105 MB: max pool 2x2 8.3 ms, 5.5 row by row; average of 3x3
    10.2 and 4.2):

        for row in parallel(...):
            acc[columns] = start                # in the L1 cache
            for kernel row: for column: for tap (unrolled): acc[column] = f(acc[column], data[...])
            out[columns] = epilogue(acc[columns])

    LLVM unrolls the small windows and takes several columns at once where that is right. In
    blocks of channels (`CPUPool`) pooling is faster; this is for the few channels of an image and
    for windows over sequences and volumes.

    Matches: one reduction of one tensor, with constant windows over the last axis at least, and
    spatial blocks before and behind it that end in one output; other sizes may be symbolic.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        found = [block for block in leaves if "R" in blocks.iterator_kinds(sch, block)]
        if len(found) != 1 or blocks.KIND in sch.get(found[0]).annotations:
            return None
        window = found[0]
        if not _slides(sch, window):
            return None
        result = sch.get(window).writes[0].source
        last = window
        if sch.get_consumers(window):
            if any(result.same_as(param) for param in func.params):
                return None  # an output of its own
            last = blocks.inline_epilogue(sch, window)
        if last is None:
            return None
        left = blocks.inline_spatial(sch, blocks.leaf_blocks(sch) or [])
        kept = [window] if blocks.same(sch, last, window) else [window, last]
        if len(left) != len(kept):
            return None
        padded = blocks.has_conditions(sch.get(window).body)
        *rows, column = sch.get_loops(last)[: blocks.iterator_kinds(sch, last).count("S")]
        taps = blocks.iterator_kinds(sch, window).count("R")
        if rows and _has_rows(sch, window) and _is_from_afar(sch, window, target):
            row = sch.fuse(*rows)
            if len(kept) == 2:
                sch.compute_at(window, row, preserve_unit_loops=True)
            *_, guarded = sch.get_loops(window)[:-taps]
            start, *_ = *outer, tap = sch.get_loops(window)[-taps:]
            sch.reorder(*outer, guarded, tap)
            sch.unroll(tap)
        else:
            if len(kept) == 2:
                sch.compute_at(window, column, preserve_unit_loops=True)
                sch.set_scope(window, 0, "local")
            # Not before: of fused sizes that only the run knows, no block's place is understood.
            row = sch.fuse(*rows) if rows else None
            start, guarded = sch.get_loops(window)[-taps], column
        if padded and blocks.constant(sch.get(guarded).extent) is not None:
            sch.annotate(guarded, HINT, 1)
        if row is not None:
            sch.parallel(row)
        sch.decompose_reduction(window, start)
        return sch


def _has_rows(sch: s_tir.Schedule, window: s_tir.schedule.SBlockRV) -> bool:
    """Whether windows reach over several rows, and several columns."""
    kinds = blocks.iterator_kinds(sch, window)
    taps = blocks.extents(sch, window)[-kinds.count("R") :]
    return len(taps) > 1 and 1 not in taps


def _is_from_afar(sch: s_tir.Schedule, window: s_tir.schedule.SBlockRV, target: TargetSpec) -> bool:
    """Whether what windows slide over comes from memory or the cache that cores share."""
    sizes = [
        [blocks.constant(dim) for dim in load.source.shape]
        for load in blocks.loads(sch.get(window).body)
    ]
    return any(
        4 * math.prod(size for size in shape if size) > 2 * target.l2_bytes
        for shape in sizes
        if None not in shape
    )


def _slides(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Whether a reduction reads one tensor, in windows that move with its last spatial axis."""
    stmt = sch.get(block)
    kinds = blocks.iterator_kinds(sch, block)
    spatial, reduced = kinds.rstrip("R"), kinds[len(kinds.rstrip("R")) :]
    if not reduced or set(spatial) != {"S"} or stmt.init is None or len(stmt.writes) != 1:
        return False
    variables = [iterator.var for iterator in stmt.iter_vars]
    taps = variables[len(spatial) :]
    if any(blocks.constant(i.dom.extent) is None for i in stmt.iter_vars[len(spatial) :]):
        return False
    written = stmt.writes[0].source
    reads = [load for load in blocks.loads(stmt.body) if not load.source.same_as(written)]
    return len(reads) == 1 and any(
        access.uses(index, variables[len(spatial) - 1])
        and any(access.uses(index, tap) for tap in taps)
        for index in reads[0].indices
    )
