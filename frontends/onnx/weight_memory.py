"""Memory for a model's weights, and how it is filled: by every core, for it takes part in a second.

Reading and packing BERT-base's 438 MB is a third of a compilation whose kernels are in the cache.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tvm

HUGE_PAGE_BYTES = 1 << 21
SHARE_BYTES = 2 << 20
"""The least that is worth a thread: one starts in some 50 us, in which 100 KB are copied."""


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


def copy_elements(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source` for arrays of one shape, whatever their strides."""
    if not target.ndim:
        np.copyto(target, source)
        return

    def copy(begin: int, end: int) -> None:
        np.copyto(target[begin:end], source[begin:end])

    _shared(copy, len(target), target.nbytes)


def read_bytes(path: Path, offset: int, target: memoryview) -> bool:
    """Fill `target` from the file; False where it ends before."""
    with path.open("rb") as file:
        handle = file.fileno()
        full = []

        def read(begin: int, end: int) -> None:
            while begin < end:
                count = os.preadv(handle, [target[begin:end]], offset + begin)
                if not count:
                    break
                begin += count
            full.append(begin >= end)

        _shared(read, len(target), len(target))
    return all(full)


def _shared(work: Callable[[int, int], None], count: int, size_bytes: int) -> None:
    """`work(begin, end)` over 0 to count, by as many threads as there are cores and shares."""
    threads = min(len(os.sched_getaffinity(0)), count, size_bytes // SHARE_BYTES)
    if threads < 2:
        work(0, count)
        return
    bounds = [count * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *pair) for pair in itertools.pairwise(bounds)]:
            done.result()
