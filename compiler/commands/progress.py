"""Progress of long work: a bar on a terminal, one plain line a stage elsewhere. On stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

OnProgress = Callable[[str, int, int], None]
"""`on_progress(stage, done, total)`: called as a stage starts and as its parts are done."""


@contextmanager
def show_progress() -> Iterator[OnProgress]:
    """A callback that shows progress while the context is open."""
    if sys.stderr.isatty():
        with _bar() as on_progress:
            yield on_progress
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_progress(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=total)

        yield on_progress


def _lines() -> OnProgress:
    last = ""

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last and done < total:
            last = stage
            click.echo(f"{stage} ..." if total <= 1 else f"{stage} ({total}) ...", err=True)

    return on_progress
