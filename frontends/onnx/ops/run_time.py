"""Operators whose operands only the run knows.

Where such an operand is a list of sizes, its elements become late dimensions (or late values, where
they are no sizes), and the converter for operands known at import does the rest: see `late`.
Reshape, Slice, Pad, Expand and Range have converters of their own here: a small kernel works out
the result's sizes, which become late dimensions, and where elements come from; an operand that
makes no sense gives a size of -1, which ends the run with an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import Known, as_objects, is_equal, is_symbolic, product, text_of
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.operators import Converter
from athanor.frontends.onnx.ops.loop_kernel import int64, loop_kernel, store, when
from athanor.frontends.onnx.ops.slicing import broadcast, padded_source
from athanor.frontends.onnx.tensors import cast, compute, dtype_of, is_float, reshape, shape_of

Inputs = list[relax.Expr]


def either(at_import: Converter, at_run_time: Converter, *operands: int) -> Converter:
    """A converter that takes the second one where an operand is known only to the run."""

    def converter(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
        for index in operands:
            if node.has_input(index, inputs) and node.known[index] is None:
                return at_run_time(node, inputs, builder)
        return at_import(node, inputs, builder)

    return converter


def late(converter: Converter, operand: int, sizes: bool = True) -> Converter:
    """The converter, with the elements of an operand that only the run knows as symbols.

    With `sizes` a negative element ends the run with an error.
    """

    def with_symbols(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
        if not node.has_input(operand, inputs) or node.known[operand] is not None:
            return converter(node, inputs, builder)
        x, count = _elements(node, inputs[operand], builder)
        symbols: list[Any] = []
        if count:
            flat = reshape(x, [count], builder)
            symbols = builder.late_dims(flat, count) if sizes else builder.late_values(flat, count)
        elements = list(node.known)
        elements[operand] = Known(as_objects(symbols, shape_of(x)), "int64")
        return converter(replace(node, known=elements), inputs, builder)

    return with_symbols


def _elements(node: Node, x: relax.Expr, builder: ImportBuilder) -> tuple[relax.Expr, int]:
    """An operand as int64, and how many elements it has, which has to be known."""
    count = product(shape_of(x))
    if is_symbolic(count):
        raise node.error(f"an operand of shape {shape_of(x)}: its length has to be known")
    return cast(x, "int64", builder), count


def reshape_to(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Reshape: 0 keeps a dim (unless allowzero=1), -1 is inferred."""
    have = shape_of(inputs[0])
    given, rank = _elements(node, inputs[1], builder)
    keeps = not node.int("allowzero", 0)

    def resolve(ins: list[Any], outs: list[Any], dims: list[Any]) -> None:
        (wanted,), (sizes, others) = ins, outs
        total = product_of(dims)
        store(others, int64(0), int64(1))
        for axis in range(rank):
            size = wanted[axis]
            if keeps:
                kept = dims[axis] if axis < len(dims) else int64(-2)
                size = tirx.Select(size == 0, kept, size)
            store(sizes, int64(axis), size)
            with when(sizes[axis] != -1):
                store(others, int64(0), others[0] * sizes[axis])
        for axis in range(rank):
            with when(sizes[axis] == -1):
                rest = tirx.max(others[0], int64(1))
                store(sizes, int64(axis), tirx.floordiv(total, rest))

    shapes = [([rank], "int64"), ([1], "int64")]
    sizes, _ = loop_kernel(builder, "resolve_shape", [given], shapes, have, resolve)
    dims = builder.late_dims(sizes, rank)
    builder.require_equal(product(have), product(dims))
    return reshape(inputs[0], dims, builder)


def product_of(values: list[Any]) -> Any:
    """The product of a kernel's scalars."""
    result: Any = int64(1)
    for value in values:
        result = result * value
    return result


