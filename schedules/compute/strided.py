"""Where the elements of a tensor lie that is a view of another one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import sym, tirx

from athanor.schedules.blocks import constant

Factor = tuple[Any, Any]
"""(extent, stride in elements) of an axis, or of a part of one."""


@dataclass(frozen=True)
class Strided:
    """A view of a flat buffer: an axis is one factor, or several, the outermost first.

    Element (i0, i1, ...) lies at offset + the sum over all factors of index * stride. An axis with
    several factors came of a reshape that joined what does not lie together.
    """

    offset: Any
    axes: tuple[tuple[Factor, ...], ...]

    @staticmethod
    def whole(shape: list[Any]) -> Strided:
        """A tensor of that shape as it lies in memory."""
        axes: list[tuple[Factor, ...]] = []
        stride: Any = 1
        for dim in reversed(shape):
            known = constant(dim)
            extent = dim if known is None else known
            axes.insert(0, () if extent == 1 else ((extent, stride),))
            stride = stride * extent
        return Strided(0, tuple(axes))

    def permuted(self, order: list[int]) -> Strided:
        """Axis i is the former axis order[i]."""
        return Strided(self.offset, tuple(self.axes[axis] for axis in order))

    def sliced(self, axis: int, begin: Any, extent: int) -> Strided | None:
        """`extent` elements of an axis of one factor, from `begin` on."""
        if len(self.axes[axis]) != 1:
            return None
        stride = self.axes[axis][0][1]
        axes = list(self.axes)
        axes[axis] = () if extent == 1 else ((extent, stride),)
        return Strided(self.offset + begin * stride, tuple(axes))

    def repeated(self, axis: int, times: Any) -> Strided:
        """Each element of an axis `times` times, one after another."""
        axes = list(self.axes)
        axes[axis] = (*axes[axis], (times, 0))
        return Strided(self.offset, tuple(axes))

    def reshaped(self, shape: list[Any]) -> Strided | None:
        """The same elements in that shape; None where an axis would have to be cut unevenly."""
        left = [factor for axis in self.axes for factor in axis]
        axes: list[tuple[Factor, ...]] = []
        for dim in shape:
            taken: list[Factor] = []
            missing: Any = dim if constant(dim) is None else constant(dim)
            while missing != 1:
                if not left:
                    return None
                (extent, stride), *left = left
                rest = _quotient(missing, extent)
                if rest is None:
                    # the axis takes the outer part of the factor
                    inner = _quotient(extent, missing)
                    if inner is None:
                        return None
                    left.insert(0, (inner, stride))
                    extent, stride, rest = missing, stride * inner, 1
                taken.append((extent, stride))
                missing = rest
            axes.append(tuple(taken))
        return Strided(self.offset, tuple(axes)) if not left else None

    def row_stride(self, axis: int) -> Any:
        """Elements from one index of an axis to the next; None where that is not the same."""
        factors = _joined(self.axes[axis])
        return 0 if not factors else factors[0][1] if len(factors) == 1 else None

    def is_fixed(self, axis: int) -> bool:
        """Whether the index along an axis makes no difference."""
        return constant(self.row_stride(axis)) == 0

    def address(self, *indices: Any) -> Any:
        """The element's place in the buffer."""
        place = self.offset
        for index, axis in zip(indices, self.axes, strict=True):
            factors = _joined(axis)
            for number, (extent, stride) in reversed(list(enumerate(factors))):
                digit = index if number == 0 else tirx.floormod(index, extent)
                if constant(stride) != 0:
                    place = place + digit * stride
                if number:
                    index = tirx.floordiv(index, extent)
        return place


def _joined(axis: tuple[Factor, ...]) -> list[Factor]:
    """Factors that lie behind one another as one."""
    joined: list[Factor] = []
    for extent, stride in axis:
        if joined and _same(joined[-1][1], extent * stride):
            joined[-1] = (joined[-1][0] * extent, stride)
        else:
            joined.append((extent, stride))
    return joined


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    return bool(sym.Analyzer().can_prove(one - other == 0))


def _quotient(one: Any, other: Any) -> Any:
    """One / other where that is a whole number for sure, else None."""
    if isinstance(one, int) and isinstance(other, int):
        return None if one % other else one // other
    if not isinstance(one, int) and tvm_ffi.structural_equal(one, other):
        return 1
    if isinstance(one, int):
        return None
    analyzer = sym.Analyzer()
    share = analyzer.simplify(tirx.floordiv(one, other))
    if not analyzer.can_prove(share * other - one == 0):
        return None
    known = constant(share)
    return share if known is None else known


def elements(shape: list[Any]) -> Any:
    """How many elements a tensor of that shape has."""
    return math.prod(shape) if all(isinstance(dim, int) for dim in shape) else _product(shape)


def _product(shape: list[Any]) -> Any:
    size: Any = 1
    for dim in shape:
        size = size * dim
    return size
