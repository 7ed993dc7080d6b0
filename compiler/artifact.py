"""The result of a compilation: one file, and what it says of itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from athanor.compiler.write_aside import write_aside

if TYPE_CHECKING:
    from athanor.runtime.model import Model

WEIGHTS_SUFFIX = ".weights"
"""What is appended to an artifact's name for the file of weights beside it."""


class Constant(NamedTuple):
    """A constant of a compiled model, as the kernels read it."""

    offset: int
    """Of its first byte in the weights."""
    dtype: str
    elements: int


class Artifact:
    """A compiled model. Its file is temporary until `save`; it goes when the object goes."""

    def __init__(
        self,
        folder: tempfile.TemporaryDirectory,
        path: Path,
        metadata: dict,
        constants: Sequence[Constant] = (),
    ) -> None:
        self._folder = folder
        self._path = path
        self.constants: tuple[Constant, ...] = tuple(constants)
        """What the weights consist of, in order."""
        self.metadata: dict[str, Any] = metadata
        """Versions, hashes, target, inputs, outputs, kernels and sizes; the same JSON that
        `athanor inspect` prints."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the artifact to `path`, beside it `path`.weights where the weights are apart.

        The file appears whole or not at all. Raises CompileError where it can't be written.
        """
        path = Path(path)
        beside = self._path.with_name(self._path.name + WEIGHTS_SUFFIX)
        if beside.exists():
            _copy_whole(beside, path.with_name(path.name + WEIGHTS_SUFFIX))
        _copy_whole(self._path, path)
        return path

    def load(self, threads: int | None = None, **options: Any) -> Model:
        """A Model that runs in this process; options: those of `athanor.load`."""
        from athanor.runtime.loader import load

        model = load(self._path, threads=threads, **options)
        model._keep_alive = self._folder  # the mapped file must outlive the model
        return model


def _copy_whole(source: Path, target: Path) -> None:
    with write_aside(target, mode=0o755) as file:
        shutil.copyfile(source, file.name)
