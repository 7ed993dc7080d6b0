"""athanor tune: a job with a live view, a table at its end, and a page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from athanor.compiler.write_aside import check_writable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from athanor.tuning.rounds import TuningReport

_SHOWN = 12
"""Kernels in the live view: those that take most of the time."""


def tune_model(
    models: Sequence[Path], *, html: Path | None, fleet: str | None, **options: Any
) -> None:
    """Tune, showing how far it is, and print what was gained. options: those of `athanor.tune`.

    Several models need `fleet`, the address of a Dask scheduler.
    """
    model = models[0]
    if fleet is not None:
        from athanor.tuning.fleet import tune_fleet

        run = partial(tune_fleet, models, scheduler=fleet)
    else:
        from athanor.tuning.job import tune

        run = partial(tune, model)
    if html is not None:
        check_writable(html)
    with show_job() as on_progress:
        report = run(on_progress=on_progress, **options)
    _console(stderr=False).print(job_table(report, len(report.tasks)))
    for choice in report.choices:
        if choice.value != choice.preferred:
            times = f"{1e6 * choice.heuristic_secs:.1f} -> {1e6 * choice.best_secs:.1f} us"
            click.echo(f"{choice.key}: {choice.preferred} -> {choice.value}, {times}")
    click.echo(
        f"{report.stage}: {report.trials} candidates in {report.elapsed_secs:.0f} s; "
        f"{1e3 * report.heuristic_secs:.3f} ms -> {1e3 * report.best_secs:.3f} ms "
        f"({report.gain:.1%} less)"
    )
    if html is not None:
        from athanor.tuning.page import html_page

        html.write_text(html_page(report, model.name), encoding="utf-8")
        click.echo(f"wrote {html}")
    else:
        click.echo(f"use it: athanor compile {model} --database {options['database']}")


@contextmanager
def show_job() -> Iterator[Callable[[TuningReport], None]]:
    """A callback that shows a job: a table on a terminal, a line a step elsewhere. On stderr."""
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.live import Live

    with Live(console=_console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield lambda report: live.update(job_table(report, _SHOWN))


def _line(report: TuningReport) -> None:
    click.echo(
        f"{report.elapsed_secs:.0f} s, {report.trials} trials, "
        f"{1e3 * report.best_secs:.3f} of {1e3 * report.heuristic_secs:.3f} ms: {report.stage}",
        err=True,
    )


def _console(stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 160)


def job_table(report: TuningReport, most: int) -> Table:
    """The kernels that take most of the time."""
    from rich.table import Table

    title = (
        f"{report.stage} · {report.elapsed_secs:.0f} s · {report.trials} trials · model "
        f"{1e3 * report.heuristic_secs:.3f} -> {1e3 * report.best_secs:.3f} ms · "
        f"{report.expected_gain:.1%} more to expect"
    )
    table = Table(title=title, title_justify="left")
    for name in ("kernel", "sizes", "rule"):
        table.add_column(name, overflow="fold")
    for name in ("calls", "untuned us", "tuned us", "gain", "trials"):
        table.add_column(name, justify="right")
    for row in report.slowest_first()[:most]:
        times = [f"{1e6 * row.heuristic_secs:.1f}", f"{1e6 * row.best_secs:.1f}"]
        gain = "failed" if row.failure else f"{row.gain:.1%}" if row.is_measured else ""
        table.add_row(
            row.name,
            row.shapes,
            row.rule,
            str(row.calls),
            *(times if row.is_measured else ["", ""]),
            gain,
            str(row.trials),
        )
    return table
