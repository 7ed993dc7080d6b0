"""athanor database: what is in databases of tuning records, and moving it between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from athanor.errors import CompileError
from athanor.targets import find_target
from athanor.tuning import maintain
from athanor.tuning.context import make_context, misfit
from athanor.tuning.database import Database


def list_database(folder: Path, as_json: bool) -> None:
    """Print a line for each kernel and context."""
    found = maintain.entries(Database(folder))
    if as_json:
        click.echo(json.dumps([vars(entry) for entry in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("workload", "kernel", "rule", "target", "threads"):
        table.add_column(name, overflow="fold")
    for name in ("trials", "failed", "untuned us", "tuned us"):
        table.add_column(name, justify="right")
    table.add_column("decisions", overflow="fold")
    for entry in found:
        times = [
            "" if secs is None else f"{1e6 * secs:.1f}"
            for secs in (entry.heuristic_secs, entry.best_secs)
        ]
        table.add_row(
            entry.workload,
            entry.label,
            entry.rule,
            entry.context["target"].split()[0],
            str(entry.context["threads"]),
            str(entry.trials),
            str(entry.failed),
            *times,
            ", ".join(f"{name} {value}" for name, value in entry.decisions.items()),
        )
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    console.print(table)


def merge_databases(target: Path, sources: Sequence[Path]) -> None:
    """Append what others have."""
    opened = [Database(source) for source in sources]
    count = maintain.merge(Database(target, create=True), opened)
    click.echo(f"{target}: {count} lines added")


def prune_database(folder: Path, keep_trials: bool, target: str | None) -> None:
    """Leave out what is not needed to compile."""
    database = Database(folder)

    def fits(line: dict[str, Any]) -> bool:
        if target is None:
            return True
        context = make_context(spec, spec.cores)
        return misfit(line["context"], context, any_cpu=target != "native") is None

    spec = find_target(target or "native")
    count = maintain.prune(database, keep_trials, fits)
    click.echo(f"{folder}: {count} lines removed, {len(database.lines)} left")


def export_database(folder: Path, path: Path) -> None:
    """Write the best to one file."""
    count = maintain.export(Database(folder), path)
    click.echo(f"wrote {path}: the best decisions for {count} kernels")


def import_records(folder: Path, paths: Sequence[Path]) -> None:
    """Append the lines of exported files."""
    target = Database(folder, create=True)
    for path in paths:
        if not path.is_file():
            raise CompileError(f"there is no file {path}")
        count = maintain.merge(target, [Database(path)])
        click.echo(f"{folder}: {count} lines added from {path}")


def print_statistics(folder: Path, as_json: bool) -> None:
    """Print counts of everything."""
    found = maintain.statistics(Database(folder))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {count}" for key, count in value.items()) or "none"
        click.echo(f"{name:12} {value}")
