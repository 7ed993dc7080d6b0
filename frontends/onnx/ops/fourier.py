"""The discrete Fourier transform as matrix products.

A length up to `_DIRECT` is one product with the matrix of roots of unity. A longer one n = a * b is
a transforms of length b between b transforms of length a (Cooley and Tukey), so that it costs
n * (a + b) instead of n * n. Complex numbers are two tensors; a real input has no second one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax

from athanor.frontends.onnx.known import constant
from athanor.frontends.onnx.tensors import dtype_of, reshape, scalar, shape_of

R = relax.op
Builder = relax.BlockBuilder

_DIRECT = 256  # a table of 256 * 256 floats is 256 KiB, and lies in the second-level cache
LARGEST_FACTOR = 4096  # a table of a prime length has its square of elements: 64 MiB each


@dataclass(frozen=True)
class Complex:
    """Real and imaginary part; `imaginary` None stands for zeros."""

    real: relax.Expr
    imaginary: relax.Expr | None


def is_feasible(length: int) -> bool:
    """Whether no table of the transform gets too large."""
    while length > _DIRECT:
        factor = _split(length)
        if factor == 1:
            return length <= LARGEST_FACTOR
        length //= factor
    return length > 0


def transform(x: Complex, inverse: bool, bins: int | None, builder: Builder) -> Complex:
    """The transform of the last axis, unscaled; of the result the first `bins` elements."""
    *outer, length = shape_of(x.real)
    factor = 1 if length <= _DIRECT else _split(length)
    if factor == 1:
        return _direct(x, length, bins or length, inverse, builder)
    rest = length // factor
    rank = len(outer)
    swap = [*range(rank), rank + 1, rank]

    def each(value: Complex, axes: list[int]) -> Complex:
        parts = [value.real, value.imaginary]
        done = [None if p is None else builder.emit(R.permute_dims(p, axes)) for p in parts]
        assert done[0] is not None
        return Complex(done[0], done[1])

    def shaped(value: Complex, shape: list[int]) -> Complex:
        imaginary = value.imaginary
        return Complex(
            reshape(value.real, shape, builder),
            None if imaginary is None else reshape(imaginary, shape, builder),
        )

    # element j1 * rest + j2 goes into bin k2 * factor + k1
    columns = each(shaped(x, [*outer, factor, rest]), swap)  # (..., j2, j1)
    first = transform(columns, inverse, None, builder)  # (..., j2, k1)
    angle = np.outer(np.arange(rest), np.arange(factor)) / length
    turned = _multiply(first, angle, inverse, builder)
    second = transform(each(turned, swap), inverse, None, builder)  # (..., k1, k2)
    result = shaped(each(second, swap), [*outer, length])
    if bins is None or bins == length:
        return result
    assert result.imaginary is not None
    parts = (result.real, result.imaginary)
    real, imaginary = (builder.emit(R.strided_slice(p, [rank], [0], [bins])) for p in parts)
    return Complex(real, imaginary)


def _split(length: int) -> int:
    """The largest divisor that is not above the square root."""
    return next(d for d in range(math.isqrt(length), 0, -1) if length % d == 0)


def _roots(turns: np.ndarray, inverse: bool, dtype: str) -> tuple[relax.Expr, relax.Expr]:
    """Cosines and sines of -2 pi turns (+2 pi for the inverse)."""
    angle = (2 if inverse else -2) * np.pi * turns
    return constant(np.cos(angle), dtype), constant(np.sin(angle), dtype)


def _direct(x: Complex, length: int, bins: int, inverse: bool, builder: Builder) -> Complex:
    # whole turns are taken off in integers: the angle of a large product would be inexact
    turns = np.outer(np.arange(length), np.arange(bins)) % length / length
    cosine, sine = _roots(turns, inverse, dtype_of(x.real))
    real = builder.emit(R.matmul(x.real, cosine))
    imaginary = builder.emit(R.matmul(x.real, sine))
    if x.imaginary is not None:
        real = builder.emit(R.subtract(real, builder.emit(R.matmul(x.imaginary, sine))))
        imaginary = builder.emit(R.add(imaginary, builder.emit(R.matmul(x.imaginary, cosine))))
    return Complex(real, imaginary)


def _multiply(x: Complex, turns: np.ndarray, inverse: bool, builder: Builder) -> Complex:
    """Each element turned by its own angle."""
    assert x.imaginary is not None
    cosine, sine = _roots(turns, inverse, dtype_of(x.real))

    def times(left: relax.Expr, right: relax.Expr) -> relax.Expr:
        return builder.emit(R.multiply(left, right))

    return Complex(
        builder.emit(R.subtract(times(x.real, cosine), times(x.imaginary, sine))),
        builder.emit(R.add(times(x.real, sine), times(x.imaginary, cosine))),
    )


def scaled(x: Complex, factor: float, builder: Builder) -> Complex:
    """Both parts times a number."""
    number = scalar(factor, dtype_of(x.real))
    real = builder.emit(R.multiply(x.real, number))
    if x.imaginary is None:
        return Complex(real, None)
    return Complex(real, builder.emit(R.multiply(x.imaginary, number)))
