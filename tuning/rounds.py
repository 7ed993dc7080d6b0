"""Rounds of measuring, where they promise most, until the budget or the gain is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from athanor.errors import CompileError
from athanor.tuning.choose import ChoiceReport
from athanor.tuning.database import Database
from athanor.tuning.measure import Measurer, TimedMeasurer
from athanor.tuning.task_state import (
    FINALISTS,
    ROUND,
    TOGETHER,
    TaskState,
    measure_heuristics,
)

GAIN_WORTH_A_JOB = 0.01
"""Part of the model's time; a job that expects to gain less ends."""

EVERYTHING = "every candidate has been measured"
MOST_LOST_CALLS = 3
"""Times in a row that no device measured anything; then the job ends."""


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
    def is_measured(self) -> bool:
        """Whether there are times."""
        return math.isfinite(self.heuristic_secs)

    @property
    def gain(self) -> float:
        """Part of the heuristic's time that is saved."""
        known = self.is_measured and self.heuristic_secs > 0
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
    choices: tuple[ChoiceReport, ...] = ()
    """What this job chose about the graph: methods and layouts of operators."""
    building_secs: float = 0.0
    """Of `elapsed_secs`: scheduling candidates and generating their code."""
    measuring_secs: float = 0.0
    """Of `elapsed_secs`: linking candidates, running them, comparing their outputs."""

    @property
    def gain(self) -> float:
        """Part of the untuned time that is saved."""
        return 1 - self.best_secs / self.heuristic_secs if self.heuristic_secs else 0.0

    def slowest_first(self) -> list[TaskReport]:
        """The kernels that take most of a run first."""

        def untuned(task: TaskReport) -> float:
            return task.heuristic_secs * task.calls if task.is_measured else 0.0

        return sorted(self.tasks, key=untuned, reverse=True)


OnProgress = Callable[[TuningReport], None]


def check_budget(trials: int | None, minutes: float | None) -> None:
    """Raises CompileError for a budget of nothing."""
    if trials is not None and trials < 1:
        raise CompileError(f"trials is {trials}: give at least 1, or leave it out")
    if minutes is not None and not minutes > 0:
        raise CompileError(f"minutes is {minutes}: give more than 0, or leave it out")


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
        self.database, self.measurer = database, TimedMeasurer(measurer)
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
        if not self._measure_heuristics():
            return self._spent()
        while not self._is_spent:
            total = self._seconds(best=True)
            step = self._next()
            if step is None:
                return self._spent() if self.measurer.lost_calls else EVERYTHING
            if self._unlimited and self._expected_gain() < GAIN_WORTH_A_JOB:
                return f"less than {GAIN_WORTH_A_JOB:.0%} more is to be expected"
            _, what, do = step
            self._tell(what)
            do()
            if self._seconds(best=True) != total:
                self._note()
        return self._spent()

    def _next(self) -> tuple[float, str, Callable[[], None]] | None:
        """What promises most: seconds less a run for each candidate, its name, how to do it."""
        return self._next_round(self.states)

    def _next_round(
        self, states: Sequence[TaskState]
    ) -> tuple[float, str, Callable[[], None]] | None:
        open_states = [state for state in states if state.is_open]
        if not open_states:
            return None
        state = max(open_states, key=next_gain)

        def do() -> None:
            state.round(self.measurer, int(min(ROUND, self.most_trials - self.trials)), self._count)

        worth = next_gain(state) / (ROUND + FINALISTS + 1)
        return worth, f"candidates of {state.task.name}", do

    def _measure_heuristics(self) -> bool:
        """The first candidate of every kernel; False where the budget ends before."""
        unknown = [state for state in self.states if not state.is_measured]
        while unknown:
            if self._is_spent:
                return False
            some = unknown[: int(min(TOGETHER, self.most_trials - self.trials))]
            self._tell(f"heuristic of {some[0].task.name}")
            measure_heuristics(some, self.measurer, self._count)
            unknown = unknown[len(some) :]
        return True

    @property
    def _unlimited(self) -> bool:
        return math.isinf(self.most_trials) and math.isinf(self.most_secs)

    @property
    def _is_spent(self) -> bool:
        return self._is_lost or self._is_used_up

    @property
    def _is_used_up(self) -> bool:
        return self.trials >= self.most_trials or self._elapsed >= self.most_secs

    @property
    def _is_lost(self) -> bool:
        return self.measurer.lost_calls >= MOST_LOST_CALLS

    def _spent(self) -> str:
        if self._is_lost or not self._is_used_up:
            return f"nothing measures any more ({self.measurer.why_lost}); the same command goes on"
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
        return self._expected_secs() / total if total else 0.0

    def _expected_secs(self) -> float:
        """Seconds of a run that all that is left to try is expected to save."""
        return sum(s.progress.whole_gain * _time(s) for s in self.states if s.is_open)

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
            self._choices(),
            self.states[0].builder.busy_secs if self.states else 0.0,
            self.measurer.busy_secs,
        )

    def _choices(self) -> tuple[ChoiceReport, ...]:
        return ()


def _time(state: TaskState) -> float:
    """Seconds of one run of the model in this kernel."""
    secs = state.progress.best_secs
    return secs * state.task.calls if math.isfinite(secs) else 0.0


def next_gain(state: TaskState) -> float:
    """Seconds that one more round is expected to take off a run of the model."""
    return state.progress.next_gain * _time(state)
