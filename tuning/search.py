"""Which decisions to try next for one kernel.

The first candidate is the heuristic's. Then changes of what was fastest so far, in one decision or
a few, and mixtures of two that were fast; a cost model, gradient-boosted trees over the decisions
of all that was measured, chooses among them. What comes next depends on the seed and the trials
alone, so the same trials always lead to the same candidates.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from athanor.schedules.decisions import DecisionPoint

PARENTS = 6
"""Fastest candidates that children are made of."""
POOL = 200
"""Children from which the cost model chooses."""
RANDOM_SHARE = 0.25
"""Of the candidates of a round, those that are chosen without the cost model."""
LEAST_TRIALS = 12
"""Measured candidates below which there is no cost model."""


@dataclass(frozen=True)
class Trial:
    """A candidate that was measured; seconds are infinite where it failed."""

    values: tuple[int, ...]
    names: tuple[str, ...]
    seconds: float
    code: str = ""
    """Tells its code from that of other decisions; empty: unknown."""


class Search:
    """The trials of one kernel, and what to try next."""

    def __init__(self, key: str, seed: int) -> None:
        self.key, self.seed = key, seed
        self.trials: dict[tuple[int, ...], Trial] = {}
        self.points: dict[tuple[int, ...], tuple[DecisionPoint, ...]] = {}
        """What there was to decide on the way to a candidate."""
        self.dropped: set[tuple[int, ...]] = set()
        """Measured candidates of a rule that asked for something else."""
        self.is_exhausted = False

    def add(self, trial: Trial) -> None:
        """A measured candidate; the first measurement counts."""
        self.trials.setdefault(trial.values, trial)

    def drop(self, values: tuple[int, ...]) -> None:
        """Forget a trial, and don't propose it."""
        self.trials.pop(values)
        self.dropped.add(values)

    def best(self) -> Trial | None:
        """The fastest."""
        good = [trial for trial in self.trials.values() if math.isfinite(trial.seconds)]
        return min(good, key=lambda trial: (trial.seconds, trial.values), default=None)

    def parents(self) -> list[Trial]:
        """The fastest few, equal code once."""
        good = [trial for trial in self.trials.values() if math.isfinite(trial.seconds)]
        found: dict[object, Trial] = {}
        for trial in sorted(good, key=lambda trial: (trial.seconds, trial.values)):
            found.setdefault(trial.code or trial.values, trial)
        return list(found.values())[:PARENTS]

    def propose(
        self, count: int, repair: Callable[[tuple[int, ...]], tuple[DecisionPoint, ...] | None]
    ) -> list[tuple[int, ...]]:
        """At most `count` candidates that were not measured; none: all in reach were.

        `points` must hold the parents'. repair: the decisions that a vector of values becomes,
        None where a rule fails on it.
        """
        if count < 1:
            return []  # the budget ended just now; nothing is said about what is left
        parents = [trial for trial in self.parents() if self.points.get(trial.values)]
        chosen: list[tuple[int, ...]] = []
        if parents:
            text = f"{self.seed} {self.key} {len(self.trials)}"
            rng = random.Random(hashlib.sha256(text.encode()).digest())
            for values in self._in_order(self._children(parents, rng), count, rng):
                points = repair(values)
                if points is not None:
                    values = tuple(point.value for point in points)
                    self.points[values] = points
                if values not in self.trials and values not in chosen:
                    chosen.append(values)
                if len(chosen) == count:
                    break
        self.is_exhausted = not chosen
        return chosen

    def _in_order(
        self,
        pool: list[tuple[tuple[int, ...], tuple[str, ...]]],
        count: int,
        rng: random.Random,
    ) -> list[tuple[int, ...]]:
        """Some at random, then those that the cost model thinks fastest."""
        rng.shuffle(pool)
        if pool and len(self.trials) >= LEAST_TRIALS:
            free = max(1, round(count * RANDOM_SHARE))
            rest = pool[free:]
            if rest:
                rows = [self._features(values, names) for values, names in rest]
                order = np.argsort(self._predict(rows), kind="stable")
                pool = pool[:free] + [rest[index] for index in order]
        return [values for values, _ in pool]

    def _children(
        self, parents: list[Trial], rng: random.Random
    ) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
        """New vectors, each with the names of its parent's decisions."""
        found: dict[tuple[int, ...], tuple[str, ...]] = {}
        for parent in parents:
            for values in _neighbours(parent.values, self.points[parent.values]):
                found.setdefault(values, parent.names)
        for _ in range(POOL):
            parent = parents[min(int(rng.expovariate(0.7)), len(parents) - 1)]
            points = self.points[parent.values]
            other = rng.choice(parents)
            values = list(parent.values)
            for index, point in enumerate(points):
                chance = rng.random()
                if chance < 0.25:
                    values[index] = rng.choice(point.candidates)
                elif chance < 0.5 and other.names == parent.names:
                    values[index] = other.values[index]
            found.setdefault(tuple(values), parent.names)
        known = self.trials.keys() | self.dropped
        return sorted((v, n) for v, n in found.items() if v not in known)

    def _features(self, values: Sequence[int], names: Sequence[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, value in zip(names, values, strict=False):
            while name in found:
                name += "'"
            found[name] = float(value)
        return found

    def _predict(self, rows: list[dict[str, float]]) -> np.ndarray:
        """Predicted log seconds."""
        trials = list(self.trials.values())
        known = [self._features(trial.values, trial.names) for trial in trials]
        columns = sorted({name for row in known for name in row})
        finite = [t.seconds for t in trials if math.isfinite(t.seconds)]
        worst = 2 * max(finite)
        goals = np.log([min(t.seconds, worst) for t in trials])
        return predict(_table(known, columns), goals, _table(rows, columns))


def predict(known: np.ndarray, goals: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Goals of other rows, NaN being a decision that there was not to make.

    By XGBoost; where it is not installed, by the known rows that are most alike.
    """
    try:
        import xgboost
    except ImportError:
        return _predict_by_likeness(known, goals, asked)
    options = {
        "max_depth": 5,
        "eta": 0.2,
        "min_child_weight": 1,
        "nthread": 1,
        "seed": 0,
        "verbosity": 0,
    }
    data = xgboost.DMatrix(known, label=goals)
    model = xgboost.train(options, data, num_boost_round=60)
    return model.predict(xgboost.DMatrix(asked))


def _predict_by_likeness(known: np.ndarray, goals: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The mean of the three nearest, by how many decisions differ."""
    differs = known[None] != asked[:, None]
    differs &= ~(np.isnan(known)[None] & np.isnan(asked)[:, None])
    nearest = np.argsort(differs.sum(axis=2), axis=1, kind="stable")[:, :3]
    return goals[nearest].mean(axis=1)


def _table(rows: list[dict[str, float]], columns: list[str]) -> np.ndarray:
    return np.array([[row.get(c, math.nan) for c in columns] for row in rows], np.float64)


def _neighbours(
    values: tuple[int, ...], points: tuple[DecisionPoint, ...]
) -> list[tuple[int, ...]]:
    """One decision changed: to every candidate of a few, to the nearest of many."""
    found = []
    for index, point in enumerate(points):
        ordered = sorted(point.candidates)
        position = ordered.index(point.value)
        if len(ordered) > 6:
            ordered = ordered[max(0, position - 2) : position + 3]
        for other in ordered:
            if other != point.value:
                found.append((*values[:index], other, *values[index + 1 :]))
    return found
