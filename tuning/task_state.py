"""One kernel while it is tuned: its trials, what is known to be best, and one round of search."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from athanor.schedules.decisions import DecisionPoint
from athanor.tuning.build import Builder, Built, make_candidate, rule_of
from athanor.tuning.context import Context, misfit
from athanor.tuning.database import BEST, TRIAL, UNCONFIRMED, Database, DatabaseWarning
from athanor.tuning.estimate import Progress
from athanor.tuning.faster import is_faster, median_ratio
from athanor.tuning.measure import (
    DEVICE_LOST,
    Candidate,
    Failure,
    Measurement,
    Measurer,
    is_lost,
)
from athanor.tuning.search import Search, Trial
from athanor.tuning.tasks import KernelTask

ROUND = 8
"""Candidates of one round."""
TOGETHER = 16
"""Kernels whose heuristic is built, linked and measured at once."""
FINALISTS = 3
"""Fastest candidates that are measured again, in turn with the heuristic's."""
TURNS = 21
"""Calls of each finalist."""
LEAST_GAIN = 0.975
"""Time against the heuristic's from which a candidate counts as faster: a gain of 1 or 2% in the
measuring program may be a loss in a model."""
SLOW = 1.6
"""Time against the fastest at which a candidate is not measured further."""


class TaskState:
    """See the module. `context` is that of all its measurements."""

    def __init__(
        self,
        task: KernelTask,
        builder: Builder,
        database: Database,
        context: Context,
        seed: int,
        confirms: bool = False,
    ) -> None:
        """confirms: what is faster than before waits for a comparison of the whole model."""
        self.task, self.builder, self.database, self.context = task, builder, database, context
        self.rule = rule_of(task.func, builder.target)
        self.search = Search(task.key, seed)
        self.progress = Progress()
        self.heuristic = builder.points(task.func, self.rule, ())
        self.search.points[self.heuristic.values] = self.heuristic.points
        self.built: dict[tuple[int, ...], Built] = {}
        self.measured: dict[str, Measurement] = {}
        """By code: different decisions may come to the same."""
        self.best_values: tuple[int, ...] = ()
        """What is recorded as faster than the heuristic's candidate; empty: nothing."""
        self.compared: tuple[tuple[int, ...], ...] = ()
        """The finalists of the last comparison."""
        self.confirms = confirms
        self.comparisons = 0
        """Records of what is fastest."""
        self._last: dict[str, Any] = {}
        """The last one."""
        self._held: dict[str, Any] = {}
        """The last one that waits for nothing."""
        self.failure: Failure | None = None
        """Of the heuristic's candidate: such a kernel can't be tuned."""
        self.failed_rounds = 0
        self.read()

    @property
    def is_open(self) -> bool:
        """Whether there is something to try."""
        has_choice = bool(self.heuristic.points) and not self.search.is_exhausted
        return has_choice and self.failure is None and self.failed_rounds < 3

    @property
    def is_measured(self) -> bool:
        """Whether the heuristic's time is known."""
        return math.isfinite(self.progress.heuristic_secs) or self.failure is not None

    @property
    def is_unconfirmed(self) -> bool:
        """Whether what is recorded as faster waits for a comparison of the whole model."""
        return bool(self._last.get(UNCONFIRMED))

    def read(self) -> None:
        """Take over what the database has of this kernel and context."""
        for record in self.database.records(TRIAL, self.task.key):
            if self._fits(record):
                self._add(record)
        for record in self.database.records(BEST, self.task.key):
            values = tuple(record["values"])
            if self._fits(record) and (not values or self._replays(values, record["names"])):
                self.progress.heuristic_secs = float(record["heuristic_seconds"])
                self.progress.history = []
                self.progress.best_secs = float(record["seconds"])
                self.best_values = values
                self.compared = tuple(tuple(compared) for compared in record["compared"])
                self._keep(record)
        # as many rounds as the trials make, the last of which found nothing
        rounds = (len(self.search.trials) - 1) // ROUND
        self.progress.history += [self.progress.best_secs] * rounds

    def _fits(self, record: dict[str, Any]) -> bool:
        return (
            misfit(record["context"], self.context) is None
            and record["context"]["threads"] == self.context.threads
            and record["rule"] == self.rule
            and self.database.is_same(self.task.key, self.task.func)
        )

    def _add(self, record: dict[str, Any]) -> None:
        values = tuple(record["values"])
        seconds = record.get("seconds") or []
        median = statistics.median(seconds) if seconds else math.inf
        code = str(record.get("code", ""))
        self.search.add(Trial(values, tuple(record["names"]), median, code))
        if code and seconds:
            self.measured.setdefault(code, Measurement(tuple(seconds)))
        if values == self.heuristic.values and seconds:
            if not math.isfinite(self.progress.heuristic_secs):
                self.progress.heuristic_secs = self.progress.best_secs = median

    def _drop_misfits(self) -> None:
        """Replay the fastest, so that the search knows what there was to decide on their way.

        Those of a rule that asked for something else are dropped.
        """
        while True:
            unknown = [t for t in self.search.parents() if t.values not in self.search.points]
            if not unknown:
                return
            for trial in unknown:
                if not self._replays(trial.values, trial.names):
                    self.search.drop(trial.values)

    def _replays(self, values: tuple[int, ...], names: Sequence[str]) -> bool:
        if values not in self.search.points:
            points = self.builder.points(self.task.func, self.rule, values)
            if points.values != values or points.names != list(names):
                warnings.warn(
                    f"a record of {self.rule} for {self.task.key} no longer fits, and is skipped",
                    DatabaseWarning,
                    stacklevel=2,
                )
                return False
            self.search.points[values] = points.points
        return True

    # Measuring

    def first_candidate(self) -> Candidate | None:
        """The heuristic's; None where it can't be built."""
        built = self._build([self.heuristic.values])[0]
        return None if built.error is not None else make_candidate(self.task, built, None)

    def best_candidate(self) -> Candidate | None:
        """What is known to be fastest; None where it can't be built."""
        if not self.best_values:
            return self.first_candidate()
        heuristic, best = self._build([self.heuristic.values, self.best_values])
        if heuristic.error is not None or best.error is not None:
            return None
        return make_candidate(self.task, best, heuristic)

    def measure_heuristic(self, measurer: Measurer, count: Callable[[], None]) -> None:
        """The first candidate."""
        measure_heuristics([self], measurer, count)

    def round(self, measurer: Measurer, count: int, counted: Callable[[], None]) -> None:
        """Propose, build and measure at most `count` candidates; compare the fastest."""
        self._drop_misfits()
        proposals = self.search.propose(count, self._repaired)
        if not proposals:
            return
        fresh = self._build(proposals)
        for built in fresh:
            if built.error is not None:
                self._record(built, Measurement((), built.error))
                counted()
        for built in fresh:
            if built.code in self.measured:
                self._record(built, self.measured[built.code])
        good: list[Built] = []
        for built in fresh:
            known = {*self.measured, *(other.code for other in good)}
            if built.error is None and built.code not in known:
                good.append(built)
        heuristic = self._build([self.heuristic.values])[0]
        best = self.search.best()
        limit = SLOW * best.seconds if best else math.inf
        candidates = [make_candidate(self.task, built, heuristic) for built in good]
        lost = bool(good)
        # each is in the database before the next is measured
        for built, result in zip(good, measurer.measure(candidates, limit_secs=limit), strict=True):
            if not is_lost(result):
                lost = False
                self._record(built, result)
                counted()
        self.failed_rounds = self.failed_rounds + 1 if lost else 0
        self.compare(measurer)
        self.progress.finish_round(self.progress.best_secs)

    def take(self, results: Mapping[tuple[int, ...], Measurement]) -> int:
        """Record candidates that were measured elsewhere, in turn; returns how many are new."""
        if not results:
            return 0
        fresh = [values for values in results if values not in self.search.trials]
        fitting = []
        for values in fresh:
            if is_lost(results[values]):
                continue
            points = self._repaired(values)
            if points is not None and tuple(point.value for point in points) == values:
                self.search.points[values] = points
                fitting.append(values)
        for built in self._build(fitting):
            self._record(built, results[built.values])
        self.compare(_Taken(results), again=True)
        return len(fitting)

    def _repaired(self, values: tuple[int, ...]) -> tuple[DecisionPoint, ...] | None:
        points = self.builder.points(self.task.func, self.rule, values)
        return None if points.error else points.points

    def compare(self, measurer: Measurer, again: bool = False) -> None:
        """Measure the fastest again, in turn with the heuristic's, and record which is best.

        What was best so far is among them, or a slower one might take its place. again: also where
        all of them were compared before.
        """
        codes = {self._code(self.heuristic.values)}
        finalists = []
        for values in [*(t.values for t in self.search.parents()[:FINALISTS]), self.best_values]:
            if values and self._code(values) not in codes:
                codes.add(self._code(values))
                finalists.append(values)
        compared = {self._code(values) for values in self.compared}
        is_new = any(self._code(values) not in compared for values in finalists)
        if not finalists or not (is_new or again):
            return
        built = self._build([self.heuristic.values, *finalists])
        if any(b.error is not None for b in built):
            return
        results = self._in_turn(built, measurer)
        if results[0].error is not None:
            return
        pairs = zip(built, results, strict=True)
        missing = {self._code(made.values) for made, result in pairs if is_lost(result)}
        if self._code(self.best_values) in missing or len(missing) == len(finalists):
            return
        ratios = [median_ratio(result.seconds, results[0].seconds) for result in results]
        index = min(range(len(ratios)), key=lambda i: ratios[i])
        if index and is_faster(results[index].seconds, results[0].seconds, LEAST_GAIN):
            # The fastest of several is partly the luckiest: its gain is measured once more, alone.
            results = self._in_turn([built[0], built[index]], measurer)
            if results[0].error is not None:
                return
            if not is_faster(results[1].seconds, results[0].seconds, LEAST_GAIN):
                index = 0
        else:
            index = 0
        heuristic_secs = statistics.median(results[0].seconds)
        ratio = median_ratio(results[1].seconds, results[0].seconds) if index else 1.0
        secs = heuristic_secs * ratio
        self.compared = tuple(v for v in finalists if self._code(v) not in missing)
        self.best_values = built[index].values if index else ()
        self._record_best(built[index].names if index else (), secs, heuristic_secs)
        self.progress.heuristic_secs, self.progress.best_secs = heuristic_secs, secs

    def confirm(self) -> None:
        """The whole model is faster with what is recorded."""
        if self.is_unconfirmed:
            self._append_best({k: v for k, v in self._last.items() if k != UNCONFIRMED})

    def withdraw(self) -> None:
        """Take back what is not confirmed: what was known before it is best again.

        A later job may compare the same finalists anew.
        """
        if not self.is_unconfirmed:
            return
        held, self.compared = self._held, ()
        secs = self.progress.heuristic_secs
        self.best_values = tuple(held.get("values", ()))
        if self.best_values:
            secs *= held["seconds"] / held["heuristic_seconds"]
        self._record_best(held.get("names", ()), secs, self.progress.heuristic_secs)
        self.progress.best_secs = secs

    def _record_best(self, names: Sequence[str], secs: float, heuristic_secs: float) -> None:
        """Of `best_values` and `compared`."""
        record: dict[str, Any] = {
            "workload": self.task.key,
            "context": self.context.as_dict(),
            "rule": self.rule,
            "names": list(names),
            "values": list(self.best_values),
            "seconds": secs,
            "heuristic_seconds": heuristic_secs,
            "compared": [list(values) for values in self.compared],
        }
        if self.confirms and record["values"] and record["values"] != self._held.get("values"):
            record[UNCONFIRMED] = True
        self._append_best(record)

    def _append_best(self, record: dict[str, Any]) -> None:
        fields = {k: v for k, v in record.items() if k not in ("kind", "format")}
        if fields != {k: self._last.get(k) for k in (*fields, UNCONFIRMED) if k in self._last}:
            # else results were collected again
            self.database.append(BEST, **fields)
        self._keep(fields)

    def _code(self, values: tuple[int, ...]) -> str:
        """Tells what was measured apart; of a trial without a code, its decisions."""
        trial = self.search.trials.get(values)
        return (trial.code if trial else "") or str(values)

    def _keep(self, record: dict[str, Any]) -> None:
        self.comparisons += 1
        self._last = record
        if not record.get(UNCONFIRMED):
            self._held = record

    def _in_turn(self, built: Sequence[Built], measurer: Measurer) -> list[Measurement]:
        """The first of them is the heuristic's."""
        candidates = [make_candidate(self.task, b, built[0]) for b in built]
        return list(measurer.measure(candidates, repeats=TURNS, interleaved=True))

    def _build(self, vectors: Sequence[tuple[int, ...]]) -> list[Built]:
        """Candidates, each of which is possible as it is."""
        missing = [values for values in vectors if values not in self.built]
        for built in self.builder.build(self.task.func, self.rule, missing):
            self.built[built.values] = built
        return [self.built[values] for values in vectors]

    def _record(self, built: Built, result: Measurement) -> None:
        record: dict[str, Any] = {
            "workload": self.database.add_workload(self.task.func, self.task.name),
            "context": self.context.as_dict(),
            "rule": self.rule,
            "names": built.names,
            "values": list(built.values),
        }
        if built.code:
            record["code"] = built.code
        if result.error is None:
            record["seconds"] = [float(f"{secs:.4g}") for secs in result.seconds]
        else:
            record["error"] = [result.error.kind, result.error.sentence]
        self.database.append(TRIAL, **record)
        self._add(record)


