"""Options of the measuring program, which every way of measuring passes on."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to measure; see Measurer."""

    threads: int
    repeats: int = 20
    limit_secs: float = math.inf
    timeout_secs: float = 10.0
    interleaved: bool = False

    def words(self) -> list[str]:
        """The program's command line."""
        words = ["--threads", str(self.threads), "--repeats", str(self.repeats)]
        words += ["--timeout", f"{self.timeout_secs:.6f}"]
        if math.isfinite(self.limit_secs):
            words += ["--limit", f"{self.limit_secs:.9f}"]
        return [*words, "--interleaved"] if self.interleaved else words

    def most_secs(self, count: int) -> float:
        """Longer than the program can take for `count` candidates: past this it hangs."""
        # of a candidate: its reference, itself, and another job's turn on the cores
        return 30 + 3 * self.timeout_secs * count
