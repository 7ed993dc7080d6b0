"""Whether the whole model became faster: the untuned and the tuned artifact, run in turn.

Kernels are measured alone, in a program of their own. What is faster there may cost as much again
in a model, whose caches and threads are in another state. So the kernels' times inside of the
model come first, which say what of the gains is lost there; then the model's own.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from athanor.compiler.driver import build_artifact
from athanor.compiler.feeds import make_feeds
from athanor.errors import RunError
from athanor.frontends.onnx.importer import ImportedModel
from athanor.runtime.model import Model
from athanor.targets import TargetSpec
from athanor.tuning.apply import TunedKernels
from athanor.tuning.faster import median_ratio
from athanor.tuning.parts import Parts

T = TypeVar("T")

LOCK = "/tmp/athanor-measure.lock"
TURNS = 31
TURN_SECS = 0.006
"""Of one model in one turn, at least; what is slower runs once."""
MOST_SECS = 20.0
"""Of all turns, but for the first FEWEST. A job takes that much longer than it was given."""
FEWEST = 3
RUNS = 3
"""Of one model in one turn, where its kernels are timed."""


@dataclass(frozen=True)
class WholeModel:
    """A model to compare, untuned and with the records of a database, on this machine.

    limits: how large the integers of an input may be.
    """

    imported: ImportedModel
    target: TargetSpec
    winograd: bool
    dims: Mapping[str, int]
    limits: Mapping[str, int]
    threads: int
    known: Callable[[], TunedKernels]

    def is_faster(self) -> bool:
        """Whether the records make the model faster, by however little.

        What they gain was measured twice for each kernel alone, and inside of the model (`lost`);
        a disturbed machine hides gains of some percent, but seldom turns them round.
        True where they change no kernel, and False where the model fails with them alone. Raises
        RunError where the model can't be run with made-up inputs.
        """
        found = self._load(profile=False)
        if found is None:
            return True
        models, feeds = found
        try:
            models[1].run(feeds)
        except RunError:
            return False
        its, mine = _in_turn(lambda index: _seconds(models[index], feeds))
        return median_ratio(mine, its) < 1

    def lost(self, records: Mapping[str, Sequence[str]]) -> set[str]:
        """The records of which nothing is left in the model.

        records: the nodes that each is about. Those that share a node, or a kernel with others, are
        judged together. None where the model fails. Raises RunError as `is_faster` does.
        """
        found = self._load(profile=True)
        if found is None:
            return set()
        models, feeds = found
        steps = [step["nodes"] for m in models for step in m.metadata["profile"]["steps"]]
        parts = Parts(nodes for nodes in (*steps, *records.values()) if nodes)
        try:
            its, mine = _in_turn(lambda index: _part_seconds(models[index], feeds, parts))
        except RunError:
            return set()
        ratios: dict[str, float] = {}
        for name, nodes in records.items():
            part = parts.find(nodes[0])
            if part not in ratios:
                pair = [[turn.get(part, 0.0) for turn in turns] for turns in (mine, its)]
                ratios[part] = median_ratio(*pair) if all(pair[1]) else 0.0
        return {name for name, nodes in records.items() if ratios[parts.find(nodes[0])] >= 1}

    def _load(self, profile: bool) -> tuple[tuple[Model, Model], dict[str, np.ndarray]] | None:
        """The untuned and the tuned model, and what to run them with; None where they are equal."""
        plain, tuned = (
            build_artifact(
                self.imported, self.target, winograd=self.winograd, profile=profile, tuned=known
            )
            for known in (None, self.known())
        )
        if plain.metadata["kernels"] == tuned.metadata["kernels"]:
            return None
        models = plain.load(threads=self.threads), tuned.load(threads=self.threads)
        feeds = make_feeds(models[0].inputs, dims=self.dims, limits=self.limits)
        models[0].run(feeds)
        return models, feeds


def _in_turn(measure: Callable[[int], T]) -> tuple[list[T], list[T]]:
    """What is measured of each of two models in each turn, who comes first changing."""
    found: tuple[list[T], list[T]] = [], []
    started = time.perf_counter()
    for turn in range(TURNS):
        if turn >= FEWEST and time.perf_counter() - started > MOST_SECS:
            break
        with _alone():
            for index in (turn % 2, 1 - turn % 2):
                found[index].append(measure(index))
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """The machine, as the measuring programs of this and other jobs take it (measure/run.c)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            lock = os.open(LOCK, flags)
        except FileNotFoundError:
            lock = os.open(LOCK, flags | os.O_CREAT, 0o644)
    except OSError:
        yield  # as the measuring programs do
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _seconds(model: Model, feeds: dict[str, np.ndarray]) -> float:
    """Of one run, the mean of as many as fill a turn."""
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < TURN_SECS:
        model.run(feeds)
        count += 1
    return elapsed / count


def _part_seconds(model: Model, feeds: dict[str, np.ndarray], parts: Parts) -> dict[str, float]:
    """Of one run, by the parts that its steps lie in."""
    found: dict[str, float] = {}
    for step in model.profile(feeds, runs=RUNS).steps:
        if step.nodes:
            part = parts.find(step.nodes[0])
            found[part] = found.get(part, 0.0) + step.milliseconds / 1e3
    return found