def measure_heuristics(
    states: Sequence[TaskState], measurer: Measurer, counted: Callable[[], None]
) -> None:
    """The first candidate of each kernel; all are built at once and measured by one program."""
    builder = states[0].builder
    requests = [(s.task.func, s.rule, s.heuristic.values) for s in states]
    ready: list[tuple[TaskState, Built]] = []
    for state, built in zip(states, builder.build_all(requests), strict=True):
        if built.error is not None:
            state.failure = built.error
        else:
            state.built[built.values] = built
            ready.append((state, built))
    candidates = [make_candidate(state.task, built, None) for state, built in ready]
    for (state, built), result in zip(ready, measurer.measure(candidates), strict=True):
        state.failure = result.error
        if not is_lost(result):  # else a later job tries again
            state._record(built, result)
            counted()


class _Taken:
    """A Measurer that has measured already."""

    threads = 1
    cpu: str | None = None

    def __init__(self, results: Mapping[tuple[int, ...], Measurement]) -> None:
        self.results = results

    def measure(self, candidates: Sequence[Candidate], **_options: Any) -> Iterator[Measurement]:
        lost = Measurement((), Failure(DEVICE_LOST, "it was measured at another time"))
        return (self.results.get(candidate.decisions, lost) for candidate in candidates)

    def close(self) -> None:
        pass
