"""Decisions -> object code of candidates."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tvm import tirx

from athanor.schedules.decisions import DecisionPoint, Decisions
from athanor.schedules.rule import apply_decisions
from athanor.targets import TargetSpec
from athanor.targets.codegen import build_kernels
from athanor.targets.rules import CPU_RULES, replay_and_lower, schedule
from athanor.tuning.measure import BUILD, Candidate, Failure, Reference
from athanor.tuning.tasks import KernelTask

SYMBOL = "candidate"
"""Of every candidate, so that the measuring program is compiled once for a kernel's signature."""


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


def rule_of(func: tirx.PrimFunc, target: TargetSpec) -> str:
    """The rule that takes a kernel."""
    return schedule(func, target)[1]


class Builder:
    """Builds candidates of one target; scheduling holds Python's lock, LLVM uses `jobs` cores."""

    def __init__(self, target: TargetSpec, jobs: int) -> None:
        self.target = target
        self._pool = ThreadPoolExecutor(jobs)
        self._folder = tempfile.TemporaryDirectory(prefix="athanor-build-")
        self._count = 0

    def points(self, func: tirx.PrimFunc, rule: str, values: Sequence[int]) -> Built:
        """The decisions without the code, repaired as by `build`."""
        try:
            found = apply_decisions(
                CPU_RULES, func, self.target, Decisions(rule, tuple(values)), repair=True
            )[1]
        except Exception as error:  # TVM's errors share no class but this
            return Built(unknown_points(values), error=_failure(error))
        return Built(tuple(found))

    def build(
        self, func: tirx.PrimFunc, rule: str, vectors: Sequence[Sequence[int]]
    ) -> list[Built]:
        """A candidate for each vector of values; equal ones come once.

        Impossible values are repaired, missing ones are the heuristic's.
        """
        started: list[tuple[Built, Future[bytes] | None]] = []
        seen: set[tuple[int, ...]] = set()
        for values in vectors:
            decisions = Decisions(rule, tuple(values))
            try:
                _, lowered, points = replay_and_lower(
                    SYMBOL, func, self.target, decisions, repair=True
                )
            except Exception as error:  # TVM's errors share no class but this
                started.append((Built(unknown_points(values), error=_failure(error)), None))
                continue
            built = Built(tuple(points))
            if built.values not in seen:
                seen.add(built.values)
                started.append((built, self._pool.submit(self._generate, lowered)))
        done = []
        for built, future in started:
            if future is not None:
                try:
                    built = Built(built.points, future.result())
                except Exception as error:
                    built = Built(built.points, error=_failure(error))
            done.append(built)
        return done

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
