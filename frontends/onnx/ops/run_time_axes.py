"""Operators whose axes are values of the run.

A kernel computes from the axes the sizes of views on which the axes are fixed: reducing x over some
of its dims is, row-major, reducing

    x (kept0, reduced0, kept1, reduced1, ...)    over every second dim,

with (1, d) in place of a dim d that is reduced and (d, 1) of one that stays. An axis outside the
range makes a size -1, which ends the run with an error.
"""

from __future__ import annotations

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
    dims = list(shape_of(x))
    rank, count = len(dims), axis_count(node, axes)
    keepdims = bool(node.int("keepdims", 1))

    def sizes(places: list[Any]) -> list[Any]:
        masks = [_among(places, axis) for axis in range(rank)]
        pairs = [
            size
            for mask, dim in zip(masks, dims, strict=True)
            for size in (
                tirx.Select(mask, _one(), _int64(dim)),
                tirx.Select(mask, _int64(dim), _one()),
            )
        ]
        return pairs if keepdims else [*pairs, *_remaining(masks, dims, rank - count)]

    late = _late_sizes(node, axes, rank, dims, sizes, builder)
    split = reshape(x, late[: 2 * rank], builder)
    result = builder.emit(how(split, list(range(1, 2 * rank, 2)), False, builder))
    return result if keepdims else reshape(result, late[2 * rank :], builder)


def squeeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """Without the dims that the axes name, which have to be 1."""
    dims = list(shape_of(x))
    rank, count = len(dims), axis_count(node, axes)

    def sizes(places: list[Any]) -> list[Any]:
        masks = [_among(places, axis) for axis in range(rank)]
        return _remaining(masks, dims, rank - count)

    return reshape(x, _late_sizes(node, axes, rank, dims, sizes, builder), builder)


def unsqueeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """With dims of 1 put in at the axes."""
    dims = list(shape_of(x))
    rank = len(dims) + axis_count(node, axes)

    def sizes(places: list[Any]) -> list[Any]:
        result = []
        before: Any = tirx.IntImm("int64", 0)
        for axis in range(rank):
            mask = _among(places, axis)
            size: Any = _one()
            for position, dim in enumerate(dims):
                here = tirx.all(tirx.Not(mask), tirx.EQ(before, _int64(position)))
                size = tirx.Select(here, _int64(dim), size)
            result.append(size)
            before = before + tirx.Select(mask, tirx.IntImm("int64", 0), _one())
        return result

    return reshape(x, _late_sizes(node, axes, rank, dims, sizes, builder), builder)


def around_axis(node: Node, x: relax.Expr, axis: relax.Expr, builder: Builder) -> list[Any]:
    """The sizes (before, at, behind) of `x` around one axis."""
    dims = list(shape_of(x))

    def sizes(places: list[Any]) -> list[Any]:
        parts: list[Any] = [_one(), _one(), _one()]
        for position, dim in enumerate(dims):
            here = _int64(position)
            conditions = (here < places[0], tirx.EQ(here, places[0]), here > places[0])
            parts = [
                part * tirx.Select(condition, _int64(dim), _one())
                for part, condition in zip(parts, conditions, strict=True)
            ]
        return parts

    return _late_sizes(node, axis, len(dims), dims, sizes, builder)


def _late_sizes(
    node: Node,
    axes: relax.Expr,
    rank: int,
    dims: Sequence[Any],
    sizes: Callable[[list[Any]], list[Any]],
    builder: Builder,
) -> list[Any]:
    """Late dimensions with the sizes that `sizes` gives for the axes, counted from the front."""
    if not all(isinstance(dim, int) for dim in dims):
        raise node.error(f"axes known only at run time on the symbolic shape {list(dims)}")
    count = axis_count(node, axes)
    flat = reshape(cast(axes, "int64", builder), [count], builder)
    length = len(sizes([_one()] * count))

    def kernel(given: te.Tensor) -> te.Tensor:
        places, valid = [], tirx.const(True, "bool")
        for number in range(count):
            value = given[tirx.IntImm("int64", number)]
            place = tirx.Select(value < 0, value + _int64(rank), value)
            valid = tirx.all(valid, place >= 0, place < rank)
            valid = tirx.all(valid, *(tirx.NE(place, other) for other in places))
            places.append(place)
        elements = sizes(places)

        def element(index: Any) -> Any:
            chosen = elements[-1]
            for position in range(len(elements) - 1):
                chosen = tirx.Select(tirx.EQ(index, _int64(position)), elements[position], chosen)
            return tirx.Select(valid, chosen, tirx.IntImm("int64", -1))

        return te.compute((tirx.IntImm("int64", len(elements)),), element, name="late_sizes")

    source = builder.emit(compute(builder, "late_sizes", kernel, flat))
    return builder.late_dims(source, length)


def _remaining(masks: Sequence[Any], dims: Sequence[Any], count: int) -> list[Any]:
    """The sizes of the dims that no axis names, in order."""
    result = [_one()] * count
    before: Any = tirx.IntImm("int64", 0)
    for mask, dim in zip(masks, dims, strict=True):
        for position in range(count):
            here = tirx.all(tirx.Not(mask), tirx.EQ(before, _int64(position)))
            result[position] = tirx.Select(here, _int64(dim), result[position])
        before = before + tirx.Select(mask, tirx.IntImm("int64", 0), _one())
    return result


def _among(places: Sequence[Any], axis: int) -> Any:
    found: Any = tirx.const(False, "bool")
    for place in places:
        found = tirx.any(found, tirx.EQ(place, _int64(axis)))
    return found


def _one() -> tirx.IntImm:
    return tirx.IntImm("int64", 1)


def _int64(value: int) -> tirx.IntImm:
    return tirx.IntImm("int64", value)
