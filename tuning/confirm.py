"""Whether the whole model became faster: the untuned and the tuned artifact, run in turn.

Kernels are measured alone, in a program of their own. What is faster there may cost as much again
in a model, whose caches and threads are in another state.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from athanor.compiler.driver import build_artifact
from athanor.compiler.feeds import make_feeds
from athanor.errors import RunError
from athanor.frontends.onnx.importer import ImportedModel
from athanor.runtime.model import Model
from athanor.targets import TargetSpec
from athanor.tuning.apply import TunedKernels
from athanor.tuning.faster import is_faster

LOCK = "/tmp/athanor-measure.lock"
LEAST_GAIN = 0.985
"""Time against the untuned model's up to which the tuned one counts as faster."""
TURNS = 15
TURN_SECS = 0.006
"""Of one model in one turn, at least; what is slower runs once."""
MOST_SECS = 20.0
"""Of all turns, but for the first FEWEST. A job takes that much longer than it was given."""
FEWEST = 3


def is_model_faster(
    imported: ImportedModel,
    target: TargetSpec,
    known: TunedKernels,
    winograd: bool,
    dims: Mapping[str, int],
    threads: int,
    limits: Mapping[str, int],
) -> bool:
    """Whether the records make the model faster on this machine.

    limits: how large the integers of an input may be. True where the records change no kernel, and
    False where the model fails with them alone. Raises RunError where the model can't be run with
    made-up inputs.
    """
    plain = build_artifact(imported, target, winograd=winograd)
    tuned = build_artifact(imported, target, winograd=winograd, tuned=known)
    if plain.metadata["kernels"] == tuned.metadata["kernels"]:
        return True
    models = plain.load(threads=threads), tuned.load(threads=threads)
    feeds = make_feeds(models[0].inputs, dims=dims, limits=limits)
    models[0].run(feeds)
    try:
        models[1].run(feeds)
    except RunError:
        return False
    its, mine = _in_turn(models, feeds)
    return is_faster(mine, its, LEAST_GAIN)


def _in_turn(
    models: tuple[Model, Model], feeds: dict[str, np.ndarray]
) -> tuple[list[float], list[float]]:
    """Seconds of one run of each model, which are warm, in each turn, who comes first changing."""
    times: tuple[list[float], list[float]] = [], []
    started = time.perf_counter()
    for turn in range(TURNS):
        if turn >= FEWEST and time.perf_counter() - started > MOST_SECS:
            break
        with _alone():
            for index in (turn % 2, 1 - turn % 2):
                times[index].append(_seconds(models[index], feeds))
    return times


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
