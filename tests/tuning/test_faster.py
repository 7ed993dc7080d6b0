"""What counts as faster: a median and most turns."""

import math

import numpy as np
import pytest

from athanor.tuning.faster import is_faster, median_ratio


def test_ratios_are_of_one_turn():
    """The machine becomes four times as slow meanwhile, for both."""
    slow = [1.0, 4.0, 4.0]
    assert median_ratio([0.9 * t for t in slow], slow) == pytest.approx(0.9)
    assert median_ratio([], slow) == math.inf == median_ratio(slow, [])


def test_one_lucky_turn_is_not_faster():
    its = [1.0] * 20
    assert is_faster([0.9] * 20, its, 0.985)
    assert is_faster([0.9] * 15 + [1.1] * 5, its, 0.985)
    assert not is_faster([0.9] * 14 + [1.1] * 6, its, 0.985)
    assert not is_faster([0.99] * 20, its, 0.985)
    assert not is_faster([], its, 0.985) and not is_faster(its, [], 0.985)


def test_equally_fast_ones_are_hardly_ever_told_apart():
    rng = np.random.default_rng(0)
    times = rng.lognormal(0, 0.05, (1000, 2, 21))
    assert sum(is_faster(mine, its, 0.985) for mine, its in times.tolist()) <= 40
