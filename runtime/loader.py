"""Open an artifact: to run it, or to read what it says of itself."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from athanor.errors import RunError
from athanor.runtime.handle import Handle
from athanor.runtime.library import OpenOptions, check, library
from athanor.runtime.model import Model

_INSPECT_ONLY = 1
_VERIFY = {None: 0, True: 1, False: 2}


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    *,
    verify: bool | None = None,
    device: int = 0,
    stream: Any = None,
    cuda_graph: bool = False,
) -> Model:
    """The model in the artifact at `path`, ready to run.

    threads: how many a run uses; None is every core that the process may use.
    verify: compare the hashes of code, metadata and weights with the file; None leaves out the
    weights of a model past 64 MB, False all hashes but the footer's. device: of a model for a GPU,
    which one, as the driver counts. stream: the stream of that device that runs use: a
    torch.cuda.Stream, a CuPy stream, or the address of a CUstream (0 or 1: the default stream); it
    must live as long as the model. None is one of the model's own. cuda_graph: capture runs as CUDA
    graphs and replay them; refused, with the reason, where the host has a part in a run.
    Raises RunError where path holds no artifact, one that is cut short, damaged or of another
    version, or one that needs what this machine lacks.
    """
    return Model(_open(path, 0, verify), threads, device, stream, cuda_graph)


def inspect(path: str | os.PathLike[str], verify: bool = False) -> dict[str, Any]:
    """The metadata of the artifact at `path`; none of its code is loaded.

    verify: also compare the hashes of code and weights. Raises RunError where the file is no
    artifact, or is damaged.
    """
    handle = _open(path, _INSPECT_ONLY, True if verify else None)
    try:
        return handle.metadata()
    finally:
        handle.close()


def _open(path: str | os.PathLike[str], flags: int, verify: bool | None) -> Handle:
    name = os.fsencode(Path(path))
    if b"\0" in name:
        raise RunError(f"can't open {str(path)!r}: the path holds a zero byte")
    options = OpenOptions(ctypes.sizeof(OpenOptions), flags, _VERIFY[verify])
    pointer = ctypes.c_void_p()
    check(library().athanor_open(name, ctypes.byref(options), ctypes.byref(pointer)))
    return Handle(pointer)
