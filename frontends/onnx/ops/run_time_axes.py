"""Operators whose axes are values of the run.

Small kernels compute the sizes that follow from the axes. A reduction moves its elements to a
matrix (kept, reduced), whatever the axes, and reduces the rows. An axis outside of the range, or
one named twice, makes a size -1, which ends the run with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, tirx

from athanor.frontends.onnx.known import product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.loop_kernel import int64, loop, loop_kernel, store, when
from athanor.frontends.onnx.tensors import cast, dtype_of, reshape, shape_of

Inputs = list[Any]
Builder = Any
Reduce = Callable[[relax.Expr, list[int], bool, Builder], relax.Expr]
Write = Callable[[Any, Any, Any, list[Any]], None]
"""Called with the sizes to write, the masks, a cell to count in, and the dims."""


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
    dims = shape_of(x)
    rank, keepdims = len(dims), bool(node.int("keepdims", 1))

    def write(sizes: Any, masks: Any, place: Any, extents: list[Any]) -> None:
        store(sizes, int64(0), int64(1))
        store(sizes, int64(1), int64(1))
        for axis, extent in enumerate(extents):
            store(sizes, masks[axis], sizes[masks[axis]] * extent)
            if keepdims:
                store(sizes, int64(2 + axis), tirx.Select(masks[axis] > 0, int64(1), extent))
        if not keepdims:
            _write_kept(sizes, masks, place, extents, 2)

    length = 2 + (rank if keepdims else rank - axis_count(node, axes))
    sizes, masks = _table(node, axes, dims, rank, length, write, builder)
    matrix = [sizes[0], sizes[1]]

    def move(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        data, named = ins
        _, reduced = extents[rank:]
        with loop(product(extents[:rank])) as place:
            rest, steps, at = place, [int64(1), int64(1)], [int64(0), int64(0)]
            for axis in range(rank - 1, -1, -1):
                extent = tirx.max(extents[axis], int64(1))  # no loop runs where it is 0
                digit, rest = tirx.floormod(rest, extent), tirx.floordiv(rest, extent)
                for side in range(2):
                    here = tirx.EQ(named[axis], int64(side))
                    at[side] = at[side] + tirx.Select(here, digit * steps[side], int64(0))
                    steps[side] = tirx.Select(here, steps[side] * extent, steps[side])
            store(outs[0], at[0] * reduced + at[1], data[place])

    shapes = [(matrix, dtype_of(x))]
    (rows,) = loop_kernel(builder, "rows_to_reduce", [x, masks], shapes, [*dims, *matrix], move)
    return reshape(builder.emit(how(rows, [1], False, builder)), sizes[2:], builder)


def squeeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """Without the dims that the axes name, which have to be 1."""
    dims = shape_of(x)

    def write(sizes: Any, masks: Any, place: Any, extents: list[Any]) -> None:
        _write_kept(sizes, masks, place, extents, 0)

    length = len(dims) - axis_count(node, axes)
    sizes, _ = _table(node, axes, dims, len(dims), length, write, builder)
    builder.require_equal(product(dims), product(sizes))
    return reshape(x, sizes, builder)


def unsqueeze(node: Node, x: relax.Expr, axes: relax.Expr, builder: Builder) -> relax.Expr:
    """With dims of 1 put in at the axes."""
    dims = shape_of(x)
    rank = len(dims) + axis_count(node, axes)

    def write(sizes: Any, masks: Any, place: Any, extents: list[Any]) -> None:
        for axis in range(rank):
            store(sizes, int64(axis), int64(1))
        for number, extent in enumerate(extents):
            # the place of the number-th dim: the number-th axis that is not named
            store(place, int64(0), int64(0))
            for axis in range(rank):
                with when(masks[axis] == 0):
                    with when(place[0] == number):
                        store(sizes, int64(axis), extent)
                    store(place, int64(0), place[0] + 1)

    sizes, _ = _table(node, axes, dims, rank, rank, write, builder)
    return reshape(x, sizes, builder)


def around_axis(node: Node, x: relax.Expr, axis: relax.Expr, builder: Builder) -> list[Any]:
    """The sizes (before, at, behind) of `x` around one axis."""
    dims = shape_of(x)

    def write(sizes: Any, masks: Any, place: Any, extents: list[Any]) -> None:
        for axis in range(len(extents)):
            with when(masks[axis] > 0):
                parts = (extents[:axis], extents[axis : axis + 1], extents[axis + 1 :])
                for number, part in enumerate(parts):
                    size = product(part)
                    store(sizes, int64(number), int64(size) if isinstance(size, int) else size)

    return _table(node, axis, dims, len(dims), 3, write, builder)[0]


def _write_kept(sizes: Any, masks: Any, place: Any, extents: list[Any], first: int) -> None:
    """The dims that no axis names, in order, from sizes[first] on."""
    store(place, int64(0), int64(first))
    for axis, extent in enumerate(extents):
        # with invalid axes there may be more of them than there is room for
        with when(tirx.all(masks[axis] == 0, place[0] < sizes.shape[0])):
            store(sizes, place[0], extent)
            store(place, int64(0), place[0] + 1)


def _table(
    node: Node,
    axes: relax.Expr,
    dims: Sequence[Any],
    rank: int,
    length: int,
    write: Write,
    builder: Builder,
) -> tuple[list[Any], relax.Expr]:
    """`length` late dimensions, written by `write`, and a mask (rank,) with 1 where an axis is."""
    count = axis_count(node, axes)
    flat = reshape(cast(axes, "int64", builder), [count], builder)

    def body(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        sizes, masks, place, wrong = outs
        for axis in range(rank):
            store(masks, int64(axis), int64(0))
        store(wrong, int64(0), int64(0))
        for number in range(count):
            given = ins[0][number]
            axis = tirx.Select(given < 0, given + rank, given)
            inside = tirx.all(axis >= 0, axis < rank)
            axis = tirx.max(tirx.min(axis, int64(rank - 1)), int64(0))
            with when(tirx.any(tirx.Not(inside), masks[axis] > 0)):
                store(wrong, int64(0), int64(1))
            store(masks, axis, int64(1))
        write(sizes, masks, place, extents)
        with when(wrong[0] > 0):
            store(sizes, int64(0), int64(-1))

    if rank == 0:
        raise node.error("axes for an input without dimensions")
    # a table of no sizes still has an entry, which says whether the axes are valid
    shapes = [([size], "int64") for size in (max(length, 1), rank, 1, 1)]
    sizes, masks, _, _ = loop_kernel(builder, "sizes_by_axes", [flat], shapes, dims, body)
    return builder.late_dims(sizes, max(length, 1))[:length], masks
