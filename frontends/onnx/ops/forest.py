"""Decision trees as packed arrays, whichever operator they come from.

Every branch becomes `x[feature] <= threshold`, whose two successors lie side by side in `next`; a
leaf is its own successor. So a walk of `depth` steps is the same few loads for every row, without
a branch, and a row that arrives early stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from athanor.frontends.onnx.node import Node

# in the order of TreeEnsemble's numbers
MODES = (
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
)


@dataclass(frozen=True)
class Forest:
    """N nodes of all trees.

    feature (N,) int32, of the input's columns or, counted on from them, of the columns negated;
    threshold (N,) in the input's type; next (2 N,) int32, the successor of node i at 2 i (false,
    and for NaN) and 2 i + 1 (true); roots and depth (trees,). Leaf i of leaf_places gives its
    leaf_weights to its leaf_targets; a place may be there for several targets. The last node is a
    leaf without weights, of no tree.
    """

    columns: int
    feature: np.ndarray
    threshold: np.ndarray
    next: np.ndarray
    roots: np.ndarray
    depth: np.ndarray
    leaf_places: np.ndarray
    leaf_targets: np.ndarray
    leaf_weights: np.ndarray

    @property
    def negates(self) -> bool:
        """Whether some node compares a negated column."""
        return bool((self.feature >= self.columns).any())


@dataclass
class ForestBuilder:
    """Collects nodes; `dtype` is the type that values are compared in."""

    node: Node
    dtype: np.dtype
    columns: int
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    true: list[int] = field(default_factory=list)

    def add(self, count: int) -> int:
        """`count` leaves; the number of the first."""
        first = len(self.feature)
        self.feature += [0] * count
        self.threshold += [np.nan] * count
        self.false += range(first, first + count)
        self.true += range(first, first + count)
        return first

    def branch(
        self,
        place: int,
        mode: str,
        feature: int,
        values: Sequence[float],
        successors: tuple[int, int],
        nan_true: bool,
    ) -> None:
        """Make node `place` a branch to successors (true, false); `values` has the threshold.

        A NaN compares as false (as true, for BRANCH_NEQ), but takes the true branch where
        `nan_true` is set.
        """
        if mode not in MODES:
            raise self.node.error(f"node mode {mode!r} is none of {', '.join(MODES)}")
        if not 0 <= feature < self.columns:
            raise self.node.error(f"feature {feature} of an input with {self.columns}")
        true, false = successors
        if place in successors:
            raise self.node.error("a tree's nodes form a cycle")
        if mode == "BRANCH_NEQ":
            self._equal(place, feature, values, (false, true), False)
        elif mode in ("BRANCH_EQ", "BRANCH_MEMBER"):
            self._equal(place, feature, values, (true, false), nan_true)
        else:
            bound = self._at_most(values[0], strictly=mode in ("BRANCH_LT", "BRANCH_GTE"))
            # a threshold of NaN makes every comparison false, whatever it asks
            if mode in ("BRANCH_GT", "BRANCH_GTE") and not np.isnan(values[0]):
                true, false, nan_true = false, true, not nan_true
            self._store(place, feature, bound, true, false, nan_true)

    def _equal(
        self,
        place: int,
        feature: int,
        values: Sequence[float],
        successors: tuple[int, int],
        nan_true: bool,
    ) -> None:
        """`x == v` as `x <= v and not x <= (the number below v)`; one such pair for each value."""
        true, false = successors
        # what the type of x can't hold, no x equals
        values = [value for value in values if float(self.dtype.type(value)) == value]
        if not values:
            self._store(place, feature, np.nan, true, false, nan_true)
            return
        for number, value in enumerate(values):
            lower = self.add(1)
            last = number == len(values) - 1
            otherwise = false if last else self.add(1)
            # NaN is at most no number, and comes through every pair to the last
            self._store(place, feature, value, lower, otherwise, nan_true and last)
            below = self._at_most(value, strictly=True)
            self._store(lower, feature, below, otherwise, true, False)
            place = otherwise

    def _at_most(self, value: float, strictly: bool = False) -> float:
        """The largest number of the type that is at most `value`, or below; NaN where none is."""
        with np.errstate(over="ignore"):
            bound = float(self.dtype.type(value))
        if bound > value or (strictly and bound == value):
            return self._next(bound, -np.inf)
        return bound

    def _next(self, bound: float, towards: float) -> float:
        if bound == towards:
            return np.nan
        with np.errstate(over="ignore"):
            return float(np.nextafter(self.dtype.type(bound), self.dtype.type(towards)))

    def _store(
        self, place: int, feature: int, bound: float, true: int, false: int, nan_true: bool
    ) -> None:
        """`x <= bound`, where a bound of NaN is below every number.

        NaN compares as false; where it shall be true, the question becomes `x > bound`, and that
        `-x <= -(the number above bound)`.
        """
        if nan_true:
            true, false = false, true
            bound = np.inf if np.isnan(bound) else -self._next(bound, np.inf)
            feature += self.columns
        self.feature[place], self.threshold[place] = feature, bound
        self.true[place], self.false[place] = true, false

    def build(
        self,
        roots: Sequence[int],
        places: Sequence[int],
        targets: Sequence[int],
        weights: np.ndarray,
    ) -> Forest:
        """Pack, with the leaves' weights; CompileError for a cycle."""
        self.add(1)
        depths: dict[int, int] = {}
        return Forest(
            self.columns,
            np.array(self.feature, np.int32),
            np.array(self.threshold, self.dtype),
            np.stack([self.false, self.true], axis=1).reshape(-1).astype(np.int32),
            np.array(roots, np.int32),
            np.array([self._depth(root, depths) for root in roots], np.int32),
            np.array(places, np.int64),
            np.array(targets, np.int64),
            weights.astype(self.dtype),
        )

    def _depth(self, root: int, depths: dict[int, int]) -> int:
        """Steps from a root to its furthest leaf."""
        open_nodes: set[int] = set()
        stack = [root]
        while stack:
            place = stack[-1]
            successors = [s for s in (self.true[place], self.false[place]) if s != place]
            if place in depths:
                stack.pop()
            elif place in open_nodes:
                stack.pop()
                open_nodes.discard(place)
                depths[place] = 1 + max((depths[s] for s in successors), default=-1)
            else:
                open_nodes.add(place)
                if any(s in open_nodes for s in successors):
                    raise self.node.error("a tree's nodes form a cycle")
                stack += [s for s in successors if s not in depths]
        return depths[root]
