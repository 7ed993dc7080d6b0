"""Prim_funcs -> scheduled -> object files, on all cores; or object files of an earlier time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tvm import s_tir, tirx

from athanor.compiler.kernel_cache import CachedKernel, KernelCache
from athanor.schedules.rule import ScheduleWarning
from athanor.targets import TargetSpec
from athanor.targets.codegen import build_kernels
from athanor.targets.rules import replay_and_lower, schedule_and_lower
from athanor.tuning.apply import TunedKernels
from athanor.tuning.database import DatabaseWarning

_STEM_LIMIT = 60
"""Characters of a symbol that tell a reader of a disassembly what it is."""


@dataclass
class CompiledKernels:
    """Object files of a program's kernels, and where they came from."""

    objects: list[Path] = field(default_factory=list)
    symbols: Mapping[str, str] = field(default_factory=dict)
    """The symbol of each kernel in the artifact, as a debugger or a profiler shows it."""
    rules: dict[str, str] = field(default_factory=dict)
    """The rule that scheduled each kernel."""
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    """With keep_ir: each kernel's `tir`, `scheduled`, `llvm` and `asm`."""


def kernel_stem(name: str) -> str:
    """A kernel's name without the numbers that tell it from its like in one model."""
    return re.sub(r"\d+(?=_|$)", "", name)[:_STEM_LIMIT]


def kernel_symbols(
    kernels: Mapping[str, tirx.PrimFunc], cache: KernelCache, tuned: TunedKernels | None = None
) -> dict[str, str]:
    """The symbol of each kernel: the same in every model that has it, tuned in the same way."""
    symbols = {}
    for name, func in kernels.items():
        stem = kernel_stem(name)
        decisions = tuned.decisions(func) if tuned else None
        while (symbol := f"{stem}_{cache.key(stem, func, decisions)}") in symbols.values():
            stem += "_"  # equal hashes of kernels that are not equal
        symbols[name] = symbol
    return symbols


def compile_kernels(
    kernels: Mapping[str, tirx.PrimFunc],
    symbols: Mapping[str, str],
    target: TargetSpec,
    work: Path,
    pool: ThreadPoolExecutor,
    cache: KernelCache,
    keep_ir: bool,
    report: Callable[[str, int, int], None],
    tuned: TunedKernels | None = None,
) -> CompiledKernels:
    """Schedule each kernel that is not in the cache, and let LLVM compile it.

    tuned: what a database of tuning records knows; the rules' own decisions for all else.

    Scheduling holds Python's lock, LLVM does not: it works on one kernel while the next ones are
    scheduled. Each kernel is an object of its own, cached or not, so that equal models become equal
    artifacts.
    """
    result = CompiledKernels(symbols=symbols)
    building: list[Future[None]] = []
    for number, (name, func) in enumerate(kernels.items()):
        report("schedule", number, len(kernels))
        symbol = symbols[name]
        path = work / f"{symbol}.o"
        result.objects.append(path)
        found = None if keep_ir else cache.find(_key(symbol), func)
        if found is not None:
            path.write_bytes(found.object_code)
            result.rules[name] = found.rule
            continue
        with warnings.catch_warnings(record=True) as caught:
            scheduled, lowered, rule = _schedule(symbol, func, target, tuned)
        for warning in caught:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        result.rules[name] = rule
        if keep_ir:
            result.texts[name] = _texts(func, scheduled.mod["main"], symbol, lowered, target)
        # what warned is scheduled again the next time, to warn again
        loud = (ScheduleWarning, DatabaseWarning)
        keep = None if any(issubclass(w.category, loud) for w in caught) else cache
        building.append(pool.submit(_build, symbol, func, lowered, rule, path, target, keep))
    for number, future in enumerate(building):
        report("generate code", number, len(building))
        future.result()
    cache.prune()
    return result


def _schedule(
    symbol: str, func: tirx.PrimFunc, target: TargetSpec, tuned: TunedKernels | None
) -> tuple[s_tir.Schedule, tirx.PrimFunc, str]:
    """By a record that fits, else by the rules alone."""
    decisions = tuned.decisions(func) if tuned else None
    if tuned and decisions:
        try:
            scheduled, lowered, points = replay_and_lower(symbol, func, target, decisions)
            tuned.check_names(func, [point.name for point in points])
            return scheduled, lowered, decisions.rule
        except Exception as error:  # TVM's errors share no class but this
            tuned.report_misfit(func, error)
    return schedule_and_lower(symbol, func, target)


def _build(
    symbol: str,
    func: tirx.PrimFunc,
    lowered: tirx.PrimFunc,
    rule: str,
    path: Path,
    target: TargetSpec,
    cache: KernelCache | None,
) -> None:
    """One kernel's object file, kept in the cache."""
    build_kernels({symbol: lowered}, target).save(path)
    if cache is not None:
        cache.store(_key(symbol), func, CachedKernel(path.read_bytes(), rule))


def _key(symbol: str) -> str:
    """The cache's key, which ends the symbol."""
    return symbol.rpartition("_")[2]


def _texts(
    func: tirx.PrimFunc,
    scheduled: tirx.PrimFunc,
    symbol: str,
    lowered: tirx.PrimFunc,
    target: TargetSpec,
) -> dict[str, str]:
    """What keep_ir keeps."""
    alone = build_kernels({symbol: lowered}, target)
    return {
        "tir": func.script(),
        "scheduled": scheduled.script(),
        "llvm": alone.llvm_ir(),
        "asm": alone.assembly(),
    }
