"""Memory for a model's weights."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import tvm

HUGE_PAGE_BYTES = 1 << 21


def empty_tensor(shape: Sequence[int], dtype: str) -> tvm.runtime.Tensor:
    """A new tensor of undefined elements; a large one in huge pages where the system has them.

    To fill megabytes of new memory takes four times as long in pages of 4 KiB: each is an
    interrupt.
    """
    tensor = tvm.runtime.empty(shape, dtype)
    size_bytes = tensor.numel() * tensor.dtype.itemsize
    if size_bytes >= 2 * HUGE_PAGE_BYTES and sys.platform == "linux":
        begin = -(-tensor.data_ptr() // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        end = (tensor.data_ptr() + size_bytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        # Advice: where it isn't taken, nothing but time is lost.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE
        )
    return tensor
