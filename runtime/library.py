"""libathanor.so through ctypes: the structs and functions of include/athanor.h."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
)
from functools import cache
from pathlib import Path

from athanor.errors import RunError

LIBRARY = Path(__file__).resolve().parent / "lib" / "libathanor.so"


class DataType(Structure):
    """DLDataType."""

    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class Tensor(Structure):
    """DLTensor; DLDevice is laid out as its two fields."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("dtype", DataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Spec(Structure):
    """AthanorTensorSpec."""

    _fields_ = (
        ("name", c_char_p),
        ("dtype", DataType),
        ("ndim", c_int32),
        ("shape", POINTER(c_int64)),
        ("dim_names", POINTER(c_char_p)),
        ("kind", c_int32),
        ("part", c_int32),
    )


class Event(Structure):
    """AthanorEvent."""

    _fields_ = (
        ("step", c_int32),
        ("reserved", c_int32),
        ("start_ns", c_int64),
        ("end_ns", c_int64),
        ("operations", c_int64),
        ("bytes", c_int64),
    )


class OpenOptions(Structure):
    """AthanorOpenOptions."""

    _fields_ = (("size_bytes", c_uint32), ("flags", c_uint32), ("verify", c_int32))


class SessionOptions(Structure):
    """AthanorSessionOptions."""

    _fields_ = (
        ("size_bytes", c_uint32),
        ("threads", c_int32),
        ("spin_us", c_int32),
        ("parallel_for", ctypes.c_void_p),
        ("parallel_for_user", ctypes.c_void_p),
        ("device", c_int32),
        ("flags", c_uint32),
        ("stream", ctypes.c_void_p),
    )


CUDA_GRAPH = 1
"""ATHANOR_SESSION_CUDA_GRAPH."""


class DeviceInfo(Structure):
    """AthanorDeviceInfo."""

    _fields_ = (
        ("size_bytes", c_uint32),
        ("device", c_int32),
        ("capability", c_int32),
        ("multiprocessors", c_int32),
        ("clock_khz", c_int32),
        ("memory_clock_khz", c_int32),
        ("memory_bus_bits", c_int32),
        ("l2_bytes", c_int32),
        ("memory_bytes", c_uint64),
        ("name", ctypes.c_char * 128),
    )


_HANDLE = ctypes.c_void_p
_TENSORS = POINTER(Tensor)
_RUN = (c_int32, _HANDLE, _TENSORS, c_int32, _TENSORS, c_int32)
_SIGNATURES = {
    "athanor_last_error": (c_char_p,),
    "athanor_open": (c_int32, c_char_p, POINTER(OpenOptions), POINTER(_HANDLE)),
    "athanor_close": (None, _HANDLE),
    "athanor_metadata_json": (c_char_p, _HANDLE),
    "athanor_num_inputs": (c_int32, _HANDLE),
    "athanor_num_outputs": (c_int32, _HANDLE),
    "athanor_input": (POINTER(Spec), _HANDLE, c_int32),
    "athanor_output": (POINTER(Spec), _HANDLE, c_int32),
    "athanor_usable_cores": (c_int32,),
    "athanor_session_create": (c_int32, _HANDLE, POINTER(SessionOptions), POINTER(_HANDLE)),
    "athanor_session_close": (None, _HANDLE),
    "athanor_session_output_shapes": (c_int32, _HANDLE, _TENSORS, c_int32, _TENSORS, c_int32),
    "athanor_session_run": _RUN,
    "athanor_session_run_tensors": (
        *(c_int32, _HANDLE, _TENSORS, c_int32),
        *(POINTER(_HANDLE), c_int32),
    ),
    "athanor_session_device_info": (c_int32, _HANDLE, POINTER(DeviceInfo)),
    "athanor_session_stream": (_HANDLE, _HANDLE),
    "athanor_tensor_view": (_TENSORS, _HANDLE),
    "athanor_tensor_wait": (c_int32, _HANDLE, _HANDLE),
    "athanor_tensor_read": (c_int32, _HANDLE, _HANDLE),
    "athanor_tensor_to_dlpack": (_HANDLE, _HANDLE),
    "athanor_tensor_to_old_dlpack": (_HANDLE, _HANDLE),
    "athanor_tensor_release": (None, _HANDLE),
    "athanor_capsule_destructor": (_HANDLE, _HANDLE, _HANDLE),
    "athanor_session_profile": (*_RUN, POINTER(Event), c_uint64, POINTER(c_uint64)),
}


@cache
def library() -> ctypes.CDLL:
    """The loader library. Raises RunError where it was not built."""
    if not LIBRARY.exists():
        raise RunError(
            f"{LIBRARY} is missing: install athanor again (pip install), with a C compiler at hand"
        )
    loaded = ctypes.CDLL(str(LIBRARY))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def last_error() -> str:
    """The library's sentence on what this thread did wrong."""
    return library().athanor_last_error().decode("utf-8", "replace")


def check(status: int) -> None:
    """Raise RunError with the library's sentence where a call failed."""
    if status:
        raise RunError(last_error())
