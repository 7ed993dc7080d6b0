"""How far two results of one model are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """One output against its reference."""

    name: str
    shape: tuple[int, ...]
    absolute: float
    """Largest absolute difference; inf where the shapes differ or one side alone is NaN."""
    relative: float
    """`absolute` over the reference's largest finite magnitude (over 1 where that is 0)."""
    rows: int
    """Vectors along the last axis; 0 where the last axis has no choice to make."""
    rows_agreeing: int
    """Those of them with their largest value in the same place."""


def named_arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Each array, those of a sequence numbered: `name[0]`; nothing for what is absent."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in outputs.items():
        if isinstance(value, list):
            arrays |= {f"{name}[{number}]": array for number, array in enumerate(value)}
        elif value is not None:
            arrays[name] = value
    return arrays


def compare(name: str, actual: np.ndarray, expected: np.ndarray) -> Difference:
    """The difference of one output; equal infinities and equal NaNs are no difference.

    Of strings it is 0, or infinite where any differs.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return Difference(name, actual.shape, np.inf, np.inf, 0, 0)
    if actual.dtype.kind == "O":
        apart = 0.0 if np.array_equal(actual, expected) else np.inf
        return Difference(name, actual.shape, apart, apart, 0, 0)
    a, b = _wide(actual), _wide(expected)
    with np.errstate(invalid="ignore"):
        apart = np.asarray(np.abs(a - b))
    apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
    apart[np.isnan(apart)] = np.inf
    absolute = float(apart.max(initial=0))
    finite = np.abs(b[np.isfinite(b)])
    relative = absolute / (float(finite.max(initial=0)) or 1.0)
    rows = agreeing = 0
    if a.ndim and a.shape[-1] > 1 and a.size and actual.dtype.kind not in "iub":
        same = a.argmax(-1) == b.argmax(-1)
        rows, agreeing = same.size, int(same.sum())
    return Difference(name, actual.shape, absolute, relative, rows, agreeing)


def _wide(array: np.ndarray) -> np.ndarray:
    """As float64, or complex128: subtraction then neither wraps nor overflows."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
