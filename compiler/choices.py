"""Decisions about the graph: by which method and in which layout an operator runs.

A pass asks for each with `Choices.choose`, under a key that says all that matters of the operator;
a tuner makes them in the place of the compiler's models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class ChoicePoint:
    """One key, as it was met in a graph."""

    candidates: tuple[int, ...]
    preferred: int
    nodes: list[tuple[str, ...]] = field(default_factory=list)
    """The model's nodes that each operator of that key computes."""


class Choices:
    """What is chosen by key, and the points that were met."""

    def __init__(self, values: Mapping[str, int] | None = None) -> None:
        self.values = dict(values or {})
        self.points: dict[str, ChoicePoint] = {}
        self.misfits: list[str] = []
        """Sentences about values that are no candidates; the preferred ones took their places."""

    def choose(
        self, key: str, candidates: Sequence[int], preferred: int, nodes: Iterable[str] | None
    ) -> int:
        """The value for an operator: `preferred` where nothing else is known."""
        point = self.points.setdefault(key, ChoicePoint(tuple(candidates), preferred))
        point.nodes.append(tuple(nodes or ()))
        value = self.values.get(key, preferred)
        if value not in candidates:
            self.misfits.append(f"{key}: {value} is not one of {list(candidates)}")
            return preferred
        return value
