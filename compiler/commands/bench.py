"""athanor bench: a model's latency beside other runtimes', interleaved in one process.

Each round runs every executor in turn, for at least SECONDS_PER_TURN. So a machine that gets
slower or faster meanwhile does so for all of them, and the ratio of the medians holds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx

from athanor.compiler.commands.compare import compare, named_arrays
from athanor.compiler.commands.compile import compile_with_progress
from athanor.compiler.commands.peers import PEERS, Runner, usable_cores
from athanor.compiler.feeds import index_limits, make_feeds
from athanor.errors import RunError
from athanor.runtime.model import Model

SECONDS_PER_TURN = 0.25
OURS = "athanor"


@dataclass(frozen=True)
class Comparison:
    """One model on several runtimes."""

    times: Mapping[str, Sequence[float]]
    """Milliseconds of a call by runtime, a mean for each round; OURS is the first."""
    differences: Mapping[str, float]
    """Of our outputs from each other runtime's, relative to its largest magnitude."""

    @property
    def medians(self) -> dict[str, float]:
        """Milliseconds by runtime."""
        return {name: statistics.median(values) for name, values in self.times.items()}


def bench_model(
    model: Path,
    *,
    against: Sequence[str] = ("onnxruntime",),
    rounds: int = 7,
    precision: str = "fp32",
    threads: int | None = None,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    database: Path | None = None,
    device: int = 0,
    cuda_graph: bool = False,
) -> dict[str, float]:
    """Compile `model`, time it beside `against` and print; median milliseconds by executor.

    Raises CompileError or RunError; an unknown or missing peer is refused before compiling.
    """
    threads = threads or usable_cores()
    peers = load_peers(model, against, threads)
    artifact = compile_with_progress(
        model, target=target, shapes=shapes, database=database, precision=precision
    )
    ours = artifact.load(threads=threads, device=device, cuda_graph=cuda_graph)
    found = compare_runtimes(model, ours, peers, rounds=rounds, dims=dims, seed=seed)
    words = "thread" if threads == 1 else "threads"
    click.echo(f"{model.name}: {threads} {words}, {rounds} rounds, median of the rounds' means")
    medians = found.medians
    for name, median in medians.items():
        line = f"{name:12} {median:9.3f} ms  (best {min(found.times[name]):.3f})"
        if name != OURS:
            ratio, difference = medians[OURS] / median, found.differences[name]
            line += f"  athanor takes {ratio:.2f}x its time  largest difference {difference:.1e}"
        click.echo(line)
    return medians


def load_peers(model: Path, names: Sequence[str], threads: int) -> dict[str, Runner]:
    """Other runtimes with the model loaded. Raises RunError for one that is unknown or missing."""
    for name in names:
        if name not in PEERS:
            raise RunError(f"--against {name}: unknown; known are {', '.join(PEERS)}")
    return {name: PEERS[name](model, threads) for name in names}


def compare_runtimes(
    model: Path,
    ours: Model,
    peers: Mapping[str, Runner],
    *,
    rounds: int,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Comparison:
    """Time `ours`, compiled from `model`, and peers on the same seeded inputs. Raises RunError."""
    limits = index_limits(onnx.load(model, load_external_data=False))
    feeds = make_feeds(ours.inputs, dims=dims, seed=seed, limits=limits)
    runners: dict[str, Callable[[], Sequence[np.ndarray]]] = {
        OURS: lambda: list(ours.run(feeds).values())
    }
    for name, runner in peers.items():
        runners[name] = lambda runner=runner: runner(feeds)
    results = {name: list(run()) for name, run in runners.items()}
    differences = {name: _largest_difference(results[OURS], results[name]) for name in peers}
    return Comparison(interleave(runners, rounds), differences)


def _largest_difference(ours: Sequence[object], theirs: Sequence[object]) -> float:
    """Between two runs' outputs in order; infinite where they are not of one length."""
    mine, others = (
        named_arrays({str(number): value for number, value in enumerate(values)})
        for values in (ours, theirs)
    )
    if mine.keys() != others.keys():
        return float("inf")
    return max((compare("", mine[name], others[name]).relative for name in mine), default=0.0)


def interleave(runners: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds for one call of each runner, one value a round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name, run in runners.items():
            if number == 0:
                run()  # first-call costs: pages, pools, caches
            calls, started = 0, time.perf_counter()
            while True:
                run()
                calls += 1
                elapsed = time.perf_counter() - started
                if elapsed >= SECONDS_PER_TURN:
                    break
            times[name].append(elapsed / calls * 1e3)
    return times
