"""What a measurer's process and the measuring program in an artifact agree on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from athanor.runtime.dtypes import named_dtype
from athanor.tuning.measure import OUTPUT, Argument, tolerance

CONTROL_FIELDS = ("warmups", "repeats", "evict_bytes", "limit_ns", "budget_ns")
"""Elements of the artifact's first input, int64."""
MAX_REPEATS = 256
"""Elements of its first output, float64 seconds; negative where a call was not made."""


def input_arrays(arguments: Sequence[Argument], seed: int) -> list[np.ndarray]:
    """Values of a kernel's inputs and constants; integers are 0 or 1, so that indices are valid."""
    generator = np.random.default_rng(seed)
    return [_values(generator, a) for a in arguments if a.role != OUTPUT]


def _values(generator: np.random.Generator, argument: Argument) -> np.ndarray:
    dtype = named_dtype(argument.dtype)
    if dtype.kind in "biu" or "int" in dtype.name:
        return generator.integers(0, 2, argument.shape).astype(dtype)
    if dtype.itemsize < 2:  # floats of 8 bits and less
        return generator.uniform(0.5, 1, argument.shape).astype(dtype)
    return generator.standard_normal(argument.shape, np.float32).astype(dtype)


def difference(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str | None:
    """What is wrong with a candidate's outputs, or None."""
    for index, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        limit = tolerance(wanted.dtype.name)
        if not limit:
            count = int(np.count_nonzero(result != wanted))
            if count:
                return f"output {index}: {count} of {wanted.size} elements differ"
            continue
        exact = np.float64
        finite = np.isfinite(wanted.astype(exact))
        if not np.array_equal(
            result[~finite].astype(exact), wanted[~finite].astype(exact), equal_nan=True
        ):
            return f"output {index}: NaN or infinities in other places"
        if not finite.any():
            continue
        result, wanted = result[finite].astype(exact), wanted[finite].astype(exact)
        scale = float(np.abs(wanted).max()) or 1.0
        with np.errstate(invalid="ignore"):
            error = np.abs(result - wanted).max() / scale
        if not error <= limit:  # NaN too
            return f"output {index}: differs by {error:.2g} of its largest magnitude"
    return None
