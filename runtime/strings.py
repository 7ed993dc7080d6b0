"""String arrays as a user has them <-> arrays of addresses, as the library has them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from athanor.errors import RunError

ADDRESS = np.dtype(np.uintp)
"""The type of an element in memory: where its zero-terminated UTF-8 begins."""


class Addresses(np.ndarray):
    """Addresses of strings that live as long as the array."""

    text: bytes


def addresses(name: str, array: np.ndarray) -> Addresses:
    """The addresses of an array's strings: str, or bytes that are UTF-8.

    Raises RunError, naming the input, for an element that is neither or holds a zero byte.
    """
    pieces: list[bytes] = []
    starts: list[int] = []
    length = 0
    for index, value in enumerate(array.reshape(-1).tolist()):
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        if not isinstance(data, bytes):
            raise RunError(
                f"input '{name}' holds a {type(value).__name__} as its element {index}, "
                "expected a string"
            )
        if b"\0" in data:
            raise RunError(f"input '{name}' holds a zero byte in its element {index}")
        pieces.append(data)
        starts.append(length)
        length += len(data) + 1
    text = b"\0".join(pieces) + b"\0"
    base = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0
    made = (np.array(starts, ADDRESS) + ADDRESS.type(base)).reshape(array.shape).view(Addresses)
    made.text = text
    return made


def is_text(value: Any) -> bool:
    """Whether a value is an array, or a scalar, that may hold strings."""
    if isinstance(value, (str, bytes)):
        return True
    return isinstance(value, np.ndarray) and value.dtype.kind in "OSTU"


def strings(array: np.ndarray) -> np.ndarray:
    """The strings at addresses, an object array of str."""
    made = np.empty(array.shape, object)
    flat = made.reshape(-1)
    for index, address in enumerate(array.reshape(-1).tolist()):
        flat[index] = ctypes.string_at(address).decode("utf-8", "surrogateescape")
    return made
