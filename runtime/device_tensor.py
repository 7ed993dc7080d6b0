"""Results that stay on a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from athanor.runtime.dlpack import CPU, CUDA, capsule
from athanor.runtime.dtypes import numpy_dtype
from athanor.runtime.library import check, library

_DEFAULT_STREAM = 1


class DeviceTensor:
    """A result on a GPU, from a run with `outputs="device"`.

    `torch.from_dlpack(tensor)`, `cupy.from_dlpack(tensor)` and whatever else knows DLPack use it in
    place; `numpy()` copies it to the host. Its memory lives until nobody holds it, longer than the
    Model if need be; any thread may hold it.
    """

    def __init__(self, pointer: ctypes.c_void_p) -> None:
        self._pointer = pointer
        self._release = library().athanor_tensor_release
        view = library().athanor_tensor_view(pointer).contents
        self.shape: tuple[int, ...] = tuple(view.shape[: view.ndim])
        self.dtype: np.dtype = numpy_dtype(view.dtype.code, view.dtype.bits)
        self.device: int = view.device_id
        """Which GPU, as the driver counts."""

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        array = np.empty(self.shape, self.dtype)
        check(library().athanor_tensor_read(self._pointer, array.ctypes.data))
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of this memory.

        stream: where it will be used, which waits for the run; None is the default stream, -1
        nowhere in particular, and nothing waits.
        """
        if dl_device == (CPU, 0) and copy is not False:
            return self.numpy().__dlpack__(max_version=max_version)
        if (dl_device is not None and dl_device != self.__dlpack_device__()) or copy:
            raise BufferError("a result on a GPU is handed on as it is, without a copy")
        number = _DEFAULT_STREAM if stream is None else stream
        if number == 0:
            raise BufferError("stream 0 may mean two streams: 1 is the default one, 2 a thread's")
        check(library().athanor_tensor_wait(self._pointer, ctypes.c_void_p(number)))
        is_versioned = max_version is not None and max_version[0] >= 1
        export = "athanor_tensor_to_dlpack" if is_versioned else "athanor_tensor_to_old_dlpack"
        address = getattr(library(), export)(self._pointer)
        if not address:
            raise BufferError(
                f"{self!r} can't be handed on: there is no memory for it, or its elements are "
                "smaller than a byte, which DLPack would take to be packed; use numpy()"
            )
        return capsule(address, is_versioned)

    def __repr__(self) -> str:
        return f"DeviceTensor(shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("a result on a GPU can't be copied or pickled: use numpy()")

    def __del__(self) -> None:
        pointer, self._pointer = getattr(self, "_pointer", None), None
        if pointer is not None:
            self._release(pointer)
