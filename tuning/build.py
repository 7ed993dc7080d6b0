"""Decisions -> object code of candidates."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tvm import s_tir, tirx

from athanor.schedules.decisions import DecisionPoint, Decisions
from athanor.schedules.rule import apply_decisions
from athanor.targets import TargetSpec
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.cuda_rules import CUDA_RULES, schedule_on_device
from athanor.targets.rules import CPU_RULES, schedule
from athanor.tuning.device_object import lower_candidate
from athanor.tuning.measure import BUILD, Candidate, Failure, Reference
from athanor.tuning.tasks import KernelTask

SYMBOL = "candidate"
"""Of every candidate, so that the measuring program is compiled once for a kernel's signature."""
KEPT = 64
"""Schedules that are kept from a proposal until the candidate is built."""


@dataclass(frozen=True)
class Built:
    """A candidate's decisions, and its object code or why there is none."""

    points: tuple[DecisionPoint, ...]
    object_code: bytes = b""
    error: Failure | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """The decisions' values."""
        return tuple(point.value for point in self.points)

    @property
    def names(self) -> list[str]:
        """The decisions' names."""
        return [point.name for point in self.points]

    @property
    def code(self) -> str:
        """16 hexadecimal digits that tell its code from others; empty where there is none."""
        return hashlib.sha256(self.object_code).hexdigest()[:16] if self.object_code else ""


def rule_of(func: tirx.PrimFunc, target: TargetSpec) -> str:
    """The rule that takes a kernel; of a GPU's target one that the device runs."""
    if target.gpu is not None:
        made = schedule_on_device(SYMBOL, func, target)
        assert made is not None, "a kernel of the host can't be tuned for the device"
        return made[1]
    return schedule(func, target)[1]


class Builder:
    """Builds candidates of one target.

    Scheduling holds Python's lock; LLVM, or the compiler for CUDA, uses `jobs` cores.
    """

    def __init__(self, target: TargetSpec, jobs: int) -> None:
        self.target = target
        self.rules = CUDA_RULES if target.gpu else CPU_RULES
        self._pool = ThreadPoolExecutor(jobs)
        self._folder = tempfile.TemporaryDirectory(prefix="athanor-build-")
        self._count = 0
        self._scheduled: dict[
            tuple[tirx.PrimFunc, str, tuple[int, ...]], tuple[s_tir.Schedule, list[DecisionPoint]]
        ] = {}
        """What `points` made and `build` has not asked for yet, prim_funcs by identity."""
        self.busy_secs = 0.0
        """That a job waited for it."""

    def points(self, func: tirx.PrimFunc, rule: str, values: Sequence[int]) -> Built:
        """The decisions without the code, repaired as by `build`."""
        with self._timed():
            try:
                schedule, found = apply_decisions(
                    self.rules, func, self.target, Decisions(rule, tuple(values)), repair=True
                )
            except Exception as error:  # TVM's errors share no class but this
                return Built(unknown_points(values), error=_failure(error))
            built = Built(tuple(found))
            if len(self._scheduled) == KEPT:
                self._scheduled.pop(next(iter(self._scheduled)))
            self._scheduled[func, rule, built.values] = schedule, found
            return built

    def build(
        self, func: tirx.PrimFunc, rule: str, vectors: Sequence[Sequence[int]]
    ) -> list[Built]:
        """A candidate for each vector of values; equal ones come once.

        Impossible values are repaired, missing ones are the heuristic's.
        """
        found = self.build_all([(func, rule, values) for values in vectors])
        return list({built.values: built for built in found}.values())

    def build_all(
        self, requests: Sequence[tuple[tirx.PrimFunc, str, Sequence[int]]]
    ) -> list[Built]:
        """The same for kernels and rules of any number, one of each."""
        with self._timed():
            started = [self._start(*request) for request in requests]
            return [_finish(*one) for one in started]

    def _start(
        self, func: tirx.PrimFunc, rule: str, values: Sequence[int]
    ) -> tuple[Built, Future[bytes] | None]:
        decisions = Decisions(rule, tuple(values))
        try:
            found = self._scheduled.pop((func, rule, decisions.values), None)
            if found is None:
                found = apply_decisions(self.rules, func, self.target, decisions, repair=True)
            schedule, points = found
            generate = self._lower(schedule.mod["main"])
        except Exception as error:  # TVM's errors share no class but this
            return Built(unknown_points(values), error=_failure(error)), None
        return Built(tuple(points)), self._pool.submit(generate)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.busy_secs += time.monotonic() - started

    def _lower(self, func: tirx.PrimFunc) -> Callable[[], bytes]:
        """What is left to do of a scheduled kernel without Python's lock: its object code."""
        if self.target.gpu is not None:
            return lower_candidate(SYMBOL, func, self.target)
        lowered = lower_kernel(SYMBOL, func, self.target)
        return lambda: self._generate(lowered)

    def _generate(self, lowered: tirx.PrimFunc) -> bytes:
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}-{id(lowered)}.o"
        build_kernels({SYMBOL: lowered}, self.target).save(path)
        code = path.read_bytes()
        path.unlink()
        return code

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
        self._folder.cleanup()


def _finish(built: Built, future: Future[bytes] | None) -> Built:
    if future is None:
        return built
    try:
        return Built(built.points, future.result())
    except Exception as error:
        return Built(built.points, error=_failure(error))


def unknown_points(values: Sequence[int]) -> tuple[DecisionPoint, ...]:
    """The decisions of a candidate that a rule failed on."""
    return tuple(DecisionPoint("", (), value) for value in values)


def make_candidate(task: KernelTask, built: Built, heuristic: Built | None) -> Candidate:
    """What a measurer takes; heuristic: whose outputs are compared."""
    assert built.error is None
    reference = Reference(heuristic.object_code) if heuristic and heuristic is not built else None
    return Candidate(
        task.key,
        built.values,
        built.object_code,
        SYMBOL,
        task.arguments,
        task.dims,
        task.evict_bytes,
        reference,
    )


def _failure(error: Exception) -> Failure:
    return Failure(BUILD, f"{type(error).__name__}: {str(error).strip()[:300]}")
