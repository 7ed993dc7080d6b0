"""Tunes the shapes of shapes.py and writes tuning.json and tuning.md.

Times are of untuned and tuned models, ONNX Runtime and OpenVINO, interleaved in one process. Where
tuning changed no kernel, the tuned model is the untuned one, and its time too.

A shape that tuning.json has is not measured again; --again starts anew.
On a quiet machine: make bench-tuning SECONDS=60
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import shapes
from run import commit, processor, versions

import athanor
from athanor.compiler.commands.peers import PEERS, usable_cores
from athanor.compiler.feeds import make_feeds
from athanor.compiler.profiling.limits import machine_limits

HERE = Path(__file__).resolve().parent
NEAR_LIMIT = 0.9
"""Part of the machine's limit from which there is little to gain."""
TURN_SECS = 0.03
"""Of one runtime in one round."""
PAUSE_SECS = 0.005
"""Before it, for the threads of the one before to stop waiting for work."""


def main() -> None:
    """Parse, tune, measure, write after each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of tuning for a shape")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", nargs="+", help="shapes whose name holds one of these texts")
    parser.add_argument("--again", action="store_true", help="measure every shape again")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "tuning.json"
    rows = json.loads(path.read_text()) if path.exists() and not arguments.again else []
    for name, model in shapes.shape_models():
        if arguments.only and not any(text in name for text in arguments.only):
            continue
        if any(row["name"] == name for row in rows):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"name": name, **measure(model, Path(folder), arguments)})
        print(rows[-1], flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        (arguments.output / "tuning.md").write_text(table(rows, arguments))


def measure(model: onnx.ModelProto, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of one model in microseconds, and what tuning took."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    threads = arguments.threads
    report = athanor.tune(
        model, database=folder / "tuned", minutes=arguments.seconds / 60, threads=threads
    )
    plain, better = athanor.compile(model), athanor.compile(model, database=folder / "tuned")
    changed = plain.metadata["kernels"] != better.metadata["kernels"]
    untuned, tuned = plain.load(threads=threads), better.load(threads=threads)
    feeds = make_feeds(untuned.inputs)
    peers = {name: PEERS[name](path, threads) for name in ("onnxruntime", "openvino")}
    runners: dict[str, Callable[[], Any]] = {
        "untuned": lambda: untuned.run(feeds),
        **({"tuned": lambda: tuned.run(feeds)} if changed else {}),
        **{name: lambda run=run: run(feeds) for name, run in peers.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    order = list(runners.items())
    for _ in range(arguments.rounds):
        order = order[1:] + order[:1]  # nobody always runs behind the same one
        for name, run in order:
            time.sleep(PAUSE_SECS)
            run()
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < TURN_SECS:
                run()
                count += 1
            times[name].append(1e6 * elapsed / count)
    found: dict[str, Any] = {name: round(statistics.median(t), 2) for name, t in times.items()}
    found.setdefault("tuned", found["untuned"])
    limit = 1e3 * machine_limits(threads).milliseconds(*shapes.work(model))
    return {
        **found,
        "limit": round(limit, 2),
        "trials": report.trials,
        "seconds": round(report.elapsed_secs, 1),
    }


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The rows as Markdown, with geometric means."""
    lines = [
        "Microseconds a run, medians of interleaved rounds. Written by `python bench/tuning.py "
        f"--seconds {arguments.seconds:g} --threads {arguments.threads}` at commit {commit()}, "
        f"on {processor()}, {usable_cores()} cores. "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
        "Of the limit: the roofline of this machine with these threads, direct method, over the "
        "untuned time.",
        "",
        "| shape | untuned | tuned | ONNX Runtime | OpenVINO | of the limit | of untuned "
        "| of the best peer | trials | seconds |",
        f"|---|{'--:|' * 9}",
    ]
    for row in rows:
        names = ("untuned", "tuned", "onnxruntime", "openvino")
        numbers = [f"{row[name]:.1f}" for name in names] + [f"{of_limit(row):.2f}"]
        numbers += [f"{of_untuned(row):.2f}", f"{of_peers(row):.2f}"]
        numbers += [str(row["trials"]), f"{row['seconds']:.0f}"]
        lines.append(f"| {row['name']} | {' | '.join(numbers)} |")
    slow = [row for row in rows if of_limit(row) < NEAR_LIMIT]
    for what, chosen in (("all", rows), (f"{len(slow)} under {NEAR_LIMIT:.0%} of the limit", slow)):
        if chosen:
            means = [mean([ratio(row) for row in chosen]) for ratio in (of_untuned, of_peers)]
            lines.append(
                f"| geometric mean, {what} | | | | | | {means[0]:.2f} | {means[1]:.2f} | | |"
            )
    return "\n".join(lines) + "\n"


def of_limit(row: dict[str, Any]) -> float:
    """The part of the machine's limit that the untuned model reaches."""
    return row["limit"] / row["untuned"]


def of_untuned(row: dict[str, Any]) -> float:
    """Tuned over untuned time."""
    return row["tuned"] / row["untuned"]


def of_peers(row: dict[str, Any]) -> float:
    """Tuned time over that of the faster peer."""
    return row["tuned"] / min(row["onnxruntime"], row["openvino"])


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


if __name__ == "__main__":
    main()
