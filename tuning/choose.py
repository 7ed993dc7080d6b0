"""Choices about the graph, measured: methods and layouts of operators.

Every alternative of an operator is planned in the whole model, so that what it costs its neighbours
counts: conversions of layouts, another fusion. The operators of a model are cut into parts that no
kernel crosses; an alternative costs what the kernels of its operators' parts cost. All operators
take their n-th alternative in one variant, so there are no more variants than an operator has
alternatives.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from athanor.compiler.choices import ChoicePoint
from athanor.tuning.context import misfit
from athanor.tuning.database import CHOICE, UNCONFIRMED
from athanor.tuning.faster import is_faster
from athanor.tuning.measure import DEVICE_LOST, Measurer
from athanor.tuning.model_tasks import ModelTasks, Variant, variant_of
from athanor.tuning.parts import Parts
from athanor.tuning.task_state import TOGETHER, TaskState, measure_heuristics

LEAST_GAIN = 0.97
"""Time against the preferred alternative's from which another one is chosen."""
CLOSE = 1.05
"""Estimated time against the preferred one's up to which an alternative is measured again."""
FINALISTS = 3
TURNS = 15
"""Calls of each finalist's kernels."""

Kernels = Counter[str]
"""How often each kernel is called, by key."""


@dataclass(frozen=True)
class ChoiceReport:
    """A choice that was measured."""

    key: str
    value: int
    preferred: int
    heuristic_secs: float
    """Of the kernels that the preferred value leads to."""
    best_secs: float


@dataclass(frozen=True)
class _Open:
    """An operator that may be computed in several ways."""

    preferred: int
    options: dict[int, tuple[Variant, Kernels]]
    """By value, the present one included: the plan, and the kernels of the operator's parts."""


