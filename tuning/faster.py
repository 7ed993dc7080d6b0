"""Whether one thing is faster than another, by times that were measured in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

TURNS_WON = 0.75
"""Part of the turns that what is faster must win. Equally fast ones win 16 of 21 in one of 75
comparisons."""


def median_ratio(mine: Sequence[float], its: Sequence[float]) -> float:
    """The median of the ratios of one turn; infinite where there are no times."""
    return statistics.median(_ratios(mine, its)) if mine and its else math.inf


def is_faster(mine: Sequence[float], its: Sequence[float], least: float) -> bool:
    """Whether mine take at most `least` of its times, and win most turns."""
    if not mine or not its:
        return False
    ratios = _ratios(mine, its)
    won = sum(ratio < 1 for ratio in ratios)
    return statistics.median(ratios) <= least and won >= TURNS_WON * len(ratios)


def _ratios(mine: Sequence[float], its: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, its, strict=False)]
