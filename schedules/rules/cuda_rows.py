"""GPU schedule of reductions, softmax and normalizations: threads share a row."""

from __future__ import annotations

import math

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.combine import is_combinable, rank_nan
from athanor.schedules.decisions import decide
from athanor.schedules.device_rows import row_kernel
from athanor.schedules.device_threads import LOAD_BYTES, RowPlan, bits
from athanor.schedules.row_stages import RowFunction, row_function
from athanor.schedules.rows import match_rows
from athanor.targets.target import TargetSpec

_BLOCK = 256
"""Threads of a block of short rows: eight warps hide each other's latency."""
_LANES = 32
"""Columns that a warp reads side by side: a line of 128 bytes of float32."""
_KEPT = 64
"""Elements of all of a row's operands and stages that one thread may keep: a quarter of its
registers, so that a multiprocessor holds 1,024 such threads."""
_FILLED = 132 * 1024
"""Threads that keep a large GPU busy: 132 multiprocessors, half of the threads of each."""
_PART = 8192
"""Elements of one part of a long reduction at least."""


class CUDARows:
    """One launch for all stages of a row, as `schedules.device_rows` has it.

    A warp shares a row, or as many threads as it takes to keep the row in their registers; rows
    too long for that, or of a length that the run tells, are read again by each stage. Where the
    reduced axis is not the last one, neighbouring threads have neighbouring rows. A reduction of
    few long rows is done in parts, by a second launch.

    Matches: one or more reductions over the same axes, of one operation or of pairs as ArgMax,
    and spatial blocks before, between and behind them.
    Declines (None): what `rows.match_rows` and `row_stages.row_function` do, products (KIND
    annotations), an axis of length zero.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        assert target.gpu is not None, f"{target.name} has no device"
        sch = blocks.open_schedule(func, enable_check=False)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        if any(blocks.KIND in sch.get(block).annotations for block in leaves):
            return None
        matched = match_rows(sch, leaves)
        function = row_function(sch, *matched) if matched else None
        if function is None or not _is_supported(function):
            return None
        for stage in function.stages:
            if len(stage.values) > 1:
                stage.values = [rank_nan(value) for value in stage.values]
        plan = _columns(sch, function) if function.columns else _rows(sch, function)
        return s_tir.Schedule(row_kernel(func, function, plan))


def _is_supported(function: RowFunction) -> bool:
    return all(not stage.reduces or is_combinable(stage) for stage in function.stages)


def _rows(sch: s_tir.Schedule, function: RowFunction) -> RowPlan:
    """The plan of contiguous rows."""
    length = blocks.constant(function.length)
    count = _count(function)
    if length is None:
        threads = decide(sch, "row threads", (32, 64, 128, 256, 512, 1024), 256)
        return RowPlan(threads, 1, 1, 0)
    vector = _vector(function, length)
    arrays = _arrays(function)
    most = max(1, _KEPT // (arrays * vector))  # chunks that fit
    candidates = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= length * 2]
    fits = [t for t in candidates if -(-length // (vector * t)) <= most]
    if len(function.stages) == 1 or not fits:
        fits = candidates
    pieces = -(-length // vector)
    preferred = next(t for t in (*candidates, 1024) if t >= min(pieces, 32) or t == candidates[-1])
    while preferred not in fits or (
        # rows alone don't fill the device, or a thread would have much to do
        2 * preferred in candidates
        and 2 * preferred <= pieces
        and (_too_few(count, preferred) or -(-pieces // preferred) > max(1, 32 // vector))
    ):
        if 2 * preferred not in candidates:
            break
        preferred *= 2
    threads = decide(sch, "row threads", candidates, preferred)
    chunks = -(-pieces // threads)
    streams = chunks > most
    parts = _parts(sch, function, length, threads) if streams or len(function.stages) == 1 else 1
    rows = max(1, _BLOCK // threads) if threads <= 32 else 1
    return RowPlan(threads, rows, vector, 0 if streams or parts > 1 else chunks, parts=parts)


def _columns(sch: s_tir.Schedule, function: RowFunction) -> RowPlan:
    """The plan of rows that are columns in memory."""
    length = blocks.constant(function.length)
    count = _count(function)
    candidates = (1, 2, 4, 8, 16, 32)
    preferred = 1
    while preferred < 32 and _too_few(count, preferred) and (length or 1 << 20) >= 4 * preferred:
        preferred *= 2
    threads = decide(sch, "column threads", candidates, max(preferred, 4))
    if length is None:
        return RowPlan(threads, _LANES, 1, 0, across=True)
    chunks = -(-length // threads)
    streams = chunks * _arrays(function) > _KEPT
    parts = _parts(sch, function, length, threads * _LANES) if streams else 1
    return RowPlan(
        threads, _LANES, 1, 0 if streams or parts > 1 else chunks, across=True, parts=parts
    )


def _parts(sch: s_tir.Schedule, function: RowFunction, length: int, threads: int) -> int:
    """Blocks for each row of a reduction that alone would not fill the device."""
    count = _count(function)
    first, *others = function.stages
    if count is None or not first.reduces or any(stage.elements for stage in others):
        return 1
    candidates = [1]
    while candidates[-1] < 1024 and length // (2 * candidates[-1]) >= _PART:
        candidates.append(2 * candidates[-1])
    preferred = next(
        (parts for parts in candidates if count * threads * parts >= _FILLED), candidates[-1]
    )
    return decide(sch, "row parts", candidates, preferred)


def _too_few(count: int | None, threads: int) -> bool:
    return count is not None and count * threads < _FILLED


def _count(function: RowFunction) -> int | None:
    sizes = [blocks.constant(extent) for extent in function.rows]
    return math.prod(sizes) if None not in sizes else None  # pyright: ignore


def _vector(function: RowFunction, length: int) -> int:
    """Neighbouring elements of one thread: one load of the widest type, if rows divide so."""
    widest = max(
        (bits(str(load.source.dtype)) for stage in function.stages for load in stage.loads()),
        default=32,
    )
    vector = min(8, max(1, LOAD_BYTES * 8 // widest))
    while length % vector:
        vector //= 2
    return vector


def _arrays(function: RowFunction) -> int:
    """Numbers of each element that are kept: operands, and values of stages."""
    kept = []
    for stage in function.stages:
        if stage.elements and not stage.reduces:
            kept.append(stage.buffers[0])
        for load in stage.loads():
            if function.stage_of(load.source) is None and len(load.indices) > 0:
                if not any(load.source.same_as(buffer) for buffer in kept):
                    kept.append(load.source)
    return max(1, len(kept))
