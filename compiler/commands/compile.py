"""athanor compile: a model file -> an artifact on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from athanor.compiler.artifact import Artifact
from athanor.compiler.commands.progress import show_progress
from athanor.compiler.driver import compile
from athanor.compiler.write_aside import check_writable


def run_compile(model: Path, output: Path, **options: Any) -> Path:
    """Compile `model`, write it to `output` whole or not at all, and say what came out.

    options: those of `athanor.compile`. Raises CompileError; an output that can't be written is
    refused before the work starts.
    """
    check_writable(output)
    started = time.perf_counter()
    artifact = compile_with_progress(model, **options)
    path = artifact.save(output)
    metadata = artifact.metadata
    click.echo(
        f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s"
        f" ({len(metadata['kernels'])} kernels, {metadata['weights_bytes'] / 1e6:.1f} MB of "
        f"weights, for {metadata['target']['name']})"
    )
    return path


def compile_with_progress(model: Path, **options: Any) -> Artifact:
    """`athanor.compile` that shows how far it is."""
    with show_progress() as on_progress:
        return compile(model, **options, on_progress=on_progress)
