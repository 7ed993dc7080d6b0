"""What a schedule rule is, and how an ordered list of them is applied."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from tvm import s_tir, tirx

from athanor.schedules.decisions import DecisionError, DecisionPoint, Decisions, replaying

if TYPE_CHECKING:
    from athanor.targets.target import TargetSpec


class ScheduleRule(Protocol):
    """Schedules the prim_funcs of one kind; None means "not mine, try the next"."""

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """A scheduled copy of `func`, or None where the rule does not match."""
        ...


class ScheduleWarning(UserWarning):
    """A rule failed on a prim_func that it had matched: a defect of Athanor, not of the model."""


Lowered = TypeVar("Lowered")


def apply_rules(
    rules: Iterable[ScheduleRule],
    func: tirx.PrimFunc,
    target: TargetSpec,
    lower: Callable[[s_tir.Schedule], Lowered],
) -> tuple[s_tir.Schedule, Lowered, ScheduleRule]:
    """The schedule of the first rule that takes `func`, what `lower` makes of it, and that rule.

    A rule that fails, or whose schedule can't be lowered, costs the user speed, not the model: the
    next rules are tried, and a ScheduleWarning tells. The tests turn that warning into an error.
    """
    failure: Exception | None = None
    for rule in rules:
        try:
            schedule = rule.apply(func, target)
            if schedule is not None:
                return schedule, lower(schedule), rule
        except Exception as error:  # TVM's errors share no class but this
            failure = error
            name = type(rule).__name__
            warnings.warn(
                f"schedule rule {name} failed on a kernel that it matched, the kernel will be "
                f"slower; please report it: {type(error).__name__}: {str(error).strip()[:300]}",
                ScheduleWarning,
                stacklevel=2,
            )
    raise AssertionError("the last rule must take every prim_func") from failure


def apply_decisions(
    rules: Iterable[ScheduleRule],
    func: tirx.PrimFunc,
    target: TargetSpec,
    decisions: Decisions,
    repair: bool = False,
) -> tuple[s_tir.Schedule, list[DecisionPoint]]:
    """The schedule that a rule makes of `func` with these decisions, and what they were.

    repair: values that are not possible are changed to such as are. Raises DecisionError where
    the decisions don't fit, and whatever a rule raises that fails on them.
    """
    rule = next((r for r in rules if type(r).__name__ == decisions.rule), None)
    if rule is None:
        raise DecisionError(f"there is no rule {decisions.rule}")
    with replaying(decisions.values, repair) as points:
        schedule = rule.apply(func, target)
    if schedule is None:
        raise DecisionError(f"{decisions.rule} does not take the kernel")
    return schedule, points
