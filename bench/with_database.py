"""What a database of tuning records adds to the time of a compilation.

For each model a database is made that has a record for every kernel, with the decisions that the
rule takes by itself, so that the same code is generated with it and without; and trials of other
kernels up to 10,000 records. Compilations take turns; medians, with the kernel cache and without.
On a quiet machine: python bench/with_database.py bert.onnx resnet50.onnx
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import shapes

import athanor
from athanor.targets import find_target
from athanor.tuning.apply import TunedKernels
from athanor.tuning.build import Builder, rule_of
from athanor.tuning.context import make_context
from athanor.tuning.database import BEST, TRIAL, Database
from athanor.tuning.job import model_tasks

RECORDS = 10_000


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="more ONNX models")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    small = dict(shapes.shape_models())["conv: odd channels 3x3"]
    print("| model | kernels | cache | ms without | ms with | added | of it reading |")
    print("|---|--:|---|--:|--:|--:|--:|")
    for name, model in [("odd channels 3x3", small), *((p.stem, p) for p in arguments.models)]:
        with tempfile.TemporaryDirectory() as folder:
            kernels = fill(model, folder)
            for cache in (False, True):
                plain, tuned, reading = measure(model, folder, cache, arguments.rounds)
                print(
                    f"| {name} | {kernels} | {'warm' if cache else 'off'} | {plain:.0f} "
                    f"| {tuned:.0f} | {tuned / plain - 1:.1%} | {reading:.0f} |",
                    flush=True,
                )


def fill(model: Path | onnx.ModelProto, folder: str) -> int:
    """Make the database of a model; how many kernels it has."""
    target = find_target("native")
    tasks = model_tasks(model, target)
    database = Database(folder, create=True)
    context = make_context(target, target.cores).as_dict()
    builder = Builder(target, 1)
    lines: list[dict[str, Any]] = []
    for task in tasks.values():
        rule = rule_of(task.func, target)
        points = builder.points(task.func, rule, ())
        record = {"rule": rule, "names": points.names, "values": list(points.values)}
        key = database.add_workload(task.func, task.name)
        place = {"workload": key, "context": context}
        times = {"seconds": 1e-3, "heuristic_seconds": 2e-3, "compared": [record["values"]]}
        lines.append({"kind": BEST, "format": 1, **place, **record, **times})
    builder.close()
    trial = {**lines[0], "kind": TRIAL, "workload": "another", "seconds": [1.234e-4] * 20}
    missing = RECORDS - len(lines) - len(database.lines)
    database.rewrite([*database.lines, *[trial] * missing, *lines])
    return len(tasks)


def measure(
    model: Path | onnx.ModelProto, folder: str, cache: bool, rounds: int
) -> tuple[float, float, float]:
    """Milliseconds of a compilation without the database and with it, and of reading it."""
    times: dict[str, list[float]] = {"": [], folder: [], "read": []}
    for number in range(rounds + cache):
        for database in ("", folder):
            started = time.perf_counter()
            athanor.compile(model, database=database or None, cache=cache)
            times[database].append(time.perf_counter() - started)
        started = time.perf_counter()
        TunedKernels(folder, find_target("native"))
        times["read"].append(time.perf_counter() - started)
        if cache and number == 0:
            times = {key: [] for key in times}  # that filled the cache
    plain, tuned, reading = (1e3 * statistics.median(found) for found in times.values())
    return plain, tuned, reading


if __name__ == "__main__":
    main()
