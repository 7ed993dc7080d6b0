"""Text of the command line -> values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from athanor.errors import AthanorError


class ArgumentError(AthanorError):
    """A value on the command line that can't be read."""


def shapes(texts: Sequence[str]) -> dict[str, list[int | str]]:
    """["x:1,3,224", "ids:batch,128"] -> {"x": [1, 3, 224], "ids": ["batch", 128]}.

    The last colon separates, for names such as `input:0` are common. `x:` is a scalar.
    """
    found: dict[str, list[int | str]] = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
        if not colon or not name or not all(_is_dim(part) for part in parts):
            raise ArgumentError(
                f"--shape {text}: expected INPUT:DIM,DIM,... with sizes or names, "
                "as in x:1,3,224,224"
            )
        if name in found:
            raise ArgumentError(f"--shape {text}: the shape of {name!r} is given twice")
        found[name] = [int(part) if part.isdecimal() else part for part in parts]
    return found


def _is_dim(text: str) -> bool:
    return text.isdecimal() or text.isidentifier()


def dims(texts: Sequence[str]) -> dict[str, int]:
    """["batch=4"] -> {"batch": 4}."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.strip().isdecimal():
            raise ArgumentError(f"--dim {text}: expected NAME=SIZE, as in batch=4")
        found[name] = int(size)
    return found


def input_files(texts: Sequence[str]) -> dict[str, Path]:
    """["x=x.npy"] -> {"x": Path("x.npy")}."""
    found: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ArgumentError(f"--input {text}: expected NAME=FILE.npy, as in x=x.npy")
        if name in found:
            raise ArgumentError(f"--input {text}: {name!r} is given twice")
        found[name] = Path(path)
    return found