def slice_inputs(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Slice with starts, ends, axes and steps of the run."""
    x = inputs[0]
    dims = shape_of(x)
    rank = len(dims)
    operands = [_elements(node, value, builder) for value in inputs[1:] if value is not None]
    count = operands[0][1]
    if any(other != count for _, other in operands) or count > rank:
        raise node.error(f"{[n for _, n in operands]} starts, ends, ... for a rank-{rank} input")
    has_axes, has_steps = node.has_input(3, inputs), node.has_input(4, inputs)

    def bounds(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        begin, step, size, extent = outs
        for axis in range(rank):
            values = ((begin, 0), (step, 1), (size, extents[axis]), (extent, extents[axis]))
            for table, value in values:
                store(table, int64(axis), int64(value) if isinstance(value, int) else value)
        for number in range(count):
            rest = list(ins[2:])
            axis = rest.pop(0)[number] if has_axes else int64(number)
            stride = rest.pop(0)[number] if has_steps else int64(1)
            place = tirx.Select(axis < 0, axis + rank, axis)
            inside = tirx.all(place >= 0, place < rank, stride != 0)
            with when(tirx.Not(inside)):
                store(size, int64(0), int64(-1))
            with when(inside):
                _slice_bounds(ins[0][number], ins[1][number], stride, place, outs)

    table = ([rank], "int64")
    tensors = [value for value, _ in operands]
    begin, step, size, _ = loop_kernel(builder, "slice_bounds", tensors, [table] * 4, dims, bounds)
    result = builder.late_dims(size, rank)

    def kernel(data: te.Tensor, first: te.Tensor, stride: te.Tensor, shape: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            places = [first(int64(a)) + i[a] * stride(int64(a)) for a in range(rank)]
            return data(*places)

        return te.compute(tuple(shape), element, name="slice")

    return compute(builder, "slice", kernel, x, begin, step, relax.ShapeExpr(result))


def _slice_bounds(start: Any, end: Any, stride: Any, place: Any, tables: list[Any]) -> None:
    """Store the first index, step and size of one axis, bounds clamped as Python does."""
    begin, step, size, extent = tables
    dim, zero, one = extent[place], int64(0), int64(1)
    forward = stride > 0
    low = tirx.Select(forward, zero, int64(-1))
    high = tirx.Select(forward, dim, dim - 1)

    def clamp(bound: Any, least: Any) -> Any:
        front = tirx.Select(bound < 0, bound + dim, bound)
        return tirx.min(tirx.max(front, least), high)

    first, last = clamp(start, zero), clamp(end, low)
    span = tirx.Select(forward, last - first, first - last)
    width = tirx.max(tirx.Select(forward, stride, zero - stride), one)
    store(begin, place, first)
    store(step, place, stride)
    store(size, place, tirx.max(tirx.floordiv(span + width - 1, width), zero))


def pad_inputs(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Pad with pads, and perhaps axes, of the run."""
    x = inputs[0]
    dims, dtype = shape_of(x), dtype_of(x)
    rank, mode = len(dims), node.string("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise node.error(f"mode={mode!r} is none of the standard's modes")
    operands = [_elements(node, inputs[1], builder)]
    has_axes = node.has_input(3, inputs)
    if has_axes:
        operands.append(_elements(node, inputs[3], builder))
    count = operands[1][1] if has_axes else rank
    if operands[0][1] != 2 * count:
        raise node.error(f"{operands[0][1]} pads for {count} axes")

    def sizes(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        begin, size = outs
        for axis in range(rank):
            store(begin, int64(axis), int64(0))
            store(size, int64(axis), extents[axis])
        for number in range(count):
            axis = ins[1][number] if has_axes else int64(number)
            place = tirx.Select(axis < 0, axis + rank, axis)
            inside = tirx.all(place >= 0, place < rank)
            before, after = ins[0][number], ins[0][number + count]
            with when(tirx.Not(inside)):
                store(size, int64(0), int64(-1))
            with when(inside):
                store(begin, place, before)
                total = size[place] + before + after
                # what is not there can't be repeated
                usable = tirx.any(size[place] > 0, total == 0, int64(mode == "constant") != 0)
                store(size, place, tirx.Select(usable, total, int64(-1)))

    tables = [([rank], "int64")] * 2
    tensors = [value for value, _ in operands]
    begin, size = loop_kernel(builder, "pad_sizes", tensors, tables, dims, sizes)
    result = builder.late_dims(size, rank)
    fill = [inputs[2]] if node.has_input(2, inputs) else []

    def kernel(data: te.Tensor, first: te.Tensor, shape: list[Any], *value: te.Tensor) -> Any:
        def element(*i: Any) -> Any:
            positions = [i[axis] - first(int64(axis)) for axis in range(rank)]
            pairs = list(zip(positions, data.shape, strict=True))
            source = [padded_source(mode, position, extent) for position, extent in pairs]
            if mode != "constant":
                return data(*source)
            other = value[0](*[0] * len(value[0].shape)) if value else tirx.const(0, dtype)
            inside = [condition for p, e in pairs for condition in (p >= 0, p < e)]
            return tirx.if_then_else(tirx.all(*inside), data(*source), other)

        return te.compute(tuple(shape), element, name="pad")

    if not rank:
        return x
    return compute(builder, "pad", kernel, x, begin, relax.ShapeExpr(result), *fill)


def expand(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Expand to a shape of the run."""
    x = inputs[0]
    have = shape_of(x)
    given, count = _elements(node, inputs[1], builder)
    rank = max(len(have), count)
    dims = [1] * (rank - len(have)) + have

    def sizes(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        for axis, extent in enumerate(extents):
            wanted = ins[0][axis - rank + count] if axis >= rank - count else int64(1)
            full = tirx.Select(wanted == 1, extent, wanted)
            fits = tirx.any(extent == 1, full == extent)
            store(outs[0], int64(axis), tirx.Select(fits, full, int64(-1)))

    if not rank:
        return x
    (found,) = loop_kernel(builder, "expand_sizes", [given], [([rank], "int64")], dims, sizes)
    return broadcast(x, builder.late_dims(found, rank), builder)


def value_range(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Range with bounds of the run."""
    dtype = dtype_of(inputs[0])
    for name, value in zip(("start", "limit", "delta"), inputs, strict=True):
        if any(is_equal(dim, 1) is not True for dim in shape_of(value)):
            raise node.error(f"{name} is no scalar: its shape is {text_of(shape_of(value))}")
    floats = is_float(inputs[0])
    wide = "float64" if floats else "int64"
    bounds = [cast(value, wide, builder) for value in inputs]

    def count(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        start, limit, delta = (value[0] for value in ins)
        zero = int64(0)
        if floats:
            found = tirx.ceil((limit - start) / delta)
            # also where it is NaN, of a step 0
            valid = tirx.all(found > -1e15, found < 1e15)
            found = tirx.Select(valid, found, tirx.const(-1, wide))
            number = tirx.Cast("int64", found)
        else:
            span = tirx.Select(delta > 0, limit - start, start - limit)
            size = tirx.max(tirx.Select(delta > 0, delta, zero - delta), int64(1))
            number = tirx.floordiv(span + size - 1, size)
        store(outs[0], zero, tirx.max(number, zero))
        with when(delta == tirx.const(0, wide)):
            store(outs[0], zero, int64(-1))

    (found,) = loop_kernel(builder, "range_length", bounds, [([1], "int64")], [], count)
    length = builder.late_dims(found, 1)

    def kernel(start: te.Tensor, delta: te.Tensor, shape: list[Any]) -> te.Tensor:
        def element(i: Any) -> Any:
            first, step = (value(*[0] * len(value.shape)) for value in (start, delta))
            return (first + i.astype(wide) * step).astype(dtype)

        return te.compute(tuple(shape), element, name="range")

    return compute(builder, "range", kernel, bounds[0], bounds[2], relax.ShapeExpr(length))
