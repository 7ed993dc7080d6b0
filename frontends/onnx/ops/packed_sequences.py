"""Packed sequences: packing, and the operators on sequences whose length only the run knows.

A small kernel works out places and sizes from the table of shapes; sizes become late dimensions,
and a second kernel moves the elements. What a run asks for and a sequence has not ends the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import as_objects, constant, known, materialize, product
from athanor.frontends.onnx.ops.loop_kernel import int64, loop, loop_kernel, store, when
from athanor.frontends.onnx.sequence_value import (
    AnySequence,
    ElementShape,
    PackedSequence,
    element_shape,
)
from athanor.frontends.onnx.tensors import cast, compute, np_dtype, reshape, shape_of

R = relax.op


def packed(value: AnySequence, builder: ImportBuilder, width: int = 0) -> PackedSequence:
    """The sequence as two tensors, with a table for elements of at least rank `width`."""
    if isinstance(value, PackedSequence):
        return _widened(value, width, builder)
    element = value.element
    width = max(width, element.width)
    parts = [reshape(x, [product(shape_of(x))], builder) for x in value.elements]
    rows = [_row(shape_of(x), width) for x in value.elements]
    table = known(as_objects([n for row in rows for n in row], (len(rows), 1 + width)), "int64")
    if not parts:
        empty = constant(np.zeros((0,), np_dtype(value.dtype)))
        return PackedSequence(empty, constant(np.zeros((0, 1 + width), np.int64)), element)
    joined = parts[0] if len(parts) == 1 else builder.emit(R.concat(parts, axis=0))
    return PackedSequence(joined, materialize(table, builder), element)


def _row(dims: Sequence[Any], width: int) -> list[Any]:
    return [len(dims), *dims, *[0] * (width - len(dims))]


def _widened(value: PackedSequence, width: int, builder: ImportBuilder) -> PackedSequence:
    have = shape_of(value.shapes)[1] - 1
    if width <= have:
        return value

    def kernel(table: te.Tensor) -> te.Tensor:
        def element(row: Any, column: Any) -> Any:
            inside = table(row, tirx.min(column, int64(have)))
            return tirx.Select(column <= have, inside, int64(0))

        return te.compute((table.shape[0], 1 + width), element, name="widen")

    shapes = compute(builder, "widen_shapes", kernel, value.shapes)
    return PackedSequence(value.elements, shapes, value.element)


class Table:
    """The table of shapes inside a kernel."""

    def __init__(self, buffer: Any, sequence: PackedSequence) -> None:
        self.buffer = buffer
        self.stride = int(shape_of(sequence.shapes)[1])
        sizes = sequence.element.sizes
        self.rank = None if sizes is None else len(sizes)

    def size(self, row: Any, axis: int) -> Any:
        """The size of an axis of an element."""
        return self.buffer[row * self.stride + axis + 1]

    def count(self, row: Any, axes: Sequence[int] | None = None) -> Any:
        """The number of elements of an element, or the product over some of its axes."""
        if axes is None:
            axes = range(self.stride - 1 if self.rank is None else self.rank)
        result: Any = int64(1)
        for axis in axes:
            size = self.size(row, axis)
            if self.rank is None:
                size = tirx.Select(self.buffer[row * self.stride] > axis, size, int64(1))
            result = result * size
        return result


def element_at(
    sequence: PackedSequence, position: relax.Expr, sentence: str, builder: ImportBuilder
) -> relax.Expr:
    """The element at an int64 position, from the end where it is negative.

    All elements have to have one known rank. `sentence` is the error of a run whose position is
    outside.
    """
    sizes = sequence.element.sizes
    assert sizes is not None, "the caller checks the rank"

    def locate(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer, where), (inside, start, dims), (length,) = ins, outs, scalars
        table = Table(buffer, sequence)
        _find(table, where[0], length, length - 1, inside, start)
        for axis in range(len(sizes)):
            store(dims, int64(axis), int64(0))
        with when(inside[0] > 0):
            row = tirx.Select(where[0] < 0, where[0] + length, where[0])
            for axis in range(len(sizes)):
                store(dims, int64(axis), table.size(row, axis))

    inputs = [sequence.shapes, cast(position, "int64", builder)]
    outputs = [([1], "int64"), ([1], "int64"), ([len(sizes)], "int64")]
    scalars = [sequence.length]
    inside, start, dims = loop_kernel(builder, "locate", inputs, outputs, scalars, locate)
    _require(inside, sentence, builder)
    shape = _late_where_unknown(sizes, dims, builder)

    def kernel(data: te.Tensor, first: te.Tensor, size: list[Any]) -> te.Tensor:
        return te.compute((size[0],), lambda i: data(first(0) + i), name="element")

    count = product(shape)
    if isinstance(count, int) and count == 0:
        return reshape(sequence.elements, shape, builder)
    flat = compute(builder, "element", kernel, sequence.elements, start, relax.ShapeExpr([count]))
    return reshape(flat, shape, builder)


def _find(table: Table, where: Any, length: Any, last: Any, inside: Any, start: Any) -> None:
    """Whether a position is in [-length, last], and where the element there begins."""
    row = tirx.Select(where < 0, where + length, where)
    store(inside, int64(0), tirx.Cast("int64", tirx.all(row >= 0, row <= last)))
    store(start, int64(0), int64(0))
    with when(inside[0] > 0), loop(row) as i:
        store(start, int64(0), start[0] + table.count(i))


def _require(flag: relax.Expr, sentence: str, builder: ImportBuilder) -> None:
    """The run ends with an error where the only element of `flag` is 0."""
    (value,) = builder.late_values(flag, 1)
    builder.require(value > 0, sentence)


def _late_where_unknown(
    sizes: Sequence[int | None], dims: relax.Expr, builder: ImportBuilder
) -> list[Any]:
    """A shape: known sizes, and late dimensions from `dims` for the others."""
    if all(size is not None for size in sizes):
        return list(sizes)
    late = builder.late_dims(dims, len(sizes))
    return [late[axis] if size is None else size for axis, size in enumerate(sizes)]


def inserted(
    sequence: PackedSequence, x: relax.Expr, position: relax.Expr | None, builder: ImportBuilder
) -> PackedSequence:
    """With a tensor put in before a position, at the end where there is none."""
    added = element_shape(x)
    sequence = packed(sequence, builder, added.width)
    width = int(shape_of(sequence.shapes)[1]) - 1
    length, total = sequence.length, sequence.total
    dims = shape_of(x)
    row = materialize(known(as_objects(_row(dims, width), (1 + width,)), "int64"), builder)
    where = position if position is not None else _scalar(length, builder)

    def locate(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer, new, wanted), (shapes, inside, start), (count,) = ins, outs, scalars
        table = Table(buffer, sequence)
        _find(table, wanted[0], count, count, inside, start)
        place = tirx.Select(wanted[0] < 0, wanted[0] + count, wanted[0])
        with loop(count + 1) as i, loop(1 + width) as column:
            store(shapes, i * table.stride + column, new[column])
            with when(tirx.all(i != place, inside[0] > 0)):
                source = i - tirx.Cast("int64", i > place)
                store(shapes, i * table.stride + column, buffer[source * table.stride + column])

    outputs = [([length + 1, 1 + width], "int64"), ([1], "int64"), ([1], "int64")]
    inputs = [sequence.shapes, row, cast(where, "int64", builder)]
    shapes, inside, start = loop_kernel(builder, "insert", inputs, outputs, [length], locate)
    if position is not None:
        _require(inside, "a position outside of the sequence", builder)

    def kernel(data: te.Tensor, new: te.Tensor, first: te.Tensor, sizes: list[Any]) -> te.Tensor:
        size = new.shape[0]

        def element(i: Any) -> Any:
            behind = tirx.if_then_else(i < first(0) + size, new(i - first(0)), data(i - size))
            return tirx.if_then_else(i < first(0), data(i), behind)

        return te.compute((sizes[0],), element, name="inserted")

    count = product(dims)
    flat = reshape(x, [count], builder)
    elements = compute(
        builder, "inserted", kernel, sequence.elements, flat, start,
        relax.ShapeExpr([total + count]),
    )  # fmt: skip
    return PackedSequence(elements, shapes, sequence.element.joined(added))


def _scalar(value: Any, builder: ImportBuilder) -> relax.Expr:
    return materialize(known(as_objects([value], (1,)), "int64"), builder)


def erased(
    sequence: PackedSequence, position: relax.Expr | None, builder: ImportBuilder
) -> PackedSequence:
    """Without the element at a position, the last where there is none."""
    length = sequence.length
    where = position if position is not None else constant(np.array([-1], np.int64))
    stride = int(shape_of(sequence.shapes)[1])

    def locate(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer, wanted), (inside, start, sizes), (count, total) = ins, outs, scalars
        table = Table(buffer, sequence)
        _find(table, wanted[0], count, count - 1, inside, start)
        for place in range(2):
            store(sizes, int64(place), int64(0))
        with when(inside[0] > 0):
            place = tirx.Select(wanted[0] < 0, wanted[0] + count, wanted[0])
            store(sizes, int64(0), count - 1)
            store(sizes, int64(1), total - table.count(place))

    inputs = [sequence.shapes, cast(where, "int64", builder)]
    outputs = [([1], "int64"), ([1], "int64"), ([2], "int64")]
    scalars = [length, sequence.total]
    inside, start, sizes = loop_kernel(builder, "erase", inputs, outputs, scalars, locate)
    _require(inside, "a position outside of the sequence", builder)
    left, total = builder.late_dims(sizes, 2)

    def without(data: te.Tensor, first: te.Tensor, dims: list[Any]) -> te.Tensor:
        gap = data.shape[0] - dims[0]
        shifted = lambda i: data(tirx.Select(i < first(0), i, i + gap))  # noqa: E731
        return te.compute((dims[0],), shifted, name="erased")

    def rows(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer, wanted), (kept,), (after, before) = ins, outs, scalars
        place = tirx.Select(wanted[0] < 0, wanted[0] + before, wanted[0])
        with loop(after) as i, loop(stride) as column:
            source = i + tirx.Cast("int64", i >= place)
            store(kept, i * stride + column, buffer[source * stride + column])

    elements = compute(
        builder, "erased", without, sequence.elements, start, relax.ShapeExpr([total])
    )
    table = [([left, stride], "int64")]
    (shapes,) = loop_kernel(builder, "erase_shape", inputs, table, [left, length], rows)
    return PackedSequence(elements, shapes, sequence.element)


def concatenated(
    sequence: PackedSequence, axis: int, is_new: bool, builder: ImportBuilder
) -> relax.Expr:
    """The elements one after another along an axis, or along a new one."""
    sizes = sequence.element.sizes
    assert sizes is not None, "the caller checks the rank"
    kept = [a for a in range(len(sizes)) if is_new or a != axis]

    def join(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer,), (fits, dims), (length,) = ins, outs, scalars
        table = Table(buffer, sequence)
        joined = int64(len(sizes))
        store(fits, int64(0), tirx.Cast("int64", length > 0))
        store(dims, joined, int64(0))
        for a in range(len(sizes)):
            store(dims, int64(a), int64(0))
        with loop(length) as i:
            for a in kept:
                with when(i == 0):
                    store(dims, int64(a), table.size(i, a))
                with when(dims[a] != table.size(i, a)):
                    store(fits, int64(0), int64(0))
            added = int64(1) if is_new else table.size(i, axis)
            store(dims, joined, dims[joined] + added)

    outputs = [([1], "int64"), ([len(sizes) + 1], "int64")]
    fits, dims = loop_kernel(builder, "join", [sequence.shapes], outputs, [sequence.length], join)
    sentence = "a sequence without an element, or elements whose shapes do not fit one another"
    _require(fits, sentence, builder)
    late = builder.late_dims(dims, len(sizes) + 1)
    shape = [late[a] if (size := sizes[a]) is None else size for a in kept]
    outer, inner = shape[:axis], shape[axis:]

    def places(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer,), (base, stride, state), (length, _, step) = ins, outs, scalars
        table = Table(buffer, sequence)
        row, start = int64(0), int64(1)
        store(state, row, int64(0))
        store(state, start, int64(0))
        with loop(length) as i:
            size = int64(1) if is_new else table.size(i, axis)
            with loop(size) as a:
                store(base, state[row] + a, state[start] + a * step)
                store(stride, state[row] + a, size * step)
            store(state, row, state[row] + size)
            store(state, start, state[start] + table.count(i))

    inputs, scalars = [sequence.shapes], [sequence.length, late[-1], product(inner)]
    outputs = [([late[-1]], "int64"), ([late[-1]], "int64"), ([2], "int64")]
    base, stride, _ = loop_kernel(builder, "join_places", inputs, outputs, scalars, places)
    flat_shape = [product(outer), late[-1], product(inner)]

    def kernel(data: te.Tensor, base: te.Tensor, stride: te.Tensor, dims: list[Any]) -> te.Tensor:
        element = lambda o, a, i: data(base(a) + o * stride(a) + i)  # noqa: E731
        return te.compute(tuple(dims), element, name="joined")

    whole = compute(
        builder, "joined", kernel, sequence.elements, base, stride, relax.ShapeExpr(flat_shape)
    )
    return reshape(whole, [*outer, late[-1], *inner], builder)


def split(
    x: relax.Expr, axis: int, sizes: relax.Expr | None, keepdims: bool, builder: ImportBuilder
) -> PackedSequence:
    """The parts of x along an axis.

    `sizes` is a vector of the parts' sizes, a scalar that is every part's size but the last's, or
    None for parts of size 1, which lose the axis without `keepdims`.
    """
    dims = shape_of(x)
    dim, inner = dims[axis], product(dims[axis + 1 :])
    given = constant(np.ones((), np.int64)) if sizes is None else cast(sizes, "int64", builder)
    is_vector = len(shape_of(given)) == 1
    length = shape_of(given)[0] if is_vector else _part_count(dim, given, builder)
    known_sizes = [size if isinstance(size, int) else None for size in dims]
    known_sizes[axis] = 1 if sizes is None else None
    rows: list[Any] = list(dims)
    if not keepdims:
        del known_sizes[axis], rows[axis]
    width = len(rows)

    def cut(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (wanted,), (shapes, start, size, end, fits) = ins, outs
        parts, extent, *fixed = scalars
        store(end, int64(0), int64(0))
        store(fits, int64(0), int64(1))
        with loop(parts) as p:
            part = wanted[p] if is_vector else tirx.min(wanted[0], extent - end[0])
            inside = tirx.all(part >= 0, part <= extent - end[0])
            with when(tirx.Not(inside)):
                store(fits, int64(0), int64(0))
            with when(fits[0] > 0):
                store(shapes, p * (1 + width), int64(width))
                for column in range(width):
                    value = part if keepdims and column == axis else fixed[column]
                    store(shapes, p * (1 + width) + column + 1, value)
                with loop(part) as a:
                    store(start, end[0] + a, end[0])
                    store(size, end[0] + a, part)
                store(end, int64(0), end[0] + part)
        with when(end[0] != extent):
            store(fits, int64(0), int64(0))

    table = ([length, 1 + width], "int64")
    outputs = [table, ([dim], "int64"), ([dim], "int64"), ([1], "int64"), ([1], "int64")]
    shapes, start, size, _, fits = loop_kernel(
        builder, "cut", [given], outputs, [length, dim, *rows], cut
    )
    _require(fits, "parts that do not add up to the axis", builder)
    outer, total = product(dims[:axis]), product(dims)

    def kernel(data: te.Tensor, start: te.Tensor, size: te.Tensor, dims: list[Any]) -> te.Tensor:
        count, outer, inner = dims

        def element(i: Any) -> Any:
            # no element is computed where a size is 0, but nothing may divide by it either
            width, slab = (tirx.max(size, int64(1)) for size in (inner, outer * inner))
            a = tirx.floordiv(i, slab)
            rest, row = i - start(a) * slab, tirx.max(size(a), int64(1)) * width
            place = start(a) + tirx.floordiv(tirx.floormod(rest, row), width)
            return data(tirx.floordiv(rest, row), place, tirx.floormod(rest, width))

        return te.compute((count,), element, name="cut_elements")

    if isinstance(total, int) and total == 0:
        elements = reshape(x, [0], builder)
    else:
        blocks = reshape(x, [outer, dim, inner], builder)
        shape = relax.ShapeExpr([total, outer, inner])
        elements = compute(builder, "cut_elements", kernel, blocks, start, size, shape)
    return PackedSequence(elements, shapes, ElementShape(width, tuple(known_sizes)))


def _part_count(dim: Any, size: relax.Expr, builder: ImportBuilder) -> Any:
    """How many parts of a size an axis has; a size below 1 ends the run."""

    def count(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (part,), (number, fits), (extent,) = ins, outs, scalars
        one = int64(1)
        store(fits, int64(0), tirx.Cast("int64", part[0] >= 1))
        width = tirx.max(tirx.min(part[0], tirx.max(extent, one)), one)
        store(number, int64(0), tirx.floordiv(extent + width - 1, width))

    outputs = [([1], "int64"), ([1], "int64")]
    number, fits = loop_kernel(builder, "part_count", [size], outputs, [dim], count)
    _require(fits, "parts of a size below 1", builder)
    (length,) = builder.late_dims(number, 1)
    return length
