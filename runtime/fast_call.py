"""Runs like the one before, in C where the extension was built; see binding/fast_call.c."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from athanor.runtime.aligned import empty_like
from athanor.runtime.dtypes import dlpack_type
from athanor.runtime.library import DataType, library
from athanor.runtime.spec import TensorSpec

if TYPE_CHECKING:
    FastCall: Any
else:
    try:
        from athanor.runtime._fast_call import FastCall
    except ImportError:  # no Python.h when the package was built, or a Python before 3.11
        FastCall = None

Shapes = Sequence[tuple[int, ...]]


class Call(Protocol):
    """A FastCall, for what reads types."""

    def run(self, inputs: Mapping[str, Any], /) -> dict[str, Any] | None:
        """The results by name; None where the inputs are not like those before."""

    def close(self) -> None:
        """Never touch the session again; with the model's lock."""


def fast_call(
    session: ctypes.c_void_p,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    shapes: tuple[Shapes, Shapes],
    lock: threading.Lock,
) -> Call | None:
    """What runs `session` on arrays of these shapes; None where there is no such thing."""
    specs = [*inputs, *outputs]
    if FastCall is None or any(spec.dtype.kind == "O" for spec in specs):
        return None
    if any(-1 in shape for side in shapes for shape in side):
        return None
    try:
        return FastCall(
            run=ctypes.cast(library().athanor_session_run, ctypes.c_void_p).value,
            session=session.value,
            inputs=_examples(inputs, shapes[0]),
            outputs=_examples(outputs, shapes[1]),
            types=b"".join(bytes(DataType(*dlpack_type(spec.dtype), 1)) for spec in specs),
            array=np.ndarray,
            empty_like=empty_like,
            acquire=lock.acquire,
            release=lock.release,
        )
    except (TypeError, ValueError):  # more inputs or other types than it knows
        return None


def _examples(specs: Sequence[TensorSpec], shapes: Shapes) -> tuple[tuple[str, np.ndarray], ...]:
    """Of each tensor its name, and an array of its type and shape that takes no memory."""
    return tuple(
        (spec.name, np.broadcast_to(np.empty((), spec.dtype), shape))
        for spec, shape in zip(specs, shapes, strict=True)
    )
