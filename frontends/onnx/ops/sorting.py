"""TopK: the largest or smallest elements along an axis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as I

from athanor.frontends.onnx.known import constant, is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.loop_kernel import (
    int64,
    is_less,
    is_nan,
    loop,
    loop_kernel,
    store,
    when,
)
from athanor.frontends.onnx.tensors import dtype_of, np_dtype, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_SKIPPED = 16
"""Elements that are passed over together where none of them is among the best: a vector."""
_LANES = 16
"""Columns that are searched at once: a vector of float32 on the widest machines."""
_FEW = 8
"""The most places that a column's best are kept in order for, in registers."""


def top_k(node: Node, inputs: Inputs, builder: Any) -> tuple[relax.Expr, relax.Expr]:
    """Values and int64 indices of the k largest (or smallest) elements, in order.

    NaN is greater than all numbers. Of equal elements the one with the lower index comes first.
    k is the attribute (opset 9 and older) or input 1.
    Source: https://onnx.ai/onnx/operators/onnx__TopK.html
    """
    x = inputs[0]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), -1)
    (k,) = (node.int("k"),) if node.opset < 10 else node.elements(1, "k")
    if is_symbolic(k) or is_symbolic(dims[axis]):
        sentence = f"TopK needs k from 0 to {dims[axis]}, the size of its axis,"
        builder.require(tirx.all(k >= 0, k <= dims[axis]), sentence)
    elif not 0 <= k <= dims[axis]:
        raise node.error(f"k={k} for an axis of size {dims[axis]}")
    result_dims = [*dims[:axis], k, *dims[axis + 1 :]]
    dtype = dtype_of(x)
    if product(result_dims) == 0 and not any(is_symbolic(dim) for dim in result_dims):
        empty = np.zeros(result_dims, np_dtype(dtype))
        return constant(empty), constant(empty.astype(np.int64))
    largest = bool(node.int("largest", 1))
    outer, inner = product(dims[:axis]), product(dims[axis + 1 :])
    known = not any(is_symbolic(size) for size in (outer, dims[axis], inner, k))
    if known and inner >= _LANES and k <= _FEW:
        return _of_columns(x, axis, k, largest, builder)
    if axis == len(dims) - 1:
        values, places = _of_rows(x, k, largest, builder)
        return values, places
    order = [a for a in range(len(dims)) if a != axis] + [axis]
    results = _of_rows(builder.emit(R.permute_dims(x, order)), k, largest, builder)
    back = [int(a) for a in np.argsort(order)]
    values, places = (builder.emit(R.permute_dims(result, back)) for result in results)
    return values, places


@contextmanager
def _tasks(count: Any, ins: list[Any], outs: list[Any]) -> Iterator[Any]:
    """`for task in parallel(count)`, with buffers of its own."""
    with I.parallel(int64(0), count) as number, I.sblock("task"):
        task = I.axis.spatial(count, number)
        I.reads(*(buffer[0 : buffer.shape[0]] for buffer in ins))
        I.writes(*(buffer[0 : buffer.shape[0]] for buffer in outs))
        yield task


