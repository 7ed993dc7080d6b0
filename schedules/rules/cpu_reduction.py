"""CPU schedule of reductions, softmax and normalizations: whatever works row by row."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.reducers import hand_nan_on
from athanor.schedules.rows import schedule_rows
from athanor.targets.target import TargetSpec


class CPUReduction:
    """Every block of the function computed for one row while that row is in the L1 cache.

    See `schedules.rows.schedule_rows` for the loop nests.

    Matches: one or more reductions over the same axes, and spatial blocks before, between and
    behind them: sums, means, maxima over any axes, softmax, layer norm, group norm.
    Declines (None): several outputs, opaque blocks, products of two tensors (KIND annotations),
    reductions whose axes differ, an axis of length zero.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(hand_nan_on(func), enable_check=False)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        if any(blocks.KIND in sch.get(block).annotations for block in leaves):
            return None
        try:
            return sch if schedule_rows(sch, leaves, target) else None
        except s_tir.ScheduleError:
            return None  # a combination of blocks that cannot be computed a row at a time
