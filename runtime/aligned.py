"""Memory for results."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

LINE_BYTES = 64
"""Of a cache, and of the longest vectors; kernels store large results past the caches by lines."""
LARGE_BYTES = 1 << 20
"""From which on a result begins at a line. Smaller ones stay in a cache, wherever they lie."""


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`np.empty`, at a multiple of LINE_BYTES where it is large."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_BYTES or dtype.hasobject:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE_BYTES, np.uint8)
    # Not an array between the two: views of the result then hold the result, not the memory, and
    # who counts references to it sees them.
    owner: Any = (ctypes.c_char * memory.nbytes).from_buffer(memory.data)
    return np.ndarray(shape, dtype, owner, -memory.ctypes.data % LINE_BYTES)


def empty_like(array: np.ndarray) -> np.ndarray:
    """`empty` of another array's shape and type."""
    return empty(array.shape, array.dtype)
