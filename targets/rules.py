"""Which schedule rules serve a CPU, in order."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules.decisions import DecisionPoint, Decisions
from athanor.schedules.rule import ScheduleRule, apply_decisions, apply_rules
from athanor.schedules.rules.by_hand import ByHand
from athanor.schedules.rules.cpu_conv2d import CPUConv2d
from athanor.schedules.rules.cpu_conv2d_plain import CPUConv2dPlain
from athanor.schedules.rules.cpu_deal import CPUDeal
from athanor.schedules.rules.cpu_depthwise import CPUDepthwise
from athanor.schedules.rules.cpu_elementwise import CPUElementwise
from athanor.schedules.rules.cpu_fallback import CPUFallback
from athanor.schedules.rules.cpu_matmul import CPUMatmul
from athanor.schedules.rules.cpu_plain_window import CPUPlainWindow
from athanor.schedules.rules.cpu_pool import CPUPool
from athanor.schedules.rules.cpu_recurrent import CPURecurrent
from athanor.schedules.rules.cpu_reduction import CPUReduction
from athanor.schedules.rules.cpu_window import CPUWindow
from athanor.schedules.rules.cpu_winograd import CPUWinograd
from athanor.targets.codegen import lower_kernel
from athanor.targets.target import TargetSpec

CPU_RULES: tuple[ScheduleRule, ...] = (
    ByHand(),
    CPUMatmul(),
    CPUConv2d(),
    CPUWinograd(),
    CPUDepthwise(),
    CPUPool(),
    CPUPlainWindow(),
    CPUConv2dPlain(),
    CPUDeal(),
    CPURecurrent(),
    CPUElementwise(),
    CPUWindow(),
    CPUReduction(),
    CPUFallback(),
)
"""The first that takes a prim_func wins: the particular before the general."""


def schedule(func: tirx.PrimFunc, target: TargetSpec) -> tuple[s_tir.Schedule, str]:
    """The schedule of `func` for `target`, and the name of the rule that made it."""
    sch, _, rule = apply_rules(CPU_RULES, func, target, lambda _schedule: None)
    return sch, type(rule).__name__


def schedule_and_lower(
    name: str, func: tirx.PrimFunc, target: TargetSpec
) -> tuple[s_tir.Schedule, tirx.PrimFunc, str]:
    """The heuristic schedule of `func`, the kernel `name` that it becomes, and the rule's name."""

    def lower(sch: s_tir.Schedule) -> tirx.PrimFunc:
        return lower_kernel(name, sch.mod["main"], target)

    sch, kernel, rule = apply_rules(CPU_RULES, func, target, lower)
    return sch, kernel, type(rule).__name__


def replay_and_lower(
    name: str,
    func: tirx.PrimFunc,
    target: TargetSpec,
    decisions: Decisions,
    repair: bool = False,
) -> tuple[s_tir.Schedule, tirx.PrimFunc, list[DecisionPoint]]:
    """The schedule with decisions of a tuner, the kernel, and what was decided.

    Raises as `apply_decisions` does.
    """
    sch, points = apply_decisions(CPU_RULES, func, target, decisions, repair)
    return sch, lower_kernel(name, sch.mod["main"], target), points
