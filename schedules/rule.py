"""What a schedule rule is, and how an ordered list of them is applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from tvm import s_tir, tirx

if TYPE_CHECKING:
    from athanor.targets.target import TargetSpec


class ScheduleRule(Protocol):
    """Schedules the prim_funcs of one kind; None means "not mine, try the next"."""

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """A scheduled copy of `func`, or None where the rule does not match."""
        ...


def apply_rules(
    rules: Iterable[ScheduleRule], func: tirx.PrimFunc, target: TargetSpec
) -> tuple[s_tir.Schedule, ScheduleRule]:
    """The schedule of the first rule that takes `func`, and that rule."""
    for rule in rules:
        schedule = rule.apply(func, target)
        if schedule is not None:
            return schedule, rule
    raise AssertionError("the last rule must take every prim_func")
