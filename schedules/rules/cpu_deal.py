"""CPU schedule of the copies that deal pixels out by the stride of a convolution."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.deal import DEAL
from athanor.schedules.rules.cpu_elementwise import PARALLEL_BYTES, traffic
from athanor.targets.partition_loops import HINT
from athanor.targets.target import TargetSpec


class CPUDeal:
    """Neighbours of the input in turn, so that LLVM loads whole vectors and shuffles them.

        for image, channel, row in parallel(...):
            for place in a row:                     # where the border is, apart from the rest
                for phase (unrolled): out[phase, place] = data[place * stride + phase]

    Matches: one block of KIND "deal", and spatial blocks before it. Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        found = blocks.find_kind(sch, DEAL)
        if found is None or not all(blocks.is_spatial(sch, block) for block in leaves):
            return None
        deal = found[0]
        left = blocks.inline_spatial(sch, leaves)
        if len(left) != 1 or not blocks.same(sch, left[0], deal):
            return None
        worth = traffic(sch, deal)
        first, second, third, phase, *rows, place = sch.get_loops(deal)
        outer = [first, second, third, *rows]
        sch.reorder(*outer, place, phase)
        sch.unroll(phase)
        sch.annotate(place, HINT, 1)
        task = sch.fuse(*outer)
        if worth is None or worth > PARALLEL_BYTES:
            sch.parallel(task)
        return sch
