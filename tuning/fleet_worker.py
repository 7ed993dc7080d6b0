"""What runs on the workers of a fleet: one round of one kernel, and what it recorded."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from athanor.targets import TargetSpec
from athanor.targets.detect import cpu_features
from athanor.tuning.build import Builder
from athanor.tuning.context import Context, make_context
from athanor.tuning.database import RECORDS, Database
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import Argument, Failure
from athanor.tuning.task_state import TaskState
from athanor.tuning.tasks import KernelTask


@dataclass(frozen=True)
class Slice:
    """One kernel and what the job's database has of it."""

    target: TargetSpec
    threads: int | None
    seed: int
    count: int
    """Candidates to measure; 0: the heuristic's."""
    lines: tuple[dict[str, Any], ...]
    key: str
    name: str
    func: str
    """As JSON of TVM."""
    arguments: tuple[Argument, ...]
    dims: tuple[int, ...]
    evict_bytes: int


@dataclass(frozen=True)
class SliceResult:
    """What came out."""

    context: Context
    lines: tuple[dict[str, Any], ...]
    """New records, in order."""
    trials: int
    failure: Failure | None
    """Of the heuristic's candidate."""


@dataclass(frozen=True)
class Worker:
    """A worker, as far as its measurements depend on it."""

    context: Context
    missing: tuple[str, ...]
    """Features of the target that its processor has not."""


def make_slice(
    state: TaskState, count: int, target: TargetSpec, threads: int | None, seed: int
) -> Slice:
    """What a worker needs to go on with a kernel."""
    task = state.task
    lines = [
        line for line in state.database.lines if task.key in (line.get("workload"), line.get("key"))
    ]
    func = tvm.ir.save_json(task.func)
    return Slice(
        target,
        threads,
        seed,
        count,
        tuple(lines),
        task.key,
        task.name,
        func,
        task.arguments,
        task.dims,
        task.evict_bytes,
    )


def describe_worker(target: TargetSpec, threads: int | None) -> Worker:
    """This process."""
    missing = tuple(sorted(set(target.cpu_features) - cpu_features()))
    return Worker(make_context(target, _measurer(target, threads).threads), missing)


def run_slice(work: Slice) -> SliceResult:
    """Measure the heuristic's candidate, or a round. Its records are on no disk but here."""
    measurer = _measurer(work.target, work.threads)
    context = make_context(work.target, measurer.threads)
    func = tvm.ir.load_json(work.func)
    task = KernelTask(work.key, work.name, func, work.arguments, work.dims, work.evict_bytes)
    trials = 0

    def count() -> None:
        nonlocal trials
        trials += 1

    with tempfile.TemporaryDirectory(prefix="athanor-slice-") as folder:
        Path(folder, RECORDS).write_text("".join(json.dumps(line) + "\n" for line in work.lines))
        database = Database(folder)
        state = TaskState(task, _builder(work.target), database, context, work.seed)
        if work.count:
            state.round(measurer, work.count, count)
        else:
            state.measure_heuristic(measurer, count)
        fresh: Sequence[dict[str, Any]] = database.lines[len(work.lines) :]
    return SliceResult(context, tuple(fresh), trials, state.failure)


@functools.cache
def _builder(target: TargetSpec) -> Builder:
    return Builder(target, target.cores)


@functools.cache
def _measurer(target: TargetSpec, threads: int | None) -> LocalMeasurer:
    return LocalMeasurer(target, threads)
