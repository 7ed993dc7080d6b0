"""Prim_funcs whose loops were written by hand."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.targets.target import TargetSpec

SCHEDULED = "tirx.is_scheduled"
"""The attribute that TVM's own passes, too, leave such functions alone for."""


class ByHand:
    """The loops as they are.

    Matches: the attribute `tirx.is_scheduled` is set. Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See ScheduleRule."""
        attributes = func.attrs or {}
        if SCHEDULED not in attributes or not attributes[SCHEDULED]:
            return None
        return s_tir.Schedule(func)
