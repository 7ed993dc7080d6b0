"""Tensors of other libraries through DLPack, in place: reading theirs, and handing out ours.

https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from athanor.errors import RunError
from athanor.runtime.dtypes import numpy_dtype
from athanor.runtime.library import Tensor, library

CPU, CUDA, CUDA_HOST = 1, 2, 3
"""Device types; CUDA_HOST is memory of the host that the driver knows."""

_NEW, _OLD = b"dltensor_versioned", b"dltensor"
_READ_ONLY = 1
_STREAM_PER_THREAD = 2
_LARGEST_MAJOR = 1

_api = ctypes.pythonapi
_is_capsule = _api.PyCapsule_IsValid
_is_capsule.argtypes = (ctypes.py_object, ctypes.c_char_p)
_pointer_of = _api.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


class Imported:
    """A tensor of another library's, used in place for as long as this object lives."""

    def __init__(self, capsule: Any) -> None:
        # Never renamed: the capsule's own destructor gives the tensor back.
        self._capsule = capsule
        self.is_read_only = False
        if _is_capsule(capsule, _NEW):
            versioned = _Versioned.from_address(_pointer_of(capsule, _NEW))
            if versioned.major > _LARGEST_MAJOR:
                raise BufferError(f"DLPack {versioned.major}.{versioned.minor} is not known here")
            self.is_read_only = bool(versioned.flags & _READ_ONLY)
            self.tensor: Tensor = versioned.tensor
        elif _is_capsule(capsule, _OLD):
            self.tensor = _Managed.from_address(_pointer_of(capsule, _OLD)).tensor
        else:
            raise BufferError("__dlpack__ did not return a DLPack capsule that is still unused")
        if self.tensor.dtype.bits < 8:
            raise BufferError("elements of less than a byte have a byte each here")
        ndim = self.tensor.ndim
        self.shape: tuple[int, ...] = tuple(self.tensor.shape[:ndim]) if ndim else ()

    @property
    def device(self) -> tuple[int, int]:
        """DLPack's type of the device, and its number."""
        return self.tensor.device_type, self.tensor.device_id

    @property
    def type_code(self) -> tuple[int, int]:
        """DLPack's type code and the bits of an element."""
        return self.tensor.dtype.code, self.tensor.dtype.bits

    @property
    def address(self) -> int:
        """Where the first element is."""
        return (self.tensor.data or 0) + self.tensor.byte_offset

    def array(self) -> np.ndarray:
        """The same memory as NumPy's, of a tensor that the host can read."""
        dtype = numpy_dtype(*self.type_code)
        if not all(self.shape):
            return np.empty(self.shape, dtype)
        return np.asarray(_Lent(self, dtype)).view(dtype)


class _Lent:
    """What NumPy reads an Imported through, and holds."""

    def __init__(self, imported: Imported, dtype: np.dtype) -> None:
        self.imported = imported
        tensor = imported.tensor
        strides = None
        if tensor.strides:
            strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
        kind = dtype.str if dtype.kind in "biufc" else f"|V{dtype.itemsize}"
        self.__array_interface__ = {
            "version": 3,
            "shape": imported.shape,
            "typestr": kind,
            "data": (imported.address, imported.is_read_only),
            "strides": strides,
        }


def import_tensor(value: Any, stream: int | None) -> Imported:
    """The tensor of an object with `__dlpack__`, without a copy.

    stream: where it will be used, if it is on a GPU: its owner lets that stream wait for what is
    still being computed. Raises what the owner raises: BufferError, RuntimeError, TypeError, ...
    """
    options: dict[str, Any] = {}
    if stream is not None and value.__dlpack_device__()[0] == CUDA:
        options["stream"] = stream
    try:
        return Imported(value.__dlpack__(**options, max_version=(_LARGEST_MAJOR, 0)))
    except TypeError:  # older than DLPack 1.0's protocol
        return Imported(value.__dlpack__(**options))


def stream_number(stream: Any) -> int | None:
    """The CUstream of a number, or of torch's, CuPy's or cuda.core's object for a stream.

    None stays None. 0, by which CUDA's runtime and torch call the default stream, becomes 1, by
    which every library calls it. Raises RunError for anything else.
    """
    if stream is None:
        return None
    number = stream
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        number = getattr(stream, name, number)
    if hasattr(stream, "__cuda_stream__"):
        number = stream.__cuda_stream__()[1]
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise RunError(
            f"stream is {stream!r}, expected the address of a CUstream, or an object that has one "
            "as cuda_stream, ptr or __cuda_stream__"
        )
    if number == _STREAM_PER_THREAD:
        raise RunError(
            "stream 2 is another one on each thread, and a session has one: give it a stream of "
            "your own, or 1, the default one"
        )
    return number or 1


_new_capsule = _api.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def capsule(address: int, is_versioned: bool) -> Any:
    """A capsule of a managed tensor, which it then owns."""
    name = _NEW if is_versioned else _OLD
    return _new_capsule(address, name, _destructor())


@functools.cache
def _destructor() -> int | None:
    """The address of libathanor's destructor of capsules that nobody has used.

    In C, for a capsule may go while an exception is under way, which ctypes' calls would lose.
    """
    functions = (ctypes.cast(f, ctypes.c_void_p) for f in (_is_capsule, _pointer_of))
    return library().athanor_capsule_destructor(*functions)
