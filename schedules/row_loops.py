"""What one block does within its row: lanes, sums, and rests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import s_tir
from tvm.tirx.buffer import is_buffer_var

from athanor.schedules import access, blocks, loops
from athanor.schedules.decisions import decide
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.prefetch_ahead import AHEAD
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV
Loop = s_tir.schedule.LoopRV


def finish(
    sch: s_tir.Schedule,
    block: Block,
    target: TargetSpec,
    place: int,
    fuse: bool = True,
    ahead: Sequence[int | str] = (),
) -> None:
    """Vectorize what one block does in its row: lanes over spatial loops, sums outside them.

    `place` outer loops (those over rows) are left alone. Without `fuse` the lanes are those of
    the last loop alone. ahead: of AHEAD, but for the number of elements, or nothing.
    """
    pairs = list(zip(sch.get_loops(block), loops.loop_kinds(sch, block), strict=True))[place:]
    spatial = [loop for loop, kind in pairs if kind == "S" and not loops.is_unit(sch, loop)]
    reduced = [loop for loop, kind in pairs if kind == "R"]
    if not reduced:
        if spatial:
            inner = _walked_as_one(sch, block, spatial, target) if fuse else spatial[-1:]
            _vectorize(sch, loops.fuse(sch, inner), target, ahead, whole=len(inner) == 1)
        return
    if spatial:
        if not loops.loop_kinds(sch, block).endswith("R" * len(reduced) + "S" * len(spatial)):
            sch.reorder(*reduced, *spatial)
        lane = loops.fuse(sch, spatial)
        if ahead:
            sch.annotate(reduced[-1], AHEAD, [int(sch.get(lane).extent), *ahead])
        _vectorize_short(sch, lane, target)
    if loops.has_predicate(sch, block):
        sch.annotate(reduced[-1], "pragma_loop_partition_hint", 1)
    short = blocks.constant(sch.get(reduced[-1]).extent) in range(2, 17)
    # Constant indices: partial results stay in registers. Where a loop is cut at its guards, and
    # those depend on the row, its parts have no constant length.
    guarded = loops.has_predicate(sch, block) and blocks.has_conditions(sch.get(block).body)
    if short and not guarded and not _walks_a_row(sch, block, target):
        sch.unroll(reduced[-1])
    start = sch.decompose_reduction(block, reduced[0])
    after = [loop for loop in sch.get_loops(start)[place:] if not loops.is_unit(sch, loop)]
    if after:
        _vectorize_short(sch, loops.fuse(sch, after), target)


def _walks_a_row(sch: s_tir.Schedule, block: Block, target: TargetSpec) -> bool:
    """Whether a block reads more than the registers hold, of what was there before the kernel.

    Unrolled, LLVM would keep what one pass has loaded for the next, on the stack.
    """
    stmt = sch.get(block)
    params = [param for param in sch.mod["main"].params if is_buffer_var(param)]
    reads = [load.source for load in blocks.loads(stmt.body)]
    if not any(read.same_as(param) for read in reads for param in params):
        return False
    row = [
        blocks.constant(sch.get(loop).extent)
        for loop, kind in zip(sch.get_loops(block), loops.loop_kinds(sch, block), strict=True)
        if kind == "R"
    ]
    lanes = [blocks.constant(dim) for dim in stmt.writes[0].source.shape[-1:]]
    elements = math.prod(size for size in (*row, *lanes) if size)
    return elements > target.vector_registers // 2 * target.lanes(32)


def _walked_as_one(
    sch: s_tir.Schedule, block: Block, spatial: list[Loop], target: TargetSpec
) -> list[Loop]:
    """The last of these loops that every access walks as one; all of them where that is too short.

    A scale for each channel, say, stands still along the rows of its channel: with the channels in
    the same loop every element would look for its own.
    """
    axes = [axis for axis in access.block_axes(sch, block) if axis.extent != 1][-len(spatial) :]
    if len(axes) < len(spatial):
        return spatial
    inner = spatial[-len(access.collapse(axes)[-1]) :]
    extents = [blocks.constant(sch.get(loop).extent) for loop in inner]
    known = [extent for extent in extents if extent is not None]
    long = len(known) < len(extents) or math.prod(known) >= 2 * target.lanes(32)
    return inner if long else spatial


def _vectorize(
    sch: s_tir.Schedule,
    loop: Loop,
    target: TargetSpec,
    ahead: Sequence[int | str],
    whole: bool,
) -> None:
    """Lanes along a loop of any length; the rest of the division is a loop of its own.

    whole: the loop is an axis of its block, so that the last vector may begin early enough.
    """
    extent = blocks.constant(sch.get(loop).extent)
    lanes = 2 * target.lanes(32)
    if extent is not None and extent < lanes:
        _vectorize_whole(sch, loop)
        return
    fits = [n * target.lanes(32) for n in (1, 2, 4)]
    lanes = decide(sch, "lanes", [n for n in fits if extent is None or n <= extent], lanes)
    step, lane = sch.split(loop, [None, lanes])
    if whole and extent is not None and extent % lanes:
        sch.annotate(step, OVERLAP, [extent, lanes])
    elif extent is None or extent % lanes:
        sch.annotate(step, "pragma_loop_partition_hint", 1)
    if ahead:
        sch.annotate(step, AHEAD, [lanes, *ahead])
    sch.vectorize(lane)


def _vectorize_short(sch: s_tir.Schedule, loop: Loop, target: TargetSpec) -> None:
    """Vectors of one register each along a loop of a few registers' length.

    One register, and the same width at every access: LLVM takes a long vector that is read back
    in parts through scalar registers.
    """
    extent, vector = blocks.constant(sch.get(loop).extent), target.lanes(32)
    if extent is not None and vector < extent <= 8 * vector and extent % vector == 0:
        several, loop = sch.split(loop, [None, vector])
        sch.unroll(several)
    _vectorize_whole(sch, loop)


def _vectorize_whole(sch: s_tir.Schedule, loop: Loop) -> None:
    """Lanes over all of a short loop, if there are 2, 4, 8, ... of them; else LLVM decides."""
    extent = blocks.constant(sch.get(loop).extent)
    if extent is not None and 1 < extent <= 64 and extent & (extent - 1) == 0:
        sch.vectorize(loop)
