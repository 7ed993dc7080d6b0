"""Prim_funcs whose loops were written by hand for a GPU."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx

from athanor.schedules.rules.by_hand import ByHand
from athanor.targets.target import TargetSpec


class CUDAByHand:
    """The loops as they are.

    Matches: the attribute `tirx.is_scheduled`, and a loop that is bound to threads. Declines
    (None): anything else; loops by hand without threads are the host's.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See ScheduleRule."""
        bound: list[tirx.For] = []

        def visit(loop: tirx.For) -> None:
            if loop.thread_binding is not None:
                bound.append(loop)

        tvm_ffi.structural_walk(func.body, (tirx.For, visit))
        return ByHand().apply(func, target) if bound else None
