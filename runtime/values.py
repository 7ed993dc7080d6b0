"""Inputs and outputs as a user has them <-> the tensors that the library takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from athanor.errors import RunError
from athanor.runtime.arguments import as_argument, as_array
from athanor.runtime.dlpack import Imported
from athanor.runtime.dtypes import named_dtype
from athanor.runtime.handle import Handle
from athanor.runtime.spec import TensorSpec
from athanor.runtime.strings import strings

_TENSOR, _SEQUENCE, _OPTIONAL, _OPTIONAL_SEQUENCE = range(4)
"""The kinds as athanor.h has them; it also tells what tensors a value is."""


class Values:
    """All inputs, or all outputs, of a model."""

    def __init__(self, handle: Handle, kind: str) -> None:
        parts = handle.tensors(kind)
        self.tensors = tuple(part.spec for part in parts)
        """Of each tensor that the library knows."""
        self._kinds = [part.kind for part in parts if part.part == 0]
        self._is_plain = not any(self._kinds)
        self._has_text = any(spec.dtype.kind == "O" for spec in self.tensors)
        self.specs = self.tensors
        """Of each value that the user knows."""
        if not self._is_plain:
            self.specs = tuple(_described(entry) for entry in handle.metadata()[f"{kind}s"])

    @property
    def is_plain(self) -> bool:
        """Whether every value is a tensor."""
        return self._is_plain

    @property
    def is_numeric(self) -> bool:
        """Whether every value is a tensor, and none of strings."""
        return self._is_plain and not self._has_text

    def split(self, values: Sequence[Any], stream: int | None) -> list[np.ndarray | Imported]:
        """An array for each tensor. Raises RunError for a value that does not fit.

        stream: the session's, for tensors on a GPU.
        """
        if self._is_plain:
            return [
                as_argument(spec, value, stream)
                for spec, value in zip(self.specs, values, strict=True)
            ]
        arrays: list[np.ndarray | Imported] = []
        for spec, kind, value in zip(self.specs, self._kinds, values, strict=True):
            if kind == _TENSOR:
                arrays.append(as_argument(spec, value, stream))
                continue
            width = self.tensors[len(arrays) + 1].shape[1] - 1  # pyright: ignore
            arrays += _packed(spec, _listed(spec, kind, value), int(width))
            if kind == _OPTIONAL_SEQUENCE:
                arrays.append(np.array(value is not None))
        return arrays

    def join(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """The values that the tensors make: arrays, lists of them, and None for what is absent.

        Strings are read, so the session must not have been called again.
        """
        if self._has_text:
            arrays = [
                strings(array) if spec.dtype.kind == "O" else array
                for spec, array in zip(self.tensors, arrays, strict=True)
            ]
        if self._is_plain:
            return list(arrays)
        values: list[Any] = []
        rest = iter(arrays)
        for kind in self._kinds:
            if kind == _TENSOR:
                values.append(next(rest))
                continue
            value: Any = _unpacked(next(rest), next(rest))
            if kind == _OPTIONAL:
                value = value[0] if value else None
            if kind == _OPTIONAL_SEQUENCE and not next(rest):
                value = None
            values.append(value)
        return values


def _described(entry: dict[str, Any]) -> TensorSpec:
    """The spec that the metadata tells."""
    shape = None if entry["shape"] is None else tuple(entry["shape"])
    return TensorSpec(
        entry["name"], named_dtype(entry["dtype"]), shape, entry.get("kind", "tensor")
    )


def _listed(spec: TensorSpec, kind: int, value: Any) -> list[Any]:
    """The tensors of a value."""
    if kind != _SEQUENCE and value is None:
        return []
    if kind == _OPTIONAL:
        return [value]
    if not isinstance(value, (list, tuple)):
        raise RunError(
            f"input '{spec.name}' is of class {type(value).__name__}, expected a list of arrays of "
            f"{spec.dtype}"
        )
    return list(value)


def _packed(spec: TensorSpec, values: list[Any], width: int) -> list[np.ndarray]:
    """The elements, and the table of shapes."""
    table = np.zeros((len(values), 1 + width), np.int64)
    flat = [np.empty(0, spec.dtype)]
    for number, value in enumerate(values):
        name = spec.name if spec.kind == "optional" else f"{spec.name}[{number}]"
        array = as_array(TensorSpec(name, spec.dtype, spec.shape), value)
        if not _fits(array.shape, spec.shape, width):
            expected = f"at most {width} dimensions"
            if spec.shape is not None:
                sizes = ", ".join("any" if size is None else str(size) for size in spec.shape)
                expected = f"({sizes}{',' if len(spec.shape) == 1 else ''})"
            raise RunError(f"input '{name}' has shape {array.shape}, expected {expected}")
        table[number, 0] = array.ndim
        table[number, 1 : 1 + array.ndim] = array.shape
        flat.append(array.reshape(-1))
    return [np.concatenate(flat), table]


def _fits(
    shape: tuple[int, ...], expected: tuple[int | str | None, ...] | None, width: int
) -> bool:
    if expected is None:
        return len(shape) <= width
    return len(shape) == len(expected) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _unpacked(elements: np.ndarray, table: np.ndarray) -> list[np.ndarray]:
    """The tensors of a sequence; they share memory that belongs to nothing else."""
    arrays, start = [], 0
    for rank, *sizes in table.tolist():
        shape = sizes[:rank]
        end = start + int(np.prod(shape, dtype=np.int64))
        arrays.append(elements[start:end].reshape(shape))
        start = end
    return arrays
