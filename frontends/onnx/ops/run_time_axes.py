"""Operators whose axes are values of the run.

A kernel computes from the axes the sizes of views on which the axes are fixed: reducing x over some
of its dims is, row-major, reducing

    x (kept0, reduced0, kept1, reduced1, ...)    over every second dim,

with (1, d) in place of a dim d that is reduced and (d, 1) of one that stays. An axis outside the
range makes a size -1, which ends the run with an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import cast, compute, reshape, shape_of

Inputs = list[Any]
Builder = Any
Reduce = Callable[[relax.Expr, list[int], bool, Builder], relax.Expr]


def is_run_time(node: Node, index: int, inputs: Inputs) -> bool:
    """Whether input `index` is there, and its elements are known only to the run."""
    if not node.has_input(index, inputs):
        return False
    known = node.known[index] if index < len(node.known) else None
    return known is None or not known.is_constant


def axis_count(node: Node, axes: relax.Expr) -> int:
    """How many axes there are, which has to be known."""
    dims = shape_of(axes)
    if len(dims) > 1 or not all(isinstance(dim, int) for dim in dims):
        raise node.error(f"axes known only at run time have the shape {dims}, not a fixed length")
    return dims[0] if dims else 1


def reduce(node: Node, x: relax.Expr, axes: relax.Expr, how: Reduce, builder: Builder) -> Any:
    """Reduce `x` over the axes with `how`, a reduction over fixed axes."""
    masks = _Masks(node, axes, shape_of(x), len(shape_of(x)))
    split = reshape(x, masks.pairs(builder), builder)
    odd = list(range(1, 2 * masks.rank, 2))
    result = builder.emit(how(split, odd, False, builder))
    if node.int("keepdims", 1):
        return result
    return reshape(result, masks.remaining(builder), builder)


def squeeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """Without the dims that the axes name, which have to be 1."""
    masks = _Masks(node, axes, shape_of(x), len(shape_of(x)))
    return reshape(x, masks.remaining(builder), builder)


def unsqueeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """With dims of 1 put in at the axes."""
    rank = len(shape_of(x)) + axis_count(node, axes)
    return reshape(x, _Masks(node, axes, shape_of(x), rank).spread(builder), builder)


def around_axis(node: Node, x: relax.Expr, axis: relax.Expr, builder: Builder) -> list[Any]:
    """The sizes (before, at, behind) of `x` around one axis."""
    masks = _Masks(node, axis, shape_of(x), len(shape_of(x)))
    return masks.around(builder)


class _Masks:
    """Which of `rank` dims the axes name, and sizes that follow; all in kernels of the run.

    Every stage is a sum, so that no rule inlines it: written into one expression, the conditions
    take TVM's simplifier seconds.
    """

    def __init__(self, node: Node, axes: relax.Expr, dims: Sequence[Any], rank: int) -> None:
        if not all(isinstance(dim, int) for dim in dims):
            raise node.error(f"axes known only at run time on the symbolic shape {list(dims)}")
        self.axes, self.dims, self.rank = axes, list(dims), rank
        self.count = axis_count(node, axes)

    def pairs(self, builder: Builder) -> list[Any]:
        """(1, d) for each dim that an axis names, (d, 1) for the others."""

        def element(j: Any, masks: te.Tensor, _before: te.Tensor) -> Any:
            named, size = masks[j // 2] > 0, self.size(j // 2)
            first = tirx.Select(named, _int64(1), size)
            return tirx.Select(
                tirx.EQ(j % 2, _int64(0)), first, tirx.Select(named, size, _int64(1))
            )

        return self.late(element, 2 * self.rank, builder)

    def remaining(self, builder: Builder) -> list[Any]:
        """The sizes of the dims that no axis names, in order."""

        def element(j: Any, masks: te.Tensor, before: te.Tensor) -> Any:
            total: Any = _int64(0)
            for axis, dim in enumerate(self.dims):
                here = tirx.all(masks[axis] < 1, tirx.EQ(_int64(axis) - before[axis], j))
                total = total + here.astype("int64") * _int64(dim)
            return total

        return self.late(element, self.rank - self.count, builder)

    def spread(self, builder: Builder) -> list[Any]:
        """1 where an axis is, the dims in order elsewhere."""

        def element(j: Any, masks: te.Tensor, before: te.Tensor) -> Any:
            return tirx.Select(masks[j] > 0, _int64(1), self.size(j - before[j]))

        return self.late(element, self.rank, builder)

    def around(self, builder: Builder) -> list[Any]:
        """The products of the dims before, at and behind the one axis."""

        def element(j: Any, masks: te.Tensor, _before: te.Tensor) -> Any:
            total: Any = _int64(0)
            for axis in range(self.rank):
                sizes = (self.dims[:axis], self.dims[axis : axis + 1], self.dims[axis + 1 :])
                for part, dims in enumerate(sizes):
                    here = tirx.all(masks[axis] > 0, tirx.EQ(j, _int64(part)))
                    total = total + here.astype("int64") * _int64(math.prod(dims))
            return total

        return self.late(element, 3, builder)

    def size(self, axis: Any) -> Any:
        """The dim at a computed place."""
        total: Any = _int64(0)
        for place, dim in enumerate(self.dims):
            total = total + tirx.EQ(axis, _int64(place)).astype("int64") * _int64(dim)
        return total

    def late(self, element: Callable[..., Any], length: int, builder: Builder) -> list[Any]:
        """`length` late dimensions, each `element(index, masks, masks before)`; -1 if invalid."""
        if length == 0:
            return []
        rank, count = self.rank, self.count
        flat = reshape(cast(self.axes, "int64", builder), [count], builder)

        def kernel(given: te.Tensor) -> te.Tensor:
            def names(k: Any, axis: Any) -> Any:
                value = given[k]
                return tirx.any(tirx.EQ(value, axis), tirx.EQ(value + _int64(rank), axis))

            each = te.reduce_axis((0, count), "each")
            masks = te.compute(
                (_int64(rank),),
                lambda axis: te.sum(names(each, axis).astype("int64"), axis=each),
                name="masks",
            )
            lower = te.reduce_axis((0, rank), "lower")
            before = te.compute(
                (_int64(rank),),
                lambda axis: te.sum(tirx.Select(lower < axis, masks[lower], _int64(0)), axis=lower),
                name="masks_before",
            )
            every = te.reduce_axis((0, rank), "every")
            named = te.compute(
                (_int64(1),),
                lambda _: te.sum(tirx.min(masks[every], _int64(1)), axis=every),
                name="named",
            )

            def value(j: Any) -> Any:
                valid = tirx.EQ(named[_int64(0)], _int64(count))
                return tirx.Select(valid, element(j, masks, before), _int64(-1))

            return te.compute((_int64(length),), value, name="late_sizes")

        source = builder.emit(compute(builder, "late_sizes", kernel, flat))
        return builder.late_dims(source, length)


def _int64(value: int) -> tirx.IntImm:
    return tirx.IntImm("int64", value)