def _of_rows(x: relax.Expr, k: Any, largest: bool, builder: Builder) -> Inputs:
    """Along the last axis: a heap of the best so far, the worst of them on top, sorted at the end.

    k of n random elements cost n comparisons, in vectors, and some k log(n / k) exchanges.
    """
    *outer, length = shape_of(x)

    def select(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (data,), (best, places), (rows, n, count) = ins, outs, scalars
        with _tasks(rows, ins, outs) as row, when(count > 0):
            found = I.sblock_alloc_buffer((1,), "int32", scope="local")
            heap = Heap(best, places, row * count, largest)
            start = row * n
            with loop(count) as i:
                heap.put(i, data[start + i], i)
            with loop(count // 2) as i:
                heap.sift(count // 2 - 1 - i, count)
            with loop((n - count + _SKIPPED - 1) // _SKIPPED) as step:
                first = count + step * _SKIPPED
                zero, one = tirx.const(0, "int32"), tirx.const(1, "int32")
                store(found, 0, tirx.Select(first + _SKIPPED > n, one, zero))
                with when(found[0] == 0), loop(_SKIPPED) as i:
                    wins = heap.wins(data[start + first + i])
                    store(found, 0, found[0] | tirx.Select(wins, one, zero))
                with when(found[0] != 0), loop(tirx.min(n - first, int64(_SKIPPED))) as i:
                    with when(heap.wins(data[start + first + i])):
                        heap.put(int64(0), data[start + first + i], first + i)
                        heap.sift(int64(0), count)
            with loop(count - 1) as i:
                heap.swap(int64(0), count - 1 - i)
                heap.sift(int64(0), count - 1 - i)

    shapes = [([*outer, k], dtype_of(x)), ([*outer, k], "int64")]
    return loop_kernel(builder, "top_k", [x], shapes, [product(outer), length, k], select)


class Heap:
    """Elements and their indices in two buffers from `base` on, in a block; the worst at place 0.

    Of equal elements that of the greater index is worse.
    """

    def __init__(self, best: Any, places: Any, base: Any, largest: bool) -> None:
        self.best, self.places, self.base, self.largest = best, places, base, largest
        self.value = I.sblock_alloc_buffer((1,), best.dtype, scope="local")
        self.index, self.hole, self.child = (
            I.sblock_alloc_buffer((1,), "int64", scope="local") for _ in range(3)
        )

    def put(self, place: Any, value: Any, index: Any) -> None:
        """Store an element at `place`, wherever it belongs."""
        store(self.best, self.base + place, value)
        store(self.places, self.base + place, index)

    def wins(self, value: Any) -> Any:
        """Whether a later element takes the place of the worst."""
        return _is_better(value, self.best[self.base], self.largest)

    def swap(self, left: Any, right: Any) -> None:
        """Exchange two elements."""
        self._hold(left)
        self.put(left, self.best[self.base + right], self.places[self.base + right])
        self.put(right, self.value[0], self.index[0])

    def sift(self, place: Any, size: Any) -> None:
        """The element at `place` sinks below all that are worse, of `size` elements."""
        self._hold(place)
        store(self.hole, 0, place)
        store(self.child, 0, 2 * place + 1)
        child = self.child
        with I.While(child[0] < size):
            # the last one beside itself, for an only child
            other = tirx.min(child[0] + 1, size - 1)
            with when(self._worse(other, *self.at(child[0]))):
                store(child, 0, other)
            with I.If(self._worse(child[0], self.value[0], self.index[0])):
                with I.Then():
                    self.put(self.hole[0], *self.at(child[0]))
                    store(self.hole, 0, child[0])
                    store(child, 0, 2 * child[0] + 1)
                with I.Else():
                    store(child, 0, size)
        self.put(self.hole[0], self.value[0], self.index[0])

    def at(self, place: Any) -> tuple[Any, Any]:
        """The element at `place` and its index."""
        return self.best[self.base + place], self.places[self.base + place]

    def _hold(self, place: Any) -> None:
        value, index = self.at(place)
        store(self.value, 0, value)
        store(self.index, 0, index)

    def _worse(self, place: Any, value: Any, index: Any) -> Any:
        own, own_index = self.at(place)
        equal = own == value
        if "float" in str(own.ty.dtype):
            # not by neither being better: Not(a < b) becomes b <= a, which NaN makes false
            equal = tirx.any(equal, tirx.all(is_nan(own), is_nan(value)))
        return tirx.any(_is_better(value, own, self.largest), tirx.all(equal, own_index > index))


def _of_columns(
    x: relax.Expr, axis: int, k: int, largest: bool, builder: Builder
) -> tuple[relax.Expr, relax.Expr]:
    """Along an axis before the last: each element of a column passes the best, in order.

    It takes the place of the first that is worse, which goes on in its stead; a vector of columns
    at once, its best in registers. The last vector begins early enough to be whole.
    """
    dims = shape_of(x)
    outer, length, inner = product(dims[:axis]), dims[axis], product(dims[axis + 1 :])
    dtype = dtype_of(x)
    vectors = -(-inner // _LANES)

    def select(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (data,), (values, places) = ins, outs
        with _tasks(int64(outer * vectors), ins, outs) as task:
            row, first = task // vectors, tirx.min(task % vectors * _LANES, int64(inner - _LANES))
            kept = [I.sblock_alloc_buffer((_LANES,), dtype, scope="local") for _ in range(k + 2)]
            at = [I.sblock_alloc_buffer((_LANES,), "int32", scope="local") for _ in range(k + 3)]
            *best, value, old = kept
            *index, place, was, wins = at
            none, one = tirx.const(-1, "int32"), tirx.const(1, "int32")
            for slot in range(k):
                with I.vectorized(0, _LANES) as lane:
                    store(best[slot], lane, tirx.const(0, dtype))
                    store(index[slot], lane, none)
            with loop(length) as j:
                with I.vectorized(0, _LANES) as lane:
                    store(value, lane, data[(row * length + j) * inner + first + lane])
                    store(place, lane, j.astype("int32"))
                    store(wins, lane, tirx.const(0, "int32"))
                for slot in range(k):
                    with I.vectorized(0, _LANES) as lane:
                        better = _is_better(value[lane], best[slot][lane], largest)
                        empty = index[slot][lane] < 0
                        # where one has moved on, all behind it do, those that equal it too
                        moves = tirx.any(wins[lane] != 0, empty, better)
                        store(wins, lane, tirx.Select(moves, one, tirx.const(0, "int32")))
                        store(old, lane, best[slot][lane])
                        store(was, lane, index[slot][lane])
                    with I.vectorized(0, _LANES) as lane:
                        won = wins[lane] != 0
                        store(best[slot], lane, tirx.Select(won, value[lane], old[lane]))
                        store(index[slot], lane, tirx.Select(won, place[lane], was[lane]))
                        store(value, lane, tirx.Select(won, old[lane], value[lane]))
                        store(place, lane, tirx.Select(won, was[lane], place[lane]))
            for slot in range(k):
                with I.vectorized(0, _LANES) as lane:
                    target = (row * k + slot) * inner + first + lane
                    store(values, target, best[slot][lane])
                    store(places, target, index[slot][lane].astype("int64"))

    shape = [*dims[:axis], k, *dims[axis + 1 :]]
    shapes = [(shape, dtype), (shape, "int64")]
    found, where = loop_kernel(builder, "top_k", [x], shapes, [], select)
    return found, where


def _is_better(left: Any, right: Any, largest: bool) -> Any:
    return is_less(right, left) if largest else is_less(left, right)
