"""Alternatives of the graph whose kernels are tuned before they are compared again.

A choice compares what the compiler's own decisions make of each alternative. One that lost by
little may win with decisions that fit it better, so the time that is left goes to those too: a
round for a kernel of an alternative, and where that made it faster than the present choice, both in
turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from athanor.tuning.choose import GraphChoices
from athanor.tuning.estimate import DECAY, FIRST_GAIN
from athanor.tuning.measure import Measurer
from athanor.tuning.task_state import FINALISTS, ROUND, TaskState

REACH = 0.6
"""Part of the present choice's time by which an alternative may be slower and still be tried."""


class SecondLook:
    """The alternatives of one model."""

    def __init__(self, graph: GraphChoices) -> None:
        self.graph = graph
        self._compared: dict[tuple[str, int], tuple[float, float]] = {}
        """The times that were known at the last comparison."""

    def next(self) -> tuple[float, str, int] | None:
        """The most promising alternative: seconds of a run for each candidate, key and value."""
        found = [
            (worth, key, value)
            for key, choice in self.graph.planned.items()
            if key not in self.graph.open
            for value in choice.options
            if value != self.graph.value(key) and (worth := self._worth(key, value)) > 0
        ]
        return max(found, default=None)

    def tune(
        self, key: str, value: int, measurer: Measurer, count: int, counted: Callable[[], None]
    ) -> bool:
        """A round for one kernel of an alternative; whether the alternative was chosen then."""
        states = self._open(key, value)
        state = max(states, key=lambda s: s.progress.next_gain * s.progress.best_secs)
        state.round(measurer, count, counted)
        now = self.graph.best_cost(key, self.graph.value(key))
        costs = self.graph.best_cost(key, value), now
        if costs[0] >= now or self._compared.get((key, value)) == costs:
            return False
        self._compared[key, value] = costs
        return self.graph.compare_tuned(key, value, measurer)

    def _worth(self, key: str, value: int) -> float:
        now = self.graph.best_cost(key, self.graph.value(key))
        own = self.graph.best_cost(key, value)
        if not math.isfinite(own) or not 0 < now < math.inf or not self._open(key, value):
            return 0.0
        chance = 1 - (own / now - 1) / REACH
        gain = FIRST_GAIN * DECAY ** self._rounds(key, value) * min(1.0, chance)
        return max(0.0, gain * now / (ROUND + FINALISTS + 1))

    def _rounds(self, key: str, value: int) -> int:
        """Made so far, by this job and those before, for kernels that the present choice has not.

        A round that brought nothing closes its kernel, or counts there as failed.
        """
        options = self.graph.planned[key].options
        own = options[value][1].keys() - options[self.graph.value(key)][1].keys()
        states = [self.graph.model.states[name] for name in own]
        return sum(-(-max(0, len(s.search.trials) - 1) // ROUND) + s.failed_rounds for s in states)

    def _open(self, key: str, value: int) -> list[TaskState]:
        states = self.graph.model.states
        kernels = self.graph.planned[key].options[value][1]
        return [states[name] for name in kernels if name in states and states[name].is_open]
