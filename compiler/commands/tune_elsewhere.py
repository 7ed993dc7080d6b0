"""athanor tune on other machines: a tracker's devices, bundles, fleets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from athanor.errors import CompileError

if TYPE_CHECKING:
    from athanor.tuning.measure import Measurer


def check_places(places: Mapping[str, object], models: int) -> None:
    """Refuse two places to measure at, and several models without a fleet. Raises CompileError."""
    given = [name for name, value in places.items() if value is not None]
    if len(given) > 1:
        raise CompileError(f"{given[0]} does not go with {given[1]}: each says where to measure")
    if models > 1 and "--fleet" not in given:
        raise CompileError(
            f"{models} models: give one, and the next with the same --database afterwards, or "
            "--fleet for several at once"
        )


@contextmanager
def devices(
    target: str, tracker: str | None, key: str | None, threads: int | None
) -> Iterator[Measurer | None]:
    """The measurer of --tracker and --key; None without them."""
    if tracker is None and key is None:
        yield None
        return
    if tracker is None or key is None:
        raise CompileError("--tracker and --key belong together: give both")
    from athanor.targets import find_target
    from athanor.tuning.rpc import TrackerMeasurer

    measurer = TrackerMeasurer(find_target(target), tracker, key, threads)
    click.echo(f"measuring on {measurer.cpu} with {measurer.threads} threads", err=True)
    try:
        yield measurer
    finally:
        for address, why in measurer.dropped.items():
            click.echo(f"dropped {address}: {why}", err=True)
        measurer.close()


def visit_device(
    model: Path,
    others: Mapping[str, Any],
    *,
    bundle: Path | None,
    collect: Path | None,
    **options: Any,
) -> None:
    """Collect a bundle's results, write the next one, or both; others: options that don't fit."""
    wrong = [name for name, value in others.items() if value is not None]
    if wrong:
        raise CompileError(
            f"{wrong[0]} does not go with --bundle and --collect: the device measures by itself"
        )
    from athanor.tuning.bundle import tune_by_bundle

    report = tune_by_bundle(model, bundle=bundle, collect=collect, **options)
    if collect is not None:
        gain = 1 - report.best_secs / report.heuristic_secs if report.heuristic_secs else 0.0
        click.echo(
            f"recorded {report.collected} candidates of {report.device}; "
            f"{1e3 * report.heuristic_secs:.3f} ms -> {1e3 * report.best_secs:.3f} ms "
            f"({gain:.1%} less)"
        )
    if bundle is not None:
        click.echo(
            f"wrote {bundle}: {report.candidates} candidates of {report.kernels} kernels. On the "
            f"device:\n  tar xf {bundle.name} && sh {bundle.stem}/run.sh\nand here, with the same "
            f"options:\n  athanor tune {model} --collect {bundle.stem}/results.jsonl ..."
        )
