"""Prim_funcs -> scheduled -> object files, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tvm import tirx

from athanor.targets import TargetSpec
from athanor.targets.codegen import build_kernels
from athanor.targets.rules import schedule_and_lower


@dataclass
class CompiledKernels:
    """Object files of a program's kernels, and where they came from."""

    objects: list[Path] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)
    """The rule that scheduled each kernel."""
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    """With keep_ir: each kernel's `tir`, `scheduled`, `llvm` and `asm`."""


def compile_kernels(
    kernels: Mapping[str, tirx.PrimFunc],
    target: TargetSpec,
    work: Path,
    pool: ThreadPoolExecutor,
    keep_ir: bool,
    report: Callable[[str, int, int], None],
) -> CompiledKernels:
    """Schedule each kernel, and let LLVM compile them in as many parts as there are cores.

    Scheduling holds Python's lock, LLVM does not; kernels are dealt out in turn, for neighbours
    tend to be alike and so the parts end at about the same time.
    """
    result = CompiledKernels()
    lowered: dict[str, tirx.PrimFunc] = {}
    for number, (name, func) in enumerate(kernels.items()):
        report("schedule", number, len(kernels))
        scheduled, lowered[name], result.rules[name] = schedule_and_lower(name, func, target)
        if keep_ir:
            alone = build_kernels({name: lowered[name]}, target)
            result.texts[name] = {
                "tir": func.script(),
                "scheduled": scheduled.mod["main"].script(),
                "llvm": alone.llvm_ir(),
                "asm": alone.assembly(),
            }
    parts: list[dict[str, tirx.PrimFunc]] = [{} for _ in range(max(1, target.cores))]
    for number, (name, func) in enumerate(lowered.items()):
        parts[number % len(parts)][name] = func
    filled = [part for part in parts if part]
    report("generate code", 0, len(filled))

    def build(number: int) -> Path:
        return build_kernels(filled[number], target).save(work / f"kernels{number}.o")

    for number, path in enumerate(pool.map(build, range(len(filled)))):
        report("generate code", number + 1, len(filled))
        result.objects.append(path)
    return result
