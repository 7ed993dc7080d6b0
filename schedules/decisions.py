"""The decisions of schedule rules: sampling instructions, which a tuner may make in their place.

A rule asks for each with `decide`. Untuned it gets what its model of the machine prefers; while
`replaying` it gets the values of a tuning record, one after another. What there is to decide may
depend on what was decided before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tvm import s_tir


@dataclass(frozen=True)
class Decisions:
    """A point of a rule's space."""

    rule: str
    """Name of the rule's class."""
    values: tuple[int, ...]
    """What its sampling instructions gave, in order."""


@dataclass(frozen=True)
class DecisionPoint:
    """One decision as it was made."""

    name: str
    candidates: tuple[int, ...]
    value: int


class DecisionError(Exception):
    """Decisions that do not fit the rule or the prim_func that they are replayed on."""


class _Replay:
    def __init__(self, values: Sequence[int], repair: bool) -> None:
        self.values, self.repair = values, repair
        self.points: list[DecisionPoint] = []

    def next(self, name: str, candidates: Sequence[int], preferred: int) -> int:
        """The next value; repaired, the candidate that is nearest to it."""
        position = len(self.points)
        value = self.values[position] if position < len(self.values) else None
        if value is None or value not in candidates:
            if not self.repair:
                given = "none" if value is None else str(value)
                raise DecisionError(
                    f"decision {position + 1}, {name}, is {given}: it is one of {list(candidates)}"
                )
            goal = preferred if value is None else value
            value = nearest(candidates, goal)
        self.points.append(DecisionPoint(name, tuple(candidates), value))
        return value


_REPLAY: ContextVar[_Replay | None] = ContextVar("athanor_replay", default=None)


def decide(sch: s_tir.Schedule, name: str, candidates: Sequence[int], preferred: int) -> int:
    """One decision of a rule: `preferred` untuned, any of `candidates` when tuned.

    It becomes a sampling instruction of the schedule's trace. One candidate is no decision. Names
    say what a value means: a record fits a rule that asks for the same names in the same order.
    """
    assert preferred in candidates, f"{name}: {preferred} is not among {list(candidates)}"
    if len(candidates) == 1:
        return preferred
    replay = _REPLAY.get()
    value = preferred if replay is None else replay.next(name, candidates, preferred)
    chance = [1.0 / len(candidates)] * len(candidates)
    sch.sample_categorical(list(candidates), chance, list(candidates).index(value))
    return value


@contextmanager
def replaying(values: Sequence[int], repair: bool = False) -> Iterator[list[DecisionPoint]]:
    """`decide` gives these values; the list holds what was decided, after the block.

    repair: values that are no candidates are changed to such, missing ones are the preferred.
    Raises DecisionError for them otherwise, and where values are left over.
    """
    replay = _Replay(values, repair)
    token = _REPLAY.set(replay)
    try:
        yield replay.points
    finally:
        _REPLAY.reset(token)
    asked = len(replay.points)
    if not repair and asked != len(values):
        raise DecisionError(f"{len(values)} decisions are given, and {asked} are asked for")


def nearest(candidates: Sequence[int], goal: int) -> int:
    """The candidate that is nearest to `goal`, the smaller of two."""
    return min(candidates, key=lambda candidate: (abs(candidate - goal), candidate))
