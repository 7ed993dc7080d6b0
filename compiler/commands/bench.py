"""athanor bench: a model's latency beside other runtimes', interleaved in one process.

Each round runs every executor in turn, for at least SECONDS_PER_TURN. So a machine that gets
slower or faster meanwhile does so for all of them, and the ratio of the medians holds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import onnx

from athanor.compiler.commands.compare import compare
from athanor.compiler.commands.compile import compile_with_progress
from athanor.compiler.commands.feeds import index_limits, make_feeds
from athanor.compiler.commands.peers import PEERS, usable_cores
from athanor.errors import RunError

SECONDS_PER_TURN = 0.25
OURS = "athanor"


def bench_model(
    model: Path,
    *,
    against: Sequence[str] = ("onnxruntime",),
    rounds: int = 7,
    threads: int | None = None,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    database: Path | None = None,
) -> dict[str, float]:
    """Compile `model`, time it beside `against` and print; median milliseconds by executor.

    Raises CompileError or RunError; an unknown or missing peer is refused before compiling.
    """
    for name in against:
        if name not in PEERS:
            raise RunError(f"--against {name}: unknown; known are {', '.join(PEERS)}")
    threads = threads or usable_cores()
    peers = {name: PEERS[name](model, threads) for name in against}
    artifact = compile_with_progress(model, target=target, shapes=shapes, database=database)
    ours = artifact.load(threads=threads)
    limits = index_limits(onnx.load(model, load_external_data=False))
    feeds = make_feeds(ours.inputs, dims=dims, seed=seed, limits=limits)

    runners: dict[str, Callable[[], Sequence[np.ndarray]]] = {
        OURS: lambda: list(ours.run(feeds).values())
    }
    for name, runner in peers.items():
        runners[name] = lambda runner=runner: runner(feeds)
    results = {name: list(run()) for name, run in runners.items()}
    times = interleave(runners, rounds)

    words = "thread" if threads == 1 else "threads"
    click.echo(f"{model.name}: {threads} {words}, {rounds} rounds, median of the rounds' means")
    for name, values in times.items():
        median = statistics.median(values)
        line = f"{name:12} {median:9.3f} ms  (best {min(values):.3f})"
        if name != OURS:
            difference = max(
                (
                    compare("", a, b).relative
                    for a, b in zip(results[OURS], results[name], strict=True)
                ),
                default=0.0,
            )
            ratio = statistics.median(times[OURS]) / median
            line += f"  athanor takes {ratio:.2f}x its time  largest difference {difference:.1e}"
        click.echo(line)
    return {name: statistics.median(values) for name, values in times.items()}


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
