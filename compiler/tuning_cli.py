"""The verbs of tuning: `athanor tune` and `athanor database`; parses arguments, calls commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from athanor.compiler.commands import arguments as parse

_FOLDER = click.argument("folder", metavar="DATABASE", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.command()
@click.argument(
    "models", metavar="MODEL.onnx...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--database",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of tuning records; made where there is none, else the job goes on.",
)
@click.option("--target", default="native", show_default=True, help="Machine to tune for.")
@click.option("--trials", type=int, help="Candidates to measure at most.")
@click.option(
    "--minutes",
    type=float,
    help="Time to take at most; without --trials and --minutes, until 1% more is to be expected.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT:DIM,...",
    help="Fix or name the dimensions of an input, as in x:1,3,224,224 or ids:batch,128.",
)
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a symbolic dimension while measuring; default 1.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads that kernels run with; default: all."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option(
    "--winograd/--no-winograd",
    default=True,
    help="Winograd's method for convolutions where it is faster; default: yes.",
)
@click.option(
    "--choices/--no-choices",
    default=True,
    help="Try other methods and layouts of operators, not only other schedules; default: yes.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="That products multiply in, as of compile: tf32, fp16 or bf16 on GPUs.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as a page.")
@click.option("--tracker", metavar="HOST:PORT", help="Measure on devices of TVM's RPC tracker.")
@click.option("--key", help="The devices' key at the tracker.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="OUT.tar",
    help="Write candidates for a device without Python, instead of measuring.",
)
@click.option(
    "--collect",
    type=click.Path(path_type=Path),
    metavar="RESULTS.jsonl",
    help="Record what a bundle measured on its device.",
)
@click.option(
    "--fleet",
    metavar="tcp://HOST:PORT",
    help="Measure on the workers of a Dask scheduler; takes several models.",
)
def tune(
    models: Sequence[Path],
    database: Path,
    target: str,
    trials: int | None,
    minutes: float | None,
    shapes: Sequence[str],
    dims: Sequence[str],
    threads: int | None,
    seed: int,
    winograd: bool,
    choices: bool,
    precision: str,
    html: Path | None,
    tracker: str | None,
    key: str | None,
    bundle: Path | None,
    collect: Path | None,
    fleet: str | None,
) -> None:
    """Measure other schedules of a model's kernels, and keep the fastest in a database.

    Stop it at any time; the same command goes on.

    \b
    Example:
      athanor tune resnet50.onnx --database tuned/ --minutes 20 --html tuning.html
      athanor compile resnet50.onnx --database tuned/
    """
    from athanor.compiler.commands.tune import tune_model
    from athanor.compiler.commands.tune_elsewhere import check_places, devices, visit_device

    options: dict[str, Any] = {
        "target": target,
        "database": database,
        "trials": trials,
        "shapes": parse.shapes(shapes),
        "dims": parse.dims(dims),
        "threads": threads,
        "seed": seed,
        "winograd": winograd,
    }
    check_places(
        {
            "--bundle or --collect": bundle or collect,
            "--tracker": tracker or key,
            "--fleet": fleet,
        },
        len(models),
    )
    if bundle is not None or collect is not None:
        others = {"--minutes": minutes, "--html": html}
        options["precision"] = precision
        visit_device(models[0], others, bundle=bundle, collect=collect, **options)
        return
    if fleet is not None:
        tune_model(models, html=html, fleet=fleet, minutes=minutes, **options)
        return
    with devices(target, tracker, key, threads) as measurer:
        options |= {"choices": choices, "precision": precision}
        tune_model(models, html=html, fleet=None, minutes=minutes, measurer=measurer, **options)


@click.group()
def database() -> None:
    """Look after databases of tuning records.

    \b
    Example:
      athanor database list tuned/
      athanor database merge tuned/ other/
    """


@database.command("list")
@_FOLDER
@_JSON
def list_records(folder: Path, as_json: bool) -> None:
    """Print what is known of each kernel."""
    from athanor.compiler.commands.database import list_database

    list_database(folder, as_json)


@database.command()
@_FOLDER
@click.argument(
    "sources", metavar="OTHER...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def merge(folder: Path, sources: Sequence[Path]) -> None:
    """Add the records of other databases."""
    from athanor.compiler.commands.database import merge_databases

    merge_databases(folder, sources)


@database.command()
@_FOLDER
@click.option("--keep-trials", is_flag=True, help="Keep every measurement, to tune further.")
@click.option("--target", help="Remove what is of another target, TVM or processor.")
def prune(folder: Path, keep_trials: bool, target: str | None) -> None:
    """Remove what compiling does not need. No job may be writing."""
    from athanor.compiler.commands.database import prune_database

    prune_database(folder, keep_trials, target)


@database.command()
@_FOLDER
@click.argument("path", metavar="FILE.jsonl", type=click.Path(path_type=Path))
def export(folder: Path, path: Path) -> None:
    """Write the best decisions to one file; `--database FILE.jsonl` compiles with it."""
    from athanor.compiler.commands.database import export_database

    export_database(folder, path)


@database.command("import")
@_FOLDER
@click.argument(
    "paths", metavar="FILE.jsonl...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def import_files(folder: Path, paths: Sequence[Path]) -> None:
    """Add the records of exported files."""
    from athanor.compiler.commands.database import import_records

    import_records(folder, paths)


@database.command()
@_FOLDER
@_JSON
def stats(folder: Path, as_json: bool) -> None:
    """Count kernels, measurements, failures, targets and processors."""
    from athanor.compiler.commands.database import print_statistics

    print_statistics(folder, as_json)
