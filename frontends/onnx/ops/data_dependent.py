"""Operators whose results' sizes depend on the data: NonZero, Compress, Unique, NonMaxSuppression.

A first kernel counts; the count becomes a late dimension (see import_builder); a second kernel
writes the result.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as I

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.loop_kernel import (
    int64,
    is_less,
    is_nan,
    loop,
    loop_kernel,
    merge_sort,
    store,
    when,
)
from athanor.frontends.onnx.ops.sorting import Heap
from athanor.frontends.onnx.tensors import (
    compute,
    dtype_of,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]


def positions_of_true(mask: relax.Expr, builder: ImportBuilder) -> tuple[relax.Expr, Any]:
    """Flat int64 positions (n,) of the elements that are not zero, in order, and n."""
    size = product(shape_of(mask))

    def count(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        store(outs[0], int64(0), int64(0))
        with loop(scalars[0]) as i, when(_is_true(ins[0][i])):
            store(outs[0], int64(0), outs[0][0] + 1)

    (found,) = loop_kernel(builder, "count", [mask], [([1], "int64")], [size], count)
    (n,) = builder.late_dims(found, 1)

    def write(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        positions, next_place = outs
        store(next_place, int64(0), int64(0))
        with loop(scalars[0]) as i, when(_is_true(ins[0][i])):
            store(positions, next_place[0], i)
            store(next_place, int64(0), next_place[0] + 1)

    shapes = [([n], "int64"), ([1], "int64")]
    positions, _ = loop_kernel(builder, "positions", [mask], shapes, [size], write)
    return positions, n


def _is_true(value: Any) -> Any:
    dtype = str(value.ty.dtype)
    if dtype == "bool":
        return value
    # LLVM's code for != is false where an operand is NaN
    different = value != tirx.const(0, dtype)
    return tirx.any(different, is_nan(value)) if "float" in dtype else different


def non_zero(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Indices (rank, n) of the elements that are not zero, in row-major order.

    Source: https://onnx.ai/onnx/operators/onnx__NonZero.html
    """
    x = inputs[0]
    dims = shape_of(x)
    if not dims:
        raise node.error("the input is a scalar, which has no indices")
    positions, _ = positions_of_true(x, builder)

    def kernel(flat: te.Tensor, sizes: list[Any]) -> te.Tensor:
        def element(axis: Any, i: Any) -> Any:
            rest, index = flat(i), int64(0)
            for level in range(len(dims) - 1, -1, -1):
                index = tirx.Select(axis == level, tirx.floormod(rest, sizes[level]), index)
                rest = tirx.floordiv(rest, sizes[level])
            return index

        return te.compute((len(dims), flat.shape[0]), element, name="non_zero")

    # an empty input has no element to divide for, but the expressions must not divide by 0
    sizes = relax.ShapeExpr([_at_least_one(dim) for dim in dims])
    return compute(builder, "non_zero", kernel, positions, sizes)


def _at_least_one(dim: Any) -> Any:
    return tirx.max(dim, int64(1)) if is_symbolic(dim) else max(dim, 1)


