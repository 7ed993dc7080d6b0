"""Which schedule rules serve a GPU, in order."""

from __future__ import annotations

import warnings

from tvm import tirx

from athanor.schedules.decisions import DecisionPoint, Decisions
from athanor.schedules.rule import ScheduleRule, ScheduleWarning, apply_decisions
from athanor.schedules.rules.cuda_by_hand import CUDAByHand
from athanor.schedules.rules.cuda_conv2d import CUDAConv2d
from athanor.schedules.rules.cuda_depthwise import CUDADepthwise
from athanor.schedules.rules.cuda_elementwise import CUDAElementwise
from athanor.schedules.rules.cuda_fallback import CUDAFallback
from athanor.schedules.rules.cuda_matmul import CUDAMatmul
from athanor.schedules.rules.cuda_rows import CUDARows
from athanor.schedules.rules.cuda_transpose import CUDATranspose
from athanor.targets.cuda_codegen import lower_device_kernel
from athanor.targets.device_kernel import DeviceKernel
from athanor.targets.target import TargetSpec

CUDA_RULES: tuple[ScheduleRule, ...] = (
    CUDAByHand(),
    CUDAMatmul(),
    CUDAConv2d(),
    CUDADepthwise(),
    CUDARows(),
    CUDATranspose(),
    CUDAElementwise(),
    CUDAFallback(),
)
"""The first that takes a prim_func wins. What none takes runs on the host, by the CPU's rules: it
has no loops that are surely parallel, and one thread of a GPU is slower than a processor and the
copies to it and back."""


def schedule_on_device(
    name: str, func: tirx.PrimFunc, target: TargetSpec
) -> tuple[DeviceKernel, str] | None:
    """The kernel that `func` becomes on `target.gpu`, and the rule; None: it is for the host.

    A rule that fails costs speed, not the model: the next ones are tried, and a ScheduleWarning
    tells.
    """
    assert target.gpu is not None, f"{target.name} has no device"
    for rule in CUDA_RULES:
        try:
            sch = rule.apply(func, target)
            if sch is not None:
                kernel = lower_device_kernel(name, sch.mod["main"], target.gpu)
                return kernel, type(rule).__name__
        except Exception as error:  # TVM's errors share no class but this
            warnings.warn(
                f"schedule rule {type(rule).__name__} failed on a kernel that it matched, the "
                f"kernel will be slower; please report it: {type(error).__name__}: "
                f"{str(error).strip()[:300]}",
                ScheduleWarning,
                stacklevel=2,
            )
    return None


def replay_on_device(
    name: str, func: tirx.PrimFunc, target: TargetSpec, decisions: Decisions
) -> tuple[DeviceKernel, list[DecisionPoint]]:
    """The kernel that a tuner's decisions make, and what they were about.

    Raises as `apply_decisions` does.
    """
    assert target.gpu is not None, f"{target.name} has no device"
    sch, points = apply_decisions(CUDA_RULES, func, target, decisions)
    return lower_device_kernel(name, sch.mod["main"], target.gpu), points
