"""CPU schedule of whatever no other rule takes."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.reducers import hand_nan_on
from athanor.targets.target import TargetSpec


class CPUFallback:
    """Parallel outer loops where that is surely right, everything else as it was written.

        for spatial axes in parallel(...):
            for the other axes: ...

    Matches: everything, also TIR without blocks, opaque blocks and loops of length zero.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule:
        """See the class. Never None."""
        func = hand_nan_on(func)
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves:
            return sch
        try:
            for block in blocks.inline_spatial(sch, leaves):
                _parallelize(sch, block)
        except s_tir.ScheduleError:
            # A block that breaks a rule of the scheduler (overlapping writes, say) is left alone.
            return blocks.open_schedule(func)
        return sch


def _parallelize(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Run the leading spatial axes in parallel, up to the first of another kind.

    The start value of a reduction is stored before its loops: within them it would be missing
    where they run zero times, and a sum over nothing is 0.
    """
    kinds = blocks.iterator_kinds(sch, block)
    loops = sch.get_loops(block)
    spatial = loops[: len(kinds) - len(kinds.lstrip("S"))]
    rest = loops[len(spatial) :]
    # before the start value is cut off, or the scheduler takes what remains for no reduction
    if spatial and 0 not in [blocks.constant(sch.get(loop).extent) for loop in loops]:
        sch.parallel(sch.fuse(*spatial) if len(spatial) > 1 else spatial[0])
    if sch.get(block).init is not None and rest:
        sch.decompose_reduction(block, rest[0])
