"""An open artifact."""

from __future__ import annotations

import contextlib
import ctypes
import json
from typing import Any, NamedTuple

from athanor.errors import RunError
from athanor.runtime.dtypes import numpy_dtype
from athanor.runtime.library import Spec, last_error, library
from athanor.runtime.spec import TensorSpec


class TensorPart(NamedTuple):
    """A tensor, and which part it is of a value of which kind (an AthanorKind)."""

    spec: TensorSpec
    kind: int
    part: int


class Handle:
    """An open artifact; closed when nobody holds it."""

    def __init__(self, pointer: ctypes.c_void_p) -> None:
        self.pointer = pointer
        self._close = library().athanor_close

    def close(self) -> None:
        """Close the artifact; a second time is harmless. Sessions keep what they need of it."""
        pointer, self.pointer = self.pointer, ctypes.c_void_p()
        self._close(pointer)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("an open artifact can't be copied or pickled: load it again")

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # __init__ failed
            self.close()

    def metadata(self) -> dict[str, Any]:
        """What the artifact says of itself."""
        text = library().athanor_metadata_json(self.pointer)
        if text is None:
            raise RunError(last_error())
        return json.loads(text)

    def tensors(self, kind: str) -> tuple[TensorPart, ...]:
        """The tensors of all inputs (kind "input") or outputs ("output")."""
        count = getattr(library(), f"athanor_num_{kind}s")(self.pointer)
        get = getattr(library(), f"athanor_{kind}")
        return tuple(_part(get(self.pointer, index).contents) for index in range(count))


def _part(spec: Spec) -> TensorPart:
    shape: list[int | str | None] = []
    for axis in range(spec.ndim):
        name = spec.dim_names[axis]
        size = spec.shape[axis]
        shape.append(size if size >= 0 else None if name is None else name.decode())
    dtype = numpy_dtype(spec.dtype.code, spec.dtype.bits)
    return TensorPart(TensorSpec(spec.name.decode(), dtype, tuple(shape)), spec.kind, spec.part)
