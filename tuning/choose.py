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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from athanor.tuning.context import misfit
from athanor.tuning.database import CHOICE
from athanor.tuning.measure import Measurer
from athanor.tuning.model_tasks import ModelTasks, Variant

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


class GraphChoices:
    """The choices of one model."""

    def __init__(self, model: ModelTasks) -> None:
        self.model = model
        self.known = _recorded(model)
        self.base = model.variant({})
        """What the compiler's own models choose."""
        self.reports: list[ChoiceReport] = []

    def values(self) -> dict[str, int]:
        """The choices that are made."""
        return {key: value for key, value in self.known.items() if key in self.base.points}

    def measure(
        self,
        measurer: Measurer,
        counted: Callable[[], None],
        is_spent: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        """Measure the alternatives of every operator that the database has no choice for."""
        open_keys = [
            key
            for key, point in self.base.points.items()
            if key not in self.known and len(point.candidates) > 1 and all(point.nodes)
        ]
        others = {
            key: [c for c in point.candidates if c != point.preferred]
            for key, point in self.base.points.items()
            if key in open_keys
        }
        if not others:
            return
        tell("plan alternatives")
        variants = [
            self.model.variant({k: values[n] for k, values in others.items() if n < len(values)})
            for n in range(max(map(len, others.values())))
        ]
        parts = _Parts([self.base, *variants])
        places = {key: parts.of(self.base.points[key].nodes) for key in others}
        shared = Counter(part for found in places.values() for part in found)
        keys = [key for key in others if all(shared[part] == 1 for part in places[key])]
        for key in keys:
            preferred = parts.kernels(self.base, places[key])
            self._measure_kernels(self.base, preferred, measurer, counted, is_spent)
        for key in sorted(keys, key=lambda k: -self._cost(parts.kernels(self.base, places[k]))):
            if is_spent():
                return
            tell(f"alternatives of {key}")
            options = {
                self.base.points[key].preferred: (self.base, parts.kernels(self.base, places[key]))
            }
            for value, variant in zip(others[key], variants, strict=False):
                kernels = parts.kernels(variant, places[key])
                self._measure_kernels(variant, kernels, measurer, counted, is_spent)
                options[value] = (variant, kernels)
            if not is_spent():
                self._decide(key, options, measurer)

    def _measure_kernels(
        self,
        variant: Variant,
        kernels: Kernels,
        measurer: Measurer,
        counted: Callable[[], None],
        is_spent: Callable[[], bool],
    ) -> None:
        for kernel in kernels:
            state = self.model.state(variant.tasks[kernel])
            if not state.is_measured and not is_spent():
                state.measure_heuristic(measurer, counted)

    def _cost(self, kernels: Kernels) -> float:
        """Seconds by what was measured; infinite where a kernel failed or was not measured."""
        times = [self.model.states[key].progress.heuristic_secs * n for key, n in kernels.items()]
        return sum(times)

    def _decide(
        self, key: str, options: dict[int, tuple[Variant, Kernels]], measurer: Measurer
    ) -> None:
        """Measure the fastest in turn with the preferred one, and record what is fastest."""
        preferred = self.base.points[key].preferred
        usual = self._cost(options[preferred][1])
        costs = {value: self._cost(kernels) for value, (_, kernels) in options.items()}
        near = [v for v, cost in costs.items() if v != preferred and cost < CLOSE * usual]
        near = sorted(near, key=lambda v: (costs[v], v))[:FINALISTS]
        seconds = {preferred: usual}
        value = preferred
        if near and math.isfinite(usual):
            seconds = self._in_turn({v: options[v][1] for v in (preferred, *near)}, measurer)
            value = min(seconds, key=lambda v: (seconds[v], v))
            if not seconds[value] < LEAST_GAIN * seconds[preferred]:
                value = preferred
        if not math.isfinite(seconds[preferred]):
            return
        self.model.database.append(
            CHOICE,
            key=key,
            context=self.model.context.as_dict(),
            value=value,
            seconds=seconds[value],
            heuristic_seconds=seconds[preferred],
        )
        self.known[key] = value
        self.reports.append(ChoiceReport(key, value, preferred, seconds[preferred], seconds[value]))

    def _in_turn(self, options: dict[int, Kernels], measurer: Measurer) -> dict[int, float]:
        keys = list(dict.fromkeys(key for kernels in options.values() for key in kernels))
        candidates = [self.model.states[key].first_candidate() for key in keys]
        found = {key: c for key, c in zip(keys, candidates, strict=True) if c is not None}
        results = measurer.measure(list(found.values()), repeats=TURNS, interleaved=True)
        secs = {
            key: statistics.median(result.seconds) if result.seconds else math.inf
            for key, result in zip(found, results, strict=True)
        }
        return {
            value: sum(secs.get(key, math.inf) * n for key, n in kernels.items())
            for value, kernels in options.items()
        }


class _Parts:
    """The nodes of a model in parts, so that every kernel of every variant lies in one."""

    def __init__(self, variants: list[Variant]) -> None:
        self._parents: dict[str, str] = {}
        for variant in variants:
            for call in variant.calls:
                for node in call.nodes[1:]:
                    self._parents[self._find(node)] = self._find(call.nodes[0])

    def _find(self, node: str) -> str:
        while (parent := self._parents.get(node, node)) != node:
            node = parent
        return node

    def of(self, operators: list[tuple[str, ...]]) -> set[str]:
        """The parts of some operators, each given by its nodes."""
        return {self._find(node) for nodes in operators for node in nodes}

    def kernels(self, variant: Variant, parts: set[str]) -> Kernels:
        """The kernels of some parts, and how often they are called."""
        return Counter(
            call.task.key
            for call in variant.calls
            if call.nodes and self._find(call.nodes[0]) in parts
        )


def _recorded(model: ModelTasks) -> dict[str, int]:
    """The choices that the database has for this context."""
    found = {}
    for record in model.database.records(CHOICE):
        same = record["context"]["threads"] == model.context.threads
        if same and misfit(record["context"], model.context) is None:
            found[record["key"]] = int(record["value"])
    return found
