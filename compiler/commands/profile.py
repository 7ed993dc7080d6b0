"""athanor profile: what each kernel of a model takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from athanor.compiler.commands.peers import usable_cores
from athanor.compiler.feeds import make_feeds
from athanor.compiler.profiling.limits import device_limits, machine_limits
from athanor.compiler.profiling.page import html_page
from athanor.compiler.profiling.summary import Summary, summarize
from athanor.compiler.profiling.trace import chrome_trace
from athanor.compiler.write_aside import check_writable, write_aside
from athanor.runtime.loader import load
from athanor.runtime.model import Model

_WIDTH = 120
"""Columns of a table that goes to no terminal."""


def profile_model(
    model: Path,
    *,
    runs: int = 30,
    as_json: bool = False,
    trace: Path | None = None,
    html: Path | None = None,
    measure_limits: bool = False,
    threads: int | None = None,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Summary:
    """Compile `model` where it is no artifact yet, time its kernels on seeded inputs, and print.

    Raises CompileError or RunError.
    """
    for path in (trace, html):
        if path is not None:
            check_writable(path)
    threads = threads or usable_cores()
    loaded = _load(model, threads, target, shapes)
    feeds = make_feeds(loaded.inputs, dims=dims, seed=seed)
    metadata = loaded.metadata
    if "device" in metadata:
        limits = device_limits(loaded.device_info)
    else:
        limits = machine_limits(threads, measure_limits)
    summary = summarize(loaded.profile(feeds, runs), metadata, limits)
    if as_json:
        click.echo(json.dumps(summary.as_data(), indent=1))
    else:
        print_tables(summary)
    if trace is not None:
        with write_aside(trace) as file:
            file.write(json.dumps(chrome_trace(summary)).encode())
    if html is not None:
        with write_aside(html) as file:
            file.write(html_page(summary, model.name).encode())
    return summary


def _load(
    model: Path,
    threads: int,
    target: str,
    shapes: Mapping[str, Sequence[int | str]] | None,
) -> Model:
    if model.suffix == ".so":
        return load(model, threads=threads)
    from athanor.compiler.commands.compile import compile_with_progress

    artifact = compile_with_progress(
        model, target=target, shapes=shapes, database=None, profile=True
    )
    return artifact.load(threads=threads)


def print_tables(summary: Summary) -> None:
    """Steps, the slowest first; then the sums by schedule rule."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "ms", "share", "GFLOP/s", "GB/s", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("kernel", "nodes"):
        table.add_column(name, overflow="fold")
    for row in summary.slowest_first():
        step = row.step
        table.add_row(
            str(step.number),
            f"{step.milliseconds:.3f}",
            f"{row.share:.1%}",
            f"{step.gflops:.1f}",
            f"{step.gigabytes_per_second:.1f}",
            _percent(row.of_limit),
            step.kernel.removeprefix("k_"),
            ", ".join(step.nodes) or f"({step.value})",
        )
    console.print(table)
    totals = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ms", "share", "of limit"):
        totals.add_column(name, justify="right")
    totals.add_column("rule")
    for rule, milliseconds, of_limit in summary.by_rule():
        share = milliseconds / summary.milliseconds
        totals.add_row(f"{milliseconds:.3f}", f"{share:.1%}", _percent(of_limit), rule)
    console.print()
    console.print(totals)
    console.print(
        f"\n{summary.profile.milliseconds:.3f} ms a run, the median of "
        f"{len(summary.profile.runs)} runs with the clock read around each kernel"
    )
    if summary.limits is not None:
        rates = ", ".join(f"{x.name} {x.gigabytes_per_second:.0f}" for x in summary.limits.levels)
        of, again = f"{summary.limits.threads} of the machine's threads", ""
        if summary.limits.device:
            of = f"the clocks that {summary.limits.device} tells"
        else:
            again = " (--measure-limits measures them again)"
        console.print(
            f"limits with {of}: {summary.limits.gflops:.0f} GFLOP/s in float32; "
            f"GB/s: {rates}{again}"
        )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
