"""Our search beside MetaSchedule's own on some shapes of shapes.py: trials to the same latency.

Writes tuning_stock.json and tuning_stock.md. Both searches run on this machine with the same number
of threads; what each found is measured by one program, in turn. One shape takes a minute or two.
A shape that tuning_stock.json has is not measured again; --again starts anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import shapes
from run import commit, processor, versions
from stock import StockSearch, operator

import athanor
from athanor.compiler.commands.peers import usable_cores
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.targets import TargetSpec, find_target
from athanor.tuning.apply import TunedKernels
from athanor.tuning.build import Builder, make_candidate, rule_of
from athanor.tuning.choose import GraphChoices
from athanor.tuning.context import make_context
from athanor.tuning.database import Database
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import Candidate
from athanor.tuning.model_tasks import ModelTasks, Variant

HERE = Path(__file__).resolve().parent
SHAPES = (
    "conv: odd channels 3x3",
    "conv: odd channels 5x5",
    "conv: dilation 2",
    "conv: 4 groups",
    "conv: depthwise 7x7",
    "matmul: m = 7, wide",
    "matmul: all odd",
    "matmul: all odd, larger",
)
TIMES_FEWER = 5
"""Trials than MetaSchedule's that ours should take."""


def main() -> None:
    """Parse, search, measure, write after each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=48, help="of MetaSchedule's search")
    parser.add_argument("--seconds", type=float, default=12, help="of our search")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", nargs="+", help="shapes whose name holds one of these texts")
    parser.add_argument("--again", action="store_true", help="measure every shape again")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "tuning_stock.json"
    rows = json.loads(path.read_text()) if path.exists() and not arguments.again else []
    models = dict(shapes.shape_models())
    for name in SHAPES:
        if arguments.only and not any(text in name for text in arguments.only):
            continue
        if any(row["name"] == name for row in rows):
            continue
        rows.append({"name": name, **measure(name, models[name], arguments)})
        print(rows[-1], flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        (arguments.output / "tuning_stock.md").write_text(table(rows, arguments))


def measure(name: str, model: onnx.ModelProto, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both searches on one shape; times in microseconds."""
    target = find_target("native")
    started = time.monotonic()
    search = StockSearch(operator(name), target, arguments.threads, arguments.trials)
    stock_secs = time.monotonic() - started
    with tempfile.TemporaryDirectory() as folder:
        report = athanor.tune(
            model, database=folder, minutes=arguments.seconds / 60, threads=arguments.threads
        )
        ours = _kernels(model, target, folder, arguments.threads)
    counts = [n for n in (16, 32, 64, 128, 256, 512, 1024) if n < arguments.trials]
    found = {n: search.best(n) for n in (*counts, arguments.trials)}
    theirs = {index: search.candidate(index) for index in sorted(set(found.values()))}
    measurer = LocalMeasurer(target, arguments.threads)
    try:
        candidates = [c for kernels in ours.values() for c, _ in kernels] + list(theirs.values())
        results = iter(list(measurer.measure(candidates, repeats=41, interleaved=True)))
    finally:
        measurer.close()
    times = {
        kind: sum(1e6 * next(results).median * calls for _, calls in kernels)
        for kind, kernels in ours.items()
    }
    stock = {index: 1e6 * next(results).median for index in theirs}
    # The fastest of all that it found: more trials never make it slower.
    last = min(stock, key=lambda index: stock[index])
    needed = trials_to(stock[last] / times["untuned"], report, len(ours["untuned"]))
    return {
        **{kind: round(time, 2) for kind, time in times.items()},
        "stock": {str(n): round(stock[index], 2) for n, index in found.items()},
        "stock_trials": last + 1,
        "our_trials": needed,
        "stock_seconds": round(stock_secs),
        "our_seconds": round(report.elapsed_secs),
        "all_our_trials": report.trials,
    }


def trials_to(ratio: float, report: athanor.TuningReport, kernels: int) -> int | None:
    """Our trials until a model took `ratio` of its untuned time; None: never.

    The untuned model is the first trial, however many kernels it has.
    """
    if ratio >= 1:
        return 1
    reached = None
    for _, trials, secs in report.history:
        if secs > ratio * report.heuristic_secs:
            reached = None  # what was found before was withdrawn
        elif reached is None:
            reached = 1 + max(0, trials - kernels)
    return reached


def _kernels(
    model: onnx.ModelProto, target: TargetSpec, folder: str, threads: int
) -> dict[str, list[tuple[Candidate, int]]]:
    """The kernels of the untuned and of the tuned model, and how often a run calls each."""
    builder = Builder(target, usable_cores())
    try:
        tasks = ModelTasks(
            import_model(read_model(model)),
            target,
            True,
            {},
            builder,
            Database(folder),
            make_context(target, threads),
            0,
        )
        graph = GraphChoices(tasks)
        known = TunedKernels(folder, target)
        return {
            "untuned": _candidates(graph.base, builder, None),
            "tuned": _candidates(tasks.variant(graph.values()), builder, known),
        }
    finally:
        builder.close()


def _candidates(
    variant: Variant, builder: Builder, known: TunedKernels | None
) -> list[tuple[Candidate, int]]:
    found = []
    for task in variant.tasks.values():
        best = known.decisions(task.func) if known else None
        rule = best.rule if best else rule_of(task.func, builder.target)
        (built,) = builder.build(task.func, rule, [best.values if best else ()])
        found.append((make_candidate(task, built, None), task.calls))
    return found


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The rows as Markdown."""
    counts = list(rows[0]["stock"])
    columns = ["shape", "untuned", "tuned", *(f"stock, {n} trials" for n in counts)]
    columns += ["stock trials", "our trials", "times fewer", "stock seconds", "our seconds"]
    lines = [
        "Microseconds of the kernels, measured in turn by one program. Stock is MetaSchedule with "
        "TVM's own search space, weights in any layout. Stock trials: until its fastest; our "
        "trials: until as fast, the untuned kernels being the first. Written by `python "
        f"bench/tuning_stock.py --trials {arguments.trials} --seconds {arguments.seconds:g} "
        f"--threads {arguments.threads}` at commit {commit()}, on {processor()}, "
        f"{usable_cores()} cores. "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|---|{'--:|' * (len(columns) - 1)}",
    ]
    for row in rows:
        cells = [f"{row['untuned']:.1f}", f"{row['tuned']:.1f}"]
        cells += [f"{row['stock'][n]:.1f}" for n in counts]
        never = row["our_trials"] is None
        cells += [str(row["stock_trials"]), "never" if never else str(row["our_trials"])]
        cells += [f"{fewer(row):.1f}", str(row["stock_seconds"]), str(row["our_seconds"])]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    ratios = [fewer(row) for row in rows]
    lines.append("")
    many = sum(ratio >= TIMES_FEWER for ratio in ratios)
    lines.append(
        f"Fewest: {min(ratios):.1f} times; median {statistics.median(ratios):.0f}; at least "
        f"{TIMES_FEWER} times on {many} of {len(ratios)}."
    )
    return "\n".join(lines) + "\n"


def fewer(row: dict[str, Any]) -> float:
    """How many times fewer trials ours took; 0 where it never became as fast."""
    return row["stock_trials"] / row["our_trials"] if row["our_trials"] else 0.0


if __name__ == "__main__":
    main()
