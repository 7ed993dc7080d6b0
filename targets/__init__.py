"""Targets: what differs per device, and code generation for it."""

from __future__ import annotations

import platform
from dataclasses import replace

from athanor.errors import CompileError
from athanor.targets.aarch64 import AARCH64
from athanor.targets.cuda import parse_cuda
from athanor.targets.detect import cpu_features, detect_target
from athanor.targets.riscv64 import RV64GCV
from athanor.targets.target import TargetSpec
from athanor.targets.x86_64 import X86_64_V2, X86_64_V3, X86_64_V4, X86_64_V4_BF16

__all__ = ["PRECISIONS", "TARGETS", "TargetSpec", "find_target", "target_for_precision"]

TARGETS = {
    spec.name: spec for spec in (X86_64_V2, X86_64_V3, X86_64_V4, X86_64_V4_BF16, AARCH64, RV64GCV)
}

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""Of the numbers that convolutions and matrix products multiply; fp16 and tf32 on GPUs."""


_GPU_HOST = {"x86_64": X86_64_V3.name, "aarch64": AARCH64.name}
"""The processor that drives a GPU, by the family of the one that compiles."""


def find_target(name: str) -> TargetSpec:
    """The target of that name; `native` is the machine that compiles, `cuda ...` a GPU.

    Raises CompileError for an unknown name, listing the known ones.
    """
    if name == "native":
        try:
            return detect_target()
        except LookupError as error:
            raise CompileError(f"target 'native': {error}; name a target instead") from error
    if name.split()[:1] == ["cuda"]:
        return parse_cuda(name, TARGETS, _GPU_HOST.get(platform.machine(), X86_64_V3.name))
    if name not in TARGETS:
        known = ", ".join(("native", *TARGETS, "cuda"))
        raise CompileError(f"unknown target {name!r}; known targets: {known}")
    return TARGETS[name]


def target_for_precision(name: str, precision: str) -> TargetSpec:
    """The target of that name, multiplying in that precision.

    `native` takes AVX512_BF16 in only where `bf16` asks for it, so that other artifacts run on
    machines without. Raises CompileError for an unknown name, and where the target can't.
    """
    if precision not in PRECISIONS:
        raise CompileError(f"precision={precision!r}: expected {' or '.join(PRECISIONS)}")
    spec = find_target(name)
    if spec.gpu:
        if precision != "fp32" and not spec.gpu.tensor_cores:
            raise CompileError(
                f"precision={precision!r}: target {name!r} has {spec.gpu.architectures[0]}, and "
                "kernels for tensor cores want sm_80 or later; leave precision at 'fp32'"
            )
        return replace(spec, gpu=replace(spec.gpu, precision=precision))
    if precision in ("tf32", "fp16"):
        raise CompileError(
            f"precision={precision!r} is for NVIDIA GPUs; target {name!r} ({spec.name}) multiplies "
            "in 'fp32' or 'bf16'"
        )
    if precision == "fp32" or spec.bf16_dots:
        return spec
    wanted = X86_64_V4_BF16
    if name == "native" and spec.cpu_features == X86_64_V4.cpu_features:
        if cpu_features().issuperset(wanted.cpu_features):
            return replace(
                spec, name=wanted.name, mattr=wanted.mattr, cpu_features=wanted.cpu_features
            )
    raise CompileError(
        f"precision='bf16': target {name!r} ({spec.name}) has no dot products of bfloat16 "
        f"(AVX512_BF16); compile for {wanted.name!r}, or leave precision at 'fp32'"
    )
