"""Tunes whole models and tells when how much of the gain was found.

Writes tuning_models.json and tuning_models.md. The curve is that of the job, the sum of the model's
kernels; at the end the untuned and the tuned model run in turn. On a quiet machine:
python bench/tuning_models.py resnet50.onnx bert.onnx --minutes 40
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from run import commit, processor, versions

import athanor
from athanor.compiler.commands.peers import usable_cores
from athanor.compiler.feeds import make_feeds

HERE = Path(__file__).resolve().parent
PARTS = (0.5, 0.9, 0.95, 1.0)
"""Of the gain."""


def main() -> None:
    """Parse, tune, measure, write after each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=40, help="of tuning for a model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--database", type=Path, help="folder to keep the records in")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "tuning_models.json"
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(model, arguments.database or Path(folder), arguments))
        path.write_text(json.dumps(rows, indent=1) + "\n")
        page = table(rows, arguments)
        (arguments.output / "tuning_models.md").write_text(page)
        print(page, flush=True)


def measure(model: Path, database: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The job's curve, and milliseconds of a run untuned and tuned."""
    report = athanor.tune(
        model, database=database, minutes=arguments.minutes, threads=arguments.threads
    )
    times = run_in_turn(model, database, arguments)
    return {
        "name": model.stem,
        "kernels_untuned": 1e3 * report.heuristic_secs,
        "kernels_tuned": 1e3 * report.best_secs,
        **times,
        "trials": report.trials,
        "seconds": round(report.elapsed_secs),
        "building": round(report.building_secs),
        "measuring": round(report.measuring_secs),
        "curve": [(round(t, 1), n, 1e3 * secs) for t, n, secs in report.history],
        "stage": report.stage,
    }


def run_in_turn(model: Path, database: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of the whole model's time in milliseconds, one run each in turn."""
    threads = arguments.threads
    models = {
        "untuned": athanor.compile(model).load(threads=threads),
        "tuned": athanor.compile(model, database=database).load(threads=threads),
    }
    feeds = make_feeds(models["untuned"].inputs)
    found: dict[str, list[float]] = {name: [] for name in models}
    for number in range(arguments.rounds + 1):
        for name, loaded in models.items():
            started = time.perf_counter()
            loaded.run(feeds)
            if number:
                found[name].append(1e3 * (time.perf_counter() - started))
    return {name: round(statistics.median(times), 3) for name, times in found.items()}


def seconds_to(part: float, row: dict[str, Any]) -> float:
    """When the job had found that part of its gain for good."""
    goal = row["kernels_untuned"] - part * (row["kernels_untuned"] - row["kernels_tuned"])
    reached = 0.0
    before = row["kernels_untuned"]
    for seconds, _, milliseconds in row["curve"]:
        if before > goal + 1e-9:
            reached = seconds
        before = milliseconds
    return reached


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The rows as Markdown."""
    columns = ["model", "untuned ms", "tuned ms", "tuned / untuned", "of its kernels"]
    columns += [f"{part:.0%} of the gain" for part in PARTS]
    columns += ["trials", "seconds", "building", "measuring"]
    lines = [
        "Milliseconds of a run, and seconds of the job until so much of the gain that it found. "
        "Of its kernels: the same ratio as the job measured it, each kernel alone. Written by "
        f"`python bench/tuning_models.py --minutes {arguments.minutes:g} --threads "
        f"{arguments.threads}` at commit {commit()}, on {processor()}, {usable_cores()} cores. "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|---|{'--:|' * (len(columns) - 1)}",
    ]
    for row in rows:
        cells = [f"{row['untuned']:.2f}", f"{row['tuned']:.2f}"]
        cells += [f"{row['tuned'] / row['untuned']:.3f}"]
        cells += [f"{row['kernels_tuned'] / row['kernels_untuned']:.3f}"]
        cells += [f"{seconds_to(part, row):.0f} s" for part in PARTS]
        cells += [str(row[name]) for name in ("trials", "seconds", "building", "measuring")]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
