"""athanor compile: a model file -> an artifact on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from athanor.compiler.artifact import Artifact
from athanor.compiler.commands.progress import show_progress
from athanor.compiler.driver import compile
from athanor.compiler.write_aside import check_writable


def run_compile(
    model: Path,
    output: Path,
    *,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    database: Path | None = None,
    keep_ir: bool = False,
    weights_beside: bool | None = None,
    profile: bool = False,
    winograd: bool = True,
) -> Path:
    """Compile `model`, write it to `output` whole or not at all, and say what came out.

    Raises CompileError; an output that can't be written is refused before the work starts.
    """
    check_writable(output)
    started = time.perf_counter()
    artifact = compile_with_progress(
        model,
        target=target,
        shapes=shapes,
        database=database,
        keep_ir=keep_ir,
        weights_beside=weights_beside,
        profile=profile,
        winograd=winograd,
    )
    path = artifact.save(output)
    metadata = artifact.metadata
    click.echo(
        f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s"
        f" ({len(metadata['kernels'])} kernels, {metadata['weights_bytes'] / 1e6:.1f} MB of "
        f"weights, for {metadata['target']['name']})"
    )
    return path


def compile_with_progress(
    model: Path,
    *,
    target: str,
    shapes: Mapping[str, Sequence[int | str]] | None,
    database: Path | None,
    keep_ir: bool = False,
    weights_beside: bool | None = None,
    profile: bool = False,
    winograd: bool = True,
) -> Artifact:
    """`athanor.compile` that shows how far it is."""
    with show_progress() as on_progress:
        return compile(
            model,
            target,
            shapes or None,
            database,
            keep_ir=keep_ir,
            weights_beside=weights_beside,
            profile=profile,
            winograd=winograd,
            on_progress=on_progress,
        )
