"""athanor runtime: the C header, library and pkg-config file under a prefix."""

from __future__ import annotations

from pathlib import Path

import click

from athanor.runtime.install import install_runtime


def install(prefix: Path) -> None:
    """Install the C runtime under `prefix` and list the files. Raises RunError."""
    for path in install_runtime(prefix):
        click.echo(str(path))
