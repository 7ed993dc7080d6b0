"""Where the next measurements shorten the model most, and how much more there is to expect."""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_GAIN = 0.08
"""Part of its time that a round is expected to take off a kernel that was never tuned."""
DECAY = 0.6
"""Of the expectation, by each round that found nothing."""


@dataclass
class Progress:
    """How the fastest time of one task came down, round by round."""

    heuristic_secs: float = float("inf")
    best_secs: float = float("inf")
    history: list[float] = field(default_factory=list)
    """The best time after each round."""

    def finish_round(self, best_secs: float) -> None:
        """Note the best time so far."""
        self.best_secs = min(self.best_secs, best_secs)
        self.history.append(self.best_secs)

    @property
    def next_gain(self) -> float:
        """Part of the best time that one more round is expected to take off."""
        expected, before = FIRST_GAIN, self.heuristic_secs
        for secs in self.history:
            found = 1 - secs / before if before > 0 else 0.0
            expected = DECAY * expected + (1 - DECAY) * found if found > 0.002 else DECAY * expected
            before = secs
        return expected

    @property
    def whole_gain(self) -> float:
        """The same of all rounds to come, should they find less and less."""
        return min(0.9, self.next_gain / (1 - DECAY))
