"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from athanor.errors import CompileError


class OutputError(CompileError):
    """A file that can't be written."""


def check_writable(path: Path) -> None:
    """Refuse a path that can't be written, before the work that it is meant for."""
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"can't write {path}: it is a directory")
    if not folder.is_dir():
        raise OutputError(f"can't write {path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"can't write {path}: no permission to write in {folder}")


@contextmanager
def write_aside(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its name when the context ends well.

    Whatever ends the context otherwise, an interrupt too, leaves `path` as it was and nothing
    beside it. Raises OutputError where the file can't be written.
    """
    check_writable(path)
    aside = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        with aside.open("wb") as file:
            yield file
        aside.chmod(mode)
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
