"""tune(): measure candidates of a model's kernels until the budget or the gain is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from athanor.compiler.driver import plan_program
from athanor.errors import CompileError
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.frontends.onnx.type_check import blaming
from athanor.targets import TargetSpec, find_target
from athanor.targets.detect import cpu_features
from athanor.tuning.build import Builder
from athanor.tuning.context import make_context
from athanor.tuning.database import Database
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import Measurer
from athanor.tuning.task_state import ROUND, TaskState
from athanor.tuning.tasks import KernelTask, kernel_tasks

GAIN_WORTH_A_JOB = 0.01
"""Part of the model's time; a job that expects to gain less ends."""


@dataclass(frozen=True)
class TaskReport:
    """What a job knows of one kernel."""

    name: str
    workload: str
    shapes: str
    rule: str
    calls: int
    heuristic_secs: float
    """Of one call; infinite until it is measured."""
    best_secs: float
    trials: int
    failure: str | None = None
    """Why the kernel can't be measured."""

    @property
    def gain(self) -> float:
        """Part of the heuristic's time that is saved."""
        known = math.isfinite(self.heuristic_secs) and self.heuristic_secs > 0
        return 1 - self.best_secs / self.heuristic_secs if known else 0.0


@dataclass(frozen=True)
class TuningReport:
    """A job so far, or its end."""

    tasks: tuple[TaskReport, ...]
    trials: int
    """Candidates that this job measured."""
    elapsed_secs: float
    heuristic_secs: float
    """One run of the model untuned: the sum of its kernels, each measured alone."""
    best_secs: float
    """The same with what is best so far."""
    expected_gain: float
    """Part of `best_secs` that going on is expected to save."""
    history: tuple[tuple[float, int, float], ...]
    """(elapsed seconds, trials, best_secs) whenever that changed."""
    stage: str
    """What is done now; at the end why the job ended."""

    @property
    def gain(self) -> float:
        """Part of the untuned time that is saved."""
        return 1 - self.best_secs / self.heuristic_secs if self.heuristic_secs else 0.0

    def slowest_first(self) -> list[TaskReport]:
        """The kernels that take most of a run first."""

        def untuned(task: TaskReport) -> float:
            return task.heuristic_secs * task.calls if math.isfinite(task.heuristic_secs) else 0.0

        return sorted(self.tasks, key=untuned, reverse=True)


OnProgress = Callable[[TuningReport], None]


def tune(
    model: str | Path | bytes | onnx.ModelProto,
    target: str = "native",
    *,
    database: str | Path,
    trials: int | None = None,
    minutes: float | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    winograd: bool = True,
    threads: int | None = None,
    seed: int = 0,
    measurer: Measurer | None = None,
    on_progress: OnProgress | None = None,
) -> TuningReport:
    """Find faster decisions for the kernels of a model, and record them in a database.

    model, target, shapes, operators, winograd: as in `athanor.compile`. database: a folder, made
    where there is none; what it holds of the same kernels is taken over, so an interrupted job
    goes on. trials: candidates to measure at most. minutes: time to take at most. With neither,
    until the gain to expect falls under 1%. dims: sizes of symbolic dimensions while measuring; 1
    where none is given. threads: that kernels run with; every core by default. seed: of the search.
    measurer: where candidates run; by default in processes of this machine. on_progress: called
    with a TuningReport after every step.

    An interrupt (Ctrl-C) ends the job with its report. Raises CompileError where the model can't
    be compiled, an option is wrong, or the database can't be read or written.
    """
    check_budget(trials, minutes)
    spec = find_target(target)
    if measurer is None:
        _check_runs_here(spec)
    records = Database(database, create=True)
    tasks = model_tasks(model, spec, shapes, dims, operators, winograd)
    own = LocalMeasurer(spec, threads) if measurer is None else None
    builder = Builder(spec, spec.cores)
    try:
        used = measurer or own
        assert used is not None
        job = Job(records, used, trials, minutes, on_progress)
        context = make_context(spec, used.threads, used.cpu)
        return job.run([TaskState(t, builder, records, context, seed) for t in tasks.values()])
    finally:
        builder.close()
        if own is not None:
            own.close()


def check_budget(trials: int | None, minutes: float | None) -> None:
    """Raises CompileError for a budget of nothing."""
    if trials is not None and trials < 1:
        raise CompileError(f"trials is {trials}: give at least 1, or leave it out")
    if minutes is not None and not minutes > 0:
        raise CompileError(f"minutes is {minutes}: give more than 0, or leave it out")