def compress(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The slices along `axis`, or elements of the flattened input, where the condition is true.

    A condition shorter than the axis leaves out the rest.
    Source: https://onnx.ai/onnx/operators/onnx__Compress.html
    """
    x, condition = inputs
    if not node.has("axis"):
        x = reshape(x, [product(shape_of(x))], builder)
    axis = node.axis("axis", rank_of(x)) if node.has("axis") else 0
    length, (given,) = shape_of(x)[axis], shape_of(condition)
    if is_symbolic(length) or is_symbolic(given):
        builder.require(given <= length, f"{given} conditions for {length} elements")
    elif given > length:
        raise node.error(f"{given} conditions for axis {axis} of size {length}")
    positions, _ = positions_of_true(condition, builder)
    return take_rows(x, positions, axis, builder)


def take_rows(
    x: relax.Expr, positions: relax.Expr, axis: int, builder: relax.BlockBuilder
) -> relax.Expr:
    """The slices of x at int64 positions, which are inside."""

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        shape = (*data.shape[:axis], index.shape[0], *data.shape[axis + 1 :])

        def element(*i: Any) -> Any:
            return data(*i[:axis], index(i[axis]), *i[axis + 1 :])

        return te.compute(shape, element, name="take")

    return compute(builder, "take", kernel, x, positions)


def unique(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[relax.Expr, ...]:
    """The distinct elements, or slices along `axis`: sorted, or in order of first occurrence.

    Results: values, first indices, for each element the index of its value, counts. NaNs count as
    equal, as in NumPy.
    Source: https://onnx.ai/onnx/operators/onnx__Unique.html
    """
    x = inputs[0]
    axis = node.axis("axis", rank_of(x)) if node.has("axis") else None
    rows = reshape(x, [product(shape_of(x))], builder)
    if axis is not None:
        order = [axis, *(a for a in range(rank_of(x)) if a != axis)]
        rows = builder.emit(R.permute_dims(x, order)) if axis else x
    length, width = shape_of(rows)[0], product(shape_of(rows)[1:])
    is_sorted = bool(node.int("sorted", 1))

    def find(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (data,), (n, row) = ins, scalars
        *results, by_value, scratch, group, state = outs
        verdict = int64(4)

        def less(i: Any, j: Any) -> Any:
            if axis is None:
                return is_less(data[i], data[j])
            # 0: equal so far, 1: less, 2: greater
            store(state, verdict, int64(0))
            with loop(row) as k, when(state[verdict] == 0):
                left, right = data[i * row + k], data[j * row + k]
                with when(is_less(left, right)):
                    store(state, verdict, int64(1))
                with when(is_less(right, left)):
                    store(state, verdict, int64(2))
            return state[verdict] == 1

        with loop(n) as i:
            store(by_value, i, i)
        merge_sort(by_value, scratch, state, int64(0), n, less)
        _number_groups(n, results, by_value, less)
        if not is_sorted:
            _order_by_first(n, results, by_value, scratch, group)

    sizes = [([1], "int64"), *[([length], "int64")] * 6, ([5], "int64")]
    found, firsts, inverse, counts, *_ = loop_kernel(
        builder, "unique", [rows], sizes, [length, width], find
    )
    (n,) = builder.late_dims(found, 1)
    firsts, counts = (head(value, n, builder) for value in (firsts, counts))
    values = take_rows(x if axis is not None else rows, firsts, axis or 0, builder)
    return values, firsts, inverse, counts


def _number_groups(n: Any, results: list[Any], by_value: Any, less: Any) -> None:
    """From elements in order of value: how many distinct ones, and where and how often each is."""
    found, firsts, inverse, counts = results
    zero = int64(0)
    store(found, zero, zero)
    with loop(n) as k:
        # of equal elements the first comes first, for the sort is stable
        grows = less(by_value[tirx.max(k - 1, zero)], by_value[k])
        with when(tirx.any(k == 0, grows)):
            store(firsts, found[0], by_value[k])
            store(counts, found[0], zero)
            store(found, zero, found[0] + 1)
        store(inverse, by_value[k], found[0] - 1)
        store(counts, found[0] - 1, counts[found[0] - 1] + 1)


def _order_by_first(
    n: Any, results: list[Any], old_counts: Any, group_at: Any, new_number: Any
) -> None:
    """Number the groups anew by their first occurrence; the last three are scratch, n long."""
    found, firsts, inverse, counts = results
    with loop(n) as i:
        store(group_at, i, int64(-1))
    with loop(found[0]) as group:
        store(group_at, firsts[group], group)
        store(old_counts, group, counts[group])
    store(found, int64(0), int64(0))
    with loop(n) as i, when(group_at[i] >= 0):
        store(new_number, group_at[i], found[0])
        store(firsts, found[0], i)
        store(counts, found[0], old_counts[group_at[i]])
        store(found, int64(0), found[0] + 1)
    with loop(n) as i:
        store(inverse, i, new_number[inverse[i]])


def head(x: relax.Expr, n: Any, builder: relax.BlockBuilder) -> relax.Expr:
    """The first n slices."""

    def kernel(data: te.Tensor, count: list[Any]) -> te.Tensor:
        return te.compute((count[0], *data.shape[1:]), lambda *i: data(*i), name="head")

    return compute(builder, "head", kernel, x, relax.ShapeExpr([n]))


def non_max_suppression(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Rows (batch, class, box) of the best boxes that overlap no better one of their class.

    inputs: boxes (B, N, 4), scores (B, C, N), then the largest number of boxes a class, the
    overlap and the score that a box has to be above, each optional. Attribute center_point_box:
    boxes are (x, y, width, height), not two corners (y, x).
    Source: https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html
    """
    boxes, scores = inputs[:2]
    batch, classes, count = shape_of(scores)
    centered = bool(node.int("center_point_box", 0))
    given = [*inputs[2:], None, None, None][:3]
    most = given[0] if given[0] is not None else scalar(0, "int64")
    overlap = given[1] if given[1] is not None else scalar(0.0, "float32")
    least = given[2] if given[2] is not None else scalar(float("-inf"), "float32")

    def select(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        box, score, limit, threshold, floor = ins
        rows, found, values, places = outs
        batches, kinds, n = scalars
        zero = int64(0)
        with I.sblock("select"):
            I.reads(*(buffer[0 : buffer.shape[0]] for buffer in ins))
            I.writes(*(buffer[0 : buffer.shape[0]] for buffer in outs))
            left, begin, chosen, near = (
                I.sblock_alloc_buffer((1,), "int64", scope="local") for _ in range(4)
            )
            # the highest score is "worst" where low ones are better; of equal ones the lowest
            # index, which is the greatest negative one
            heap = Heap(values, places, zero, largest=False)
            store(found, zero, zero)
            with loop(batches) as b, loop(kinds) as c:
                line = (b * kinds + c) * n
                store(left, zero, zero)
                store(begin, zero, found[0])
                with loop(n) as i, when(score[line + i] > floor[0]):
                    heap.put(left[0], score[line + i], -i)
                    store(left, zero, left[0] + 1)
                with loop(left[0] // 2) as i:
                    heap.sift(left[0] // 2 - 1 - i, left[0])
                with I.While(tirx.all(left[0] > 0, found[0] - begin[0] < limit[0])):
                    second = (b * n - places[0]) * 4
                    store(near, zero, zero)
                    store(chosen, zero, begin[0])
                    with I.While(tirx.all(chosen[0] < found[0], near[0] == 0)):
                        first = (b * n + rows[chosen[0] * 3 + 2]) * 4
                        with when(_overlap(box, first, second, centered) > threshold[0]):
                            store(near, zero, int64(1))
                        store(chosen, zero, chosen[0] + 1)
                    with when(near[0] == 0):
                        for offset, value in enumerate((b, c, -places[0])):
                            store(rows, found[0] * 3 + offset, value)
                        store(found, zero, found[0] + 1)
                    store(left, zero, left[0] - 1)
                    heap.put(zero, *heap.at(left[0]))
                    heap.sift(zero, left[0])

    bound = product([batch, classes, count])
    sizes = [([bound, 3], "int64"), ([1], "int64"), ([count], dtype_of(scores)), ([count], "int64")]
    rows, found, *_ = loop_kernel(
        builder,
        "non_max_suppression",
        [boxes, scores, most, overlap, least],
        sizes,
        [batch, classes, count],
        select,
    )
    (n,) = builder.late_dims(found, 1)
    return head(rows, n, builder)


def _overlap(box: Any, first: Any, second: Any, centered: bool) -> Any:
    """Intersection over union of two boxes; 0 where one is empty."""

    def corners(start: Any) -> tuple[Any, Any, Any, Any]:
        a, b, c, d = (box[start + offset] for offset in range(4))
        if centered:
            return a - c / 2, b - d / 2, a + c / 2, b + d / 2
        return tirx.min(a, c), tirx.min(b, d), tirx.max(a, c), tirx.max(b, d)

    a, b = corners(first), corners(second)
    zero = tirx.const(0, "float32")
    sides = [tirx.max(tirx.min(a[k + 2], b[k + 2]) - tirx.max(a[k], b[k]), zero) for k in range(2)]
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    inner = sides[0] * sides[1]
    union = areas[0] + areas[1] - inner
    valid = tirx.all(areas[0] > zero, areas[1] > zero, union > zero)
    return tirx.Select(valid, inner / union, zero)
