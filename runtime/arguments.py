"""Arrays and tensors of other libraries -> the DLTensors of a call, made once and refilled."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from athanor.errors import RunError
from athanor.runtime.aligned import empty
from athanor.runtime.dlpack import CPU, CUDA_HOST, Imported, import_tensor
from athanor.runtime.dtypes import dlpack_type
from athanor.runtime.library import DataType, Tensor
from athanor.runtime.spec import TensorSpec
from athanor.runtime.strings import ADDRESS, addresses, is_text


def as_argument(spec: TensorSpec, value: Any, stream: int | None) -> np.ndarray | Imported:
    """`value` as a dense, aligned array, without a copy where it is one; or what lies on a GPU.

    stream: the session's, that what is on a GPU will be read on; None of a session on the CPU.
    Raises RunError, naming the input, where it is no array or one of another type.
    """
    if spec.dtype.kind == "O":
        return _addresses(spec, value)
    if not isinstance(value, np.ndarray):
        value = _import(spec, value, stream)
        if isinstance(value, Imported):
            return value
    if value.dtype is not spec.dtype and value.dtype != spec.dtype:
        raise RunError(f"input '{spec.name}' has type {value.dtype}, expected {spec.dtype}")
    flags = value.flags
    if flags.c_contiguous and flags.aligned:
        return value
    # Not ascontiguousarray: it would give a scalar an axis.
    return np.array(value, order="C")


def as_array(spec: TensorSpec, value: Any) -> np.ndarray:
    """As `as_argument`, of what has to be on the host."""
    array = as_argument(spec, value, None)
    if isinstance(array, Imported):
        raise RunError(f"input '{spec.name}' is on a GPU, expected an array on the host")
    return array


def as_buffer(spec: TensorSpec, value: Any, stream: int | None) -> np.ndarray | Imported:
    """Memory of the caller's for an output: a NumPy array, or a tensor with `__dlpack__`.

    Raises RunError, naming the output, where nothing can be written there.
    """
    what = f"output '{spec.name}'"
    if spec.dtype.kind == "O":
        raise RunError(f"{what} is of strings, which are always new")
    if not isinstance(value, np.ndarray):
        if not hasattr(value, "__dlpack__"):
            raise RunError(f"{what} is of class {type(value).__name__}, expected an array")
        try:
            imported = import_tensor(value, stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"{what} can't be written through DLPack: {error}") from error
        if imported.is_read_only:
            raise RunError(f"{what} can't be written: the tensor is read-only")
        if imported.device[0] not in (CPU, CUDA_HOST):
            return imported
        value = imported.array()
    if value.dtype != spec.dtype:
        raise RunError(f"{what} has type {value.dtype}, expected {spec.dtype}")
    if not (value.flags.c_contiguous and value.flags.aligned and value.flags.writeable):
        raise RunError(f"{what} can't be written: the array must be dense, row-major and writable")
    return value


def _addresses(spec: TensorSpec, value: Any) -> np.ndarray:
    if not is_text(value):
        what = f"type {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise RunError(f"input '{spec.name}' is of {what}, expected an array of strings")
    return addresses(spec.name, np.asarray(value))


def _import(spec: TensorSpec, value: Any, stream: int | None) -> np.ndarray | Imported:
    if isinstance(value, np.generic):
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        raise RunError(
            f"input '{spec.name}' is of class {type(value).__name__}, expected an array of "
            f"{spec.dtype}"
        )
    try:
        is_on_cpu = value.__dlpack_device__()[0] == CPU
        if is_on_cpu and spec.dtype.kind in "biufc":
            return np.from_dlpack(value)  # faster; it knows NumPy's types alone
        imported = import_tensor(value, stream)
        return imported.array() if imported.device[0] in (CPU, CUDA_HOST) else imported
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"input '{spec.name}' can't be read through DLPack: {error}") from error


def _address(array: np.ndarray) -> int:
    """Where the array's elements are."""
    try:
        # NumPy's stubs know of the buffer protocol only from Python 3.12 on.
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # pyright: ignore
    except (BufferError, TypeError, ValueError):
        # Read-only, empty, or of a type that the buffer protocol lacks: three times slower.
        return array.ctypes.data


class Arguments:
    """The DLTensors of all inputs, or of all outputs."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self.tensors = (Tensor * max(1, len(specs)))()
        self._rows = [self.tensors[index] for index in range(len(specs))]
        self._dtypes = [ADDRESS if spec.dtype.kind == "O" else spec.dtype for spec in specs]
        self._shapes: list[tuple[int, ...] | None] = [None] * len(specs)
        self._kinds: list[tuple[tuple[int, ...], np.dtype] | None] = [None] * len(specs)
        self._memory: list[Any] = [None] * len(specs)  # what the rows' shapes point to
        self._foreign: set[int] = set()  # rows that point to an Imported
        for row, spec in zip(self._rows, specs, strict=True):
            row.device_type, row.dtype = CPU, DataType(*dlpack_type(spec.dtype), 1)

    def set_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether any differs from those of the last call."""
        if shapes == self._shapes:
            return False
        for index, (row, shape) in enumerate(zip(self._rows, shapes, strict=True)):
            row.ndim = len(shape)
            memory = self._memory[index] = (ctypes.c_int64 * len(shape))(*shape)
            row.shape = ctypes.cast(memory, ctypes.POINTER(ctypes.c_int64))
        self._shapes = list(shapes)
        self._kinds = [
            None if -1 in shape else (shape, dtype)
            for shape, dtype in zip(shapes, self._dtypes, strict=True)
        ]
        return True

    def set_data(self, arrays: Sequence[np.ndarray | Imported | None]) -> None:
        """Point to these, which the caller keeps alive; None: NULL, on the host."""
        for index, (row, array) in enumerate(zip(self._rows, arrays, strict=True)):
            if isinstance(array, Imported):
                theirs = array.tensor
                row.data, row.byte_offset = theirs.data, theirs.byte_offset
                row.device_type, row.device_id = array.device
                row.dtype, row.strides = theirs.dtype, theirs.strides
                self._foreign.add(index)
                continue
            if index in self._foreign:
                self._foreign.remove(index)
                row.device_type, row.device_id, row.strides, row.byte_offset = CPU, 0, None, 0
                row.dtype = DataType(*dlpack_type(self._specs[index].dtype), 1)
            row.data = None if array is None else _address(array)

    @property
    def given_shapes(self) -> list[tuple[int, ...]]:
        """Those of the last `set_shapes`."""
        return [shape or () for shape in self._shapes]

    def shapes(self) -> list[tuple[int, ...]]:
        """As the library has filled them in."""
        return [tuple(row.shape[: row.ndim]) for row in self._rows]

    def results(self) -> list[np.ndarray | None]:
        """Memory for each tensor of the shapes set; None where a size of -1 is told by the run."""
        return [None if kind is None else empty(*kind) for kind in self._kinds]

    def empty(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Memory for a tensor; addresses for one of strings."""
        return empty(shape, self._dtypes[index])

    def copy(self, index: int) -> np.ndarray:
        """A copy of the tensor that the library has filled in."""
        row = self._rows[index]
        array = self.empty(index, tuple(row.shape[: row.ndim]))
        ctypes.memmove(array.ctypes.data, row.data, array.nbytes)
        return array
