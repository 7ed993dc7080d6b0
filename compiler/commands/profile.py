"""athanor profile: what each kernel of a model takes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from athanor.compiler.commands.feeds import make_feeds
from athanor.runtime.loader import load
from athanor.runtime.model import Model
from athanor.runtime.profile import Profile

_WIDTH = 100
"""Columns of a table that goes to no terminal."""


def profile_model(
    model: Path,
    *,
    runs: int = 30,
    as_json: bool = False,
    threads: int | None = None,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Profile:
    """Compile `model` where it is no artifact yet, time its kernels on seeded inputs, and print.

    Raises CompileError or RunError.
    """
    loaded = _load(model, threads, target, shapes)
    profile = loaded.profile(make_feeds(loaded.inputs, dims=dims, seed=seed), runs)
    rules = {entry["name"]: entry["rule"] for entry in loaded.metadata["kernels"]}
    if as_json:
        click.echo(json.dumps(as_data(profile, rules), indent=1))
    else:
        print_tables(profile, rules)
    return profile


def _load(
    model: Path,
    threads: int | None,
    target: str,
    shapes: Mapping[str, Sequence[int | str]] | None,
) -> Model:
    if model.suffix == ".so":
        return load(model, threads=threads)
    # an artifact is profiled without TVM
    from athanor.compiler.commands.compile import compile_with_progress

    artifact = compile_with_progress(
        model, target=target, shapes=shapes, database=None, profile=True
    )
    return artifact.load(threads=threads)


def as_data(profile: Profile, rules: Mapping[str, str]) -> dict[str, Any]:
    """The profile for programs."""
    return {
        "runs": len(profile.runs),
        "milliseconds": profile.milliseconds,
        "steps": [
            {
                "step": step.number,
                "kernel": step.kernel,
                "rule": rules.get(step.kernel),
                "value": step.value,
                "nodes": list(step.nodes),
                "calls": step.calls,
                "milliseconds": step.milliseconds,
                "share": step.milliseconds / profile.milliseconds,
                "operations": step.operations,
                "bytes": step.bytes,
                "gflops": step.gflops,
                "gigabytes_per_second": step.gigabytes_per_second,
            }
            for step in profile.steps
        ],
    }


def print_tables(profile: Profile, rules: Mapping[str, str]) -> None:
    """Steps, the slowest first; then the sums by schedule rule."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "ms", "share", "GFLOP/s", "GB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("kernel", "nodes"):
        table.add_column(name, overflow="fold")
    for step in sorted(profile.steps, key=lambda step: -step.milliseconds):
        table.add_row(
            str(step.number),
            f"{step.milliseconds:.3f}",
            f"{step.milliseconds / profile.milliseconds:.1%}",
            f"{step.gflops:.1f}",
            f"{step.gigabytes_per_second:.1f}",
            step.kernel.removeprefix("k_"),
            ", ".join(step.nodes) or f"({step.value})",
        )
    console.print(table)
    sums: dict[str, float] = defaultdict(float)
    for step in profile.steps:
        sums[rules.get(step.kernel, step.kernel)] += step.milliseconds
    sums["between kernels"] = max(0.0, profile.milliseconds - sum(sums.values()))
    totals = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ms", "share"):
        totals.add_column(name, justify="right")
    totals.add_column("rule")
    for rule, milliseconds in sorted(sums.items(), key=lambda item: -item[1]):
        share = milliseconds / profile.milliseconds
        totals.add_row(f"{milliseconds:.3f}", f"{share:.1%}", rule)
    console.print()
    console.print(totals)
    console.print(
        f"\n{profile.milliseconds:.3f} ms a run, the median of {len(profile.runs)} runs with the "
        "clock read around each kernel"
    )
