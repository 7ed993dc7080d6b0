"""athanor check: whether a model will compile, and what a run of it will cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from athanor.compiler.check import CheckReport, check

_WIDTH = 110  # where there is no terminal


def check_model(
    model: Path,
    *,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    as_json: bool = False,
) -> bool:
    """Check `model` and print the report; True where it will compile. Raises CompileError."""
    report = check(model, target, shapes or None, dims)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print_report(report)
    return report.compiles


def _print_report(report: CheckReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=_WIDTH, highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("operator", no_wrap=True)
    table.add_column("opset", justify="right")
    table.add_column("nodes", justify="right")
    table.add_column("supported", overflow="fold")
    for operator in report.operators:
        name = f"{operator.domain}.{operator.operator}" if operator.domain else operator.operator
        # the same reason is given once, for however many nodes
        reasons = "\n".join(dict.fromkeys(operator.refusals))
        supported = "yes" if operator.supported else f"no: {reasons}"
        table.add_row(escape(name), str(operator.opset), str(operator.count), escape(supported))
    console.print(table)
    console.print()
    for name, places in report.dynamic_dims.items():
        console.print(f"dynamic:     {escape(name)} in {escape(', '.join(places))}")
    estimate = report.estimate
    if estimate is not None:
        sizes = ", ".join(f"{name}={size}" for name, size in estimate.dims.items())
        least = "at least " if estimate.late_dims else ""
        console.print(f"operations:  {least}{estimate.operations / 1e9:.3f} GFLOP a run", end="")
        console.print(f", for {escape(sizes)}" if sizes else "")
        console.print(f"weights:     {estimate.weight_bytes / 1e6:.1f} MB")
        console.print(
            f"activations: {least}{estimate.peak_activation_bytes / 1e6:.1f} MB at the peak"
        )
        if estimate.late_dims:
            console.print(
                f"             {estimate.late_dims} sizes that only the run knows count as 1"
            )
    named = {reason for operator in report.operators for reason in operator.refusals}
    for sentence in report.refusals:
        if sentence not in named:
            console.print(f"refused:     {escape(sentence)}")
    console.print("the model will compile" if report.compiles else "the model will not compile")