class GraphChoices:
    """The choices of one model."""

    def __init__(self, model: ModelTasks) -> None:
        self.model = model
        self._last: dict[str, dict[str, Any]] = {}
        """The last record of each operator."""
        self._held: dict[str, dict[str, Any]] = {}
        """The last one that does not wait for a comparison of the whole model."""
        self.known: dict[str, int] = {}
        for record in _recorded(model):
            self._keep(record)
        self.base = model.variant({})
        """What the compiler's own models choose."""
        self.usual = self.base
        """The same with what is known to be faster."""
        if self.values():
            self.usual = model.variant(self.values())
        self.open: dict[str, _Open] = {}
        """Operators that are not decided."""
        self.planned: dict[str, _Open] = {}
        """All whose alternatives are known."""
        self.reports: list[ChoiceReport] = []
        self._places: dict[str, set[str]] = {}
        self._made: dict[str, tuple[Variant, set[str]]] = {}

    def values(self) -> dict[str, int]:
        """The choices that are made."""
        return {key: value for key, value in self.known.items() if key in self.base.points}

    @property
    def unconfirmed(self) -> list[str]:
        """Operators whose choice waits for a comparison of the whole model."""
        return [k for k in self._last if self._point(k) and self._last[k].get(UNCONFIRMED)]

    def value(self, key: str) -> int:
        """The present choice for an operator."""
        point = self._point(key)
        assert point is not None, f"the model has no operator {key}"
        known = self.known.get(key)
        return known if known in point.candidates else point.preferred

    def _point(self, key: str) -> ChoicePoint | None:
        return self.usual.points.get(key) or self.base.points.get(key)

    def plan(self, most_secs: float = math.inf) -> None:
        """Plan the alternatives of every operator, as many as there is time for.

        Open are operators with alternatives that were never compared. Those are planned first, so
        a job that goes on comes to what an earlier one had no time for.
        """
        points = self.usual.points
        others = {
            key: sorted(
                (c for c in point.candidates if c != self.value(key)),
                key=self._compared(key).__contains__,
            )
            for key, point in points.items()
            if len(point.candidates) > 1 and all(point.nodes)
        }
        variants: list[Variant] = []
        started = time.monotonic()
        for n in range(max(map(len, others.values()), default=0)):
            if variants and time.monotonic() - started > most_secs:
                break
            nth = {key: values[n] for key, values in others.items() if n < len(values)}
            variants.append(self.model.variant({**self.values(), **nth}))
        self._parts = Parts(c.nodes for made in (self.usual, *variants) for c in made.calls)
        places = {key: self._parts.of(points[key].nodes) for key in others}
        shared = Counter(part for found in places.values() for part in found)
        for key, values in others.items():
            if any(shared[part] > 1 for part in places[key]):
                continue  # two operators in one kernel: their times can't be told apart
            planned = zip(values, variants, strict=False)
            options = {self.value(key): self.usual, **dict(planned)}
            self.planned[key] = _Open(
                points[key].preferred,
                {
                    v: (made, _kernels_of(made, self._parts, places[key]))
                    for v, made in options.items()
                },
            )
            self._places[key] = places[key]
            if options.keys() <= self._compared(key):
                # What is known of their kernels says whether they are worth a second look.
                for variant, kernels in self.planned[key].options.values():
                    for kernel in kernels:
                        self.model.state(variant.tasks[kernel])
            else:
                self.open[key] = self.planned[key]

    def _compared(self, key: str) -> set[int]:
        """The values that were compared when the present choice was made."""
        candidates = self.usual.points[key].candidates
        if self.known.get(key) not in candidates:
            return set()
        return set(self._last[key].get("compared", candidates))

    def waiting(self) -> set[str]:
        """Kernels that a choice may put others in the place of."""
        return {kernel for key in self.open for kernel in self._kernels(key)}

    def seconds(self, key: str) -> float:
        """Of one run of the model in the kernels that a choice is about."""
        secs = self._cost(self._kernels(key))
        return secs if math.isfinite(secs) else 0.0

    def candidates(self, key: str) -> int:
        """How many kernels are to be measured for a choice."""
        states = [self.model.states.get(k) for _, ks in self.open[key].options.values() for k in ks]
        return sum(state is None or not state.is_measured for state in states) + FINALISTS + 1

    def _kernels(self, key: str) -> Kernels:
        return self.open[key].options[self.value(key)][1]

    def measure(
        self,
        key: str,
        measurer: Measurer,
        counted: Callable[[], None],
        most: Callable[[], int],
    ) -> None:
        """Make one choice. most: how many kernels may still be measured."""
        unknown: dict[str, TaskState] = {}
        for variant, kernels in self.open[key].options.values():
            states = [self.model.state(variant.tasks[kernel]) for kernel in kernels]
            unknown.update((s.task.key, s) for s in states if not s.is_measured)
        fresh = list(unknown.values())
        while fresh and most() > 0:
            count = min(TOGETHER, most())
            measure_heuristics(fresh[:count], measurer, counted)
            fresh = fresh[count:]
        if fresh:
            return
        if any(s.failure and s.failure.kind == DEVICE_LOST for s in unknown.values()):
            self.open.pop(key)  # a later job tries again
        else:
            self._decide(key, measurer)

    def current(self) -> Variant:
        """The model with the choices that are made, without planning it again."""
        made = {part: variant for variant, parts in self._made.values() for part in parts}
        calls = [call for call in self.usual.calls if self._parts.of([call.nodes]).isdisjoint(made)]
        for variant, parts in self._made.values():
            calls += [c for c in variant.calls if not self._parts.of([c.nodes]).isdisjoint(parts)]
        return variant_of(calls, self.usual.points)

    def _cost(self, kernels: Kernels) -> float:
        """Seconds by what was measured; infinite where a kernel failed or was not measured."""
        times = [self.model.states[key].progress.heuristic_secs * n for key, n in kernels.items()]
        return sum(times)

    def _decide(self, key: str, measurer: Measurer) -> None:
        """Measure the fastest in turn with the present choice, and record what is fastest."""
        choice = self.open.pop(key)
        now, tuned = self.value(key), key in self.known
        kernels = {value: found for value, (_, found) in choice.options.items()}
        costs = {v: self.best_cost(key, v) if tuned else self._cost(kernels[v]) for v in kernels}
        usual = costs[now]
        near = [v for v, cost in costs.items() if v != now and cost < CLOSE * usual]
        near = sorted(near, key=lambda v: (costs[v], v))[:FINALISTS]
        seconds = {now: (usual,)}
        value = now
        if near and math.isfinite(usual):
            seconds = self._in_turn({v: kernels[v] for v in (now, *near)}, measurer, tuned)
            value = min(seconds, key=lambda v: (_median(seconds[v]), v))
            if value != now and is_faster(seconds[value], seconds[now], LEAST_GAIN):
                # The fastest of several is partly the luckiest.
                seconds = self._in_turn({v: kernels[v] for v in (now, value)}, measurer, tuned)
                if not is_faster(seconds[value], seconds[now], LEAST_GAIN):
                    value = now
            else:
                value = now
        times = _median(seconds[now]), _median(seconds[value])
        if not math.isfinite(times[0]):
            return
        self._choose(key, value, self._untuned(key) if tuned else times[0], times[1])

    def _untuned(self, key: str) -> float:
        """Seconds of what the compiler prefers, or of the present choice where that is unknown."""
        options, preferred = self.planned[key].options, self.planned[key].preferred
        return self._cost(options.get(preferred, options[self.value(key)])[1])

    def _choose(self, key: str, value: int, heuristic_secs: float, best_secs: float) -> None:
        choice = self.planned[key]
        compared = {*self._compared(key), *choice.options}
        self._record(key, value, heuristic_secs, best_secs, sorted(compared))
        self._made[key] = (choice.options[value][0], self._places[key])
        self.reports = [report for report in self.reports if report.key != key]
        self.reports.append(ChoiceReport(key, value, choice.preferred, heuristic_secs, best_secs))

    def best_cost(self, key: str, value: int) -> float:
        """Seconds of an alternative with what is known to be fastest for its kernels."""
        states = self.model.states
        kernels = self.planned[key].options[value][1]
        if any(name not in states or not states[name].is_measured for name in kernels):
            return math.inf
        return sum(states[name].progress.best_secs * n for name, n in kernels.items())

    def compare_tuned(self, key: str, value: int, measurer: Measurer) -> bool:
        """Choose an alternative if, both being tuned, it is faster than the present choice."""
        choice, now = self.planned[key], self.value(key)
        pair = {v: choice.options[v][1] for v in (now, value)}
        secs: dict[int, tuple[float, ...]] = {}
        for _ in range(2):
            secs = self._in_turn(pair, measurer, True)
            if not is_faster(secs[value], secs[now], LEAST_GAIN):
                return False
        self._choose(key, value, self._untuned(key), _median(secs[value]))
        return True

    def _record(
        self, key: str, value: int, heuristic_secs: float, best_secs: float, compared: list[int]
    ) -> None:
        record: dict[str, Any] = {
            "key": key,
            "context": self.model.context.as_dict(),
            "value": value,
            "seconds": best_secs,
            "heuristic_seconds": heuristic_secs,
            "compared": compared,
        }
        if self.model.confirms and value != self._held_value(key):
            record[UNCONFIRMED] = True
        self._append(record)

    def _append(self, record: dict[str, Any]) -> None:
        fields = {k: v for k, v in record.items() if k not in ("kind", "format")}
        self.model.database.append(CHOICE, **fields)
        self._keep(fields)

    def _keep(self, record: dict[str, Any]) -> None:
        key = record["key"]
        self._last[key], self.known[key] = record, int(record["value"])
        if not record.get(UNCONFIRMED):
            self._held[key] = record

    def _held_value(self, key: str) -> int:
        point, held = self._point(key), self._held.get(key)
        assert point is not None, f"the model has no operator {key}"
        return int(held["value"]) if held else point.preferred

    def confirm(self) -> None:
        """The whole model is faster with what is chosen."""
        for key in self.unconfirmed:
            self._append({k: v for k, v in self._last[key].items() if k != UNCONFIRMED})

    def nodes(self, key: str) -> list[str]:
        """The nodes that a choice is about."""
        point = self._point(key)
        return [node for nodes in point.nodes for node in nodes] if point else []

    def withdraw(self, keys: Iterable[str] | None = None) -> None:
        """Take back what is not confirmed: what was chosen before, or by the compiler, holds.

        keys: these of it alone.
        """
        withdrawn = [k for k in self.unconfirmed if keys is None or k in keys]
        for key in withdrawn:
            last, value = self._last[key], self._held_value(key)
            usual, compared = last["heuristic_seconds"], last.get("compared", [])
            self._record(key, value, usual, usual, compared)
        self.reports = [
            replace(report, value=self.known[report.key], best_secs=report.heuristic_secs)
            if report.key in withdrawn
            else report
            for report in self.reports
        ]
        self._made = {k: made for k, made in self._made.items() if k not in withdrawn}

    def _in_turn(
        self, options: dict[int, Kernels], measurer: Measurer, tuned: bool
    ) -> dict[int, tuple[float, ...]]:
        """Seconds of each option in each turn; none where one of its kernels failed.

        tuned: of the fastest candidates that are known, else of the heuristics'.
        """
        keys = list(dict.fromkeys(key for kernels in options.values() for key in kernels))
        states = [self.model.states[key] for key in keys]
        candidates = [s.best_candidate() if tuned else s.first_candidate() for s in states]
        found = {key: c for key, c in zip(keys, candidates, strict=True) if c is not None}
        results = measurer.measure(list(found.values()), repeats=TURNS, interleaved=True)
        secs = {key: result.seconds for key, result in zip(found, results, strict=True)}
        return {
            value: tuple(
                sum(times)
                for times in zip(
                    *([secs_ * n for secs_ in secs.get(key, ())] for key, n in kernels.items()),
                    strict=False,
                )
            )
            for value, kernels in options.items()
        }


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) if seconds else math.inf


def _kernels_of(variant: Variant, all_parts: Parts, parts: set[str]) -> Kernels:
    """The kernels of some parts, and how often they are called."""
    return Counter(
        call.task.key
        for call in variant.calls
        if call.nodes and all_parts.find(call.nodes[0]) in parts
    )


def _recorded(model: ModelTasks) -> list[dict[str, Any]]:
    """The choices that the database has for this context, in order."""
    return [
        record
        for record in model.database.records(CHOICE)
        if record["context"]["threads"] == model.context.threads
        and misfit(record["context"], model.context) is None
    ]
