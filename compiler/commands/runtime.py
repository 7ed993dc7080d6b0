"""athanor runtime: the C header, library and pkg-config file under a prefix."""

from __future__ import annotations

from pathlib import Path

import click

from athanor.compiler.commands.write_aside import OutputError
from athanor.runtime.install import install_runtime


def install(prefix: Path) -> None:
    """Install the C runtime under `prefix` and list the files."""
    try:
        written = install_runtime(prefix)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"can't install under {prefix}: {reason}") from error
    for path in written:
        click.echo(str(path))