def model_tasks(
    model: str | Path | bytes | onnx.ModelProto,
    target: TargetSpec,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    winograd: bool = True,
) -> dict[str, KernelTask]:
    """The kernels of a model that can be tuned, by their key; arguments as in `tune`."""
    source = read_model(model)
    with blaming(source):
        imported = import_model(source, shapes, operators)
        unknown = sorted(set(dims or {}) - set(imported.symbols))
        if unknown:
            raise CompileError(
                f"dims: the model has no symbolic dimension {unknown[0]!r}; it has "
                f"{list(imported.symbols)}"
            )
        program, plan = plan_program(imported, target, winograd)
    return kernel_tasks(program, plan, target, dims or {})


def _check_runs_here(target: TargetSpec) -> None:
    missing = sorted(set(target.cpu_features) - cpu_features())
    if missing:
        raise CompileError(
            f"target {target.name}: this machine lacks {', '.join(missing)}, so it can't measure; "
            "measure on a device (--tracker, --bundle) or tune for native"
        )


class Job:
    """Kernels that are tuned one after the other, where most is to be expected."""

    def __init__(
        self,
        database: Database,
        measurer: Measurer,
        trials: int | None,
        minutes: float | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.database, self.measurer = database, measurer
        self.most_trials = math.inf if trials is None else trials
        self.most_secs = math.inf if minutes is None else 60 * minutes
        self.on_progress = on_progress or (lambda _report: None)
        self.started = time.monotonic()
        self.trials = 0
        self.states: list[TaskState] = []
        self.history: list[tuple[float, int, float]] = []

    def run(self, states: list[TaskState]) -> TuningReport:
        """Measure the heuristic's candidates, then rounds where they promise most."""
        self.states = states
        try:
            ended = self._work()
        except KeyboardInterrupt:
            ended = "interrupted; the same command goes on"
        return self._report(ended)

    def _work(self) -> str:
        for state in self.states:
            if self._is_spent:
                return self._spent()
            if not state.is_measured:
                self._tell(f"heuristic of {state.task.name}")
                state.measure_heuristic(self.measurer, self._count)
        while not self._is_spent:
            open_states = [state for state in self.states if state.is_open]
            total = self._seconds(best=True)
            if not open_states:
                return "every candidate has been measured"
            if self._unlimited and self._expected_gain() < GAIN_WORTH_A_JOB:
                return f"less than {GAIN_WORTH_A_JOB:.0%} more is to be expected"
            state = max(open_states, key=next_gain)
            self._tell(f"candidates of {state.task.name}")
            state.round(self.measurer, int(min(ROUND, self.most_trials - self.trials)), self._count)
            if self._seconds(best=True) < total:
                self._note()
        return self._spent()

    @property
    def _unlimited(self) -> bool:
        return math.isinf(self.most_trials) and math.isinf(self.most_secs)

    @property
    def _is_spent(self) -> bool:
        return self.trials >= self.most_trials or self._elapsed >= self.most_secs

    def _spent(self) -> str:
        return "all trials are used" if self.trials >= self.most_trials else "the time is up"

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _count(self) -> None:
        self.trials += 1

    def _seconds(self, best: bool) -> float:
        """The model's time, of the kernels that are measured."""
        times = [
            (s.progress.best_secs if best else s.progress.heuristic_secs, s.task.calls)
            for s in self.states
        ]
        return sum(secs * calls for secs, calls in times if math.isfinite(secs))

    def _expected_gain(self) -> float:
        total = self._seconds(best=True)
        gains = [s.progress.whole_gain * _time(s) for s in self.states if s.is_open]
        return sum(gains) / total if total else 0.0

    def _note(self) -> None:
        self.history.append((self._elapsed, self.trials, self._seconds(best=True)))

    def _tell(self, stage: str) -> None:
        self.on_progress(self._report(stage))

    def _report(self, stage: str) -> TuningReport:
        tasks = tuple(
            TaskReport(
                s.task.name,
                s.task.key,
                s.task.shapes,
                s.rule,
                s.task.calls,
                s.progress.heuristic_secs,
                s.progress.best_secs,
                len(s.search.trials),
                s.failure.sentence if s.failure else None,
            )
            for s in self.states
        )
        heuristic, best = self._seconds(best=False), self._seconds(best=True)
        if not self.history and all(s.is_measured for s in self.states):
            self._note()
        return TuningReport(
            tasks,
            self.trials,
            self._elapsed,
            heuristic,
            best,
            self._expected_gain(),
            tuple(self.history),
            stage,
        )


def _time(state: TaskState) -> float:
    """Seconds of one run of the model in this kernel."""
    secs = state.progress.best_secs
    return secs * state.task.calls if math.isfinite(secs) else 0.0


def next_gain(state: TaskState) -> float:
    """Seconds that one more round is expected to take off a run of the model."""
    return state.progress.next_gain * _time(state)
