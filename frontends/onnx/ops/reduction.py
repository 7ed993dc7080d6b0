"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import run_time_axes
from athanor.frontends.onnx.ops.run_time_axes import axis_count, is_run_time
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    filled,
    is_float,
    np_dtype,
    rank_of,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def reduction(
    reduce: Callable[[relax.Expr, list[int], bool, Builder], relax.Expr],
    before: Callable[[relax.Expr], relax.Expr] | None = None,
    axes_input_since: int = 18,
) -> Callable[..., relax.Expr]:
    """A converter for one Reduce operator.

    Axes come from the attribute, or from input 1 from opset `axes_input_since` on. Absent or
    empty they mean all axes, or none with noop_with_empty_axes=1; even then the operator's
    elementwise part (`before`) applies.
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        x = inputs[0]
        axes: list[int] = []
        from_input = node.opset >= axes_input_since and node.has_input(1, inputs)
        if from_input and is_run_time(node, 1, inputs) and axis_count(node, inputs[1]):
            return _at_run_time(node, inputs, reduce, before, builder)
        if from_input and not is_run_time(node, 1, inputs):
            axes = [int(axis) for axis in node.constant(1, "axes").reshape(-1)]
        elif node.has("axes"):
            axes = node.ints("axes")
        if before is not None:
            x = builder.emit(before(x))
        if not axes and node.int("noop_with_empty_axes", 0):
            return _noop(node, x, builder)
        chosen = node.normalize_axes(axes, rank_of(x)) if axes else list(range(rank_of(x)))
        if not chosen:
            return _noop(node, x, builder)
        keepdims = bool(node.int("keepdims", 1))
        if any(not is_symbolic(d) and d == 0 for i, d in enumerate(shape_of(x)) if i in chosen):
            return _of_nothing(node, x, chosen, keepdims, builder)
        dtype = dtype_of(x)
        if accumulation_dtype(dtype) == dtype or node.op in ("ReduceMax", "ReduceMin"):
            return reduce(x, sorted(chosen), keepdims, builder)
        wide = cast(x, accumulation_dtype(dtype), builder)
        return cast(builder.emit(reduce(wide, sorted(chosen), keepdims, builder)), dtype, builder)

    return converter


def _at_run_time(
    node: Node,
    inputs: Inputs,
    reduce: Callable[..., relax.Expr],
    before: Callable[[relax.Expr], relax.Expr] | None,
    builder: Builder,
) -> relax.Expr:
    """Over axes that only the run knows."""
    x = inputs[0] if before is None else builder.emit(before(inputs[0]))
    dtype = dtype_of(x)

    def rows(values: relax.Expr, axes: list[int], keepdims: bool, builder: Any) -> relax.Expr:
        if node.op == "ReduceMean" and not is_float(x):
            builder.require(shape_of(values)[1] > 0, f"the mean of no element, as {dtype},")
        return reduce(values, axes, keepdims, builder)

    wide = dtype if node.op in ("ReduceMax", "ReduceMin") else accumulation_dtype(dtype)
    result = run_time_axes.reduce(node, cast(x, wide, builder), inputs[1], rows, builder)
    return cast(result, dtype, builder)


def _noop(node: Node, x: relax.Expr, builder: Builder) -> relax.Expr:
    """Nothing reduced: what remains of the operator on single elements."""
    if node.op == "ReduceL2":
        return R.sqrt(x)
    if node.op == "ReduceLogSum":
        return R.log(x)
    return x


def _of_nothing(
    node: Node, x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder
) -> relax.Expr:
    """The result of reducing no element at all: TVM's loops would leave it unwritten."""
    dtype = dtype_of(x)
    kind = np_dtype(dtype).kind
    values: dict[str, float] = {
        "ReduceProd": 1,
        "ReduceLogSum": -np.inf,
        "ReduceLogSumExp": -np.inf,
    }
    values |= {"ReduceMean": np.nan, "ReduceMax": -np.inf, "ReduceMin": np.inf}
    value: Any = values.get(node.op, 0)
    if not np.isfinite(value) and kind in "iu":
        if np.isnan(value):
            raise node.error(f"the mean of no element, as {dtype}")
        bounds = np.iinfo(np_dtype(dtype))
        value = bounds.min if value < 0 else bounds.max
    if kind == "b":
        value = value > 0
    dims = [1 if i in axes else d for i, d in enumerate(shape_of(x)) if keepdims or i not in axes]
    return filled(dims, value, dtype, builder)


def total(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
    """The sum."""
    return R.sum(x, axes, keepdims)


def mean(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
    """The arithmetic mean; integers are divided toward zero."""
    if is_float(x):
        return R.mean(x, axes, keepdims)
    dtype = dtype_of(x)
    result = builder.emit(R.mean(cast(x, "float64", builder), axes, keepdims))
    return cast(builder.emit(R.trunc(result)), dtype, builder)


def product(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
    """The product."""
    return R.prod(x, axes, keepdims)


def square_root_of_total(
    x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder
) -> relax.Expr:
    """The square root of the sum; on integers computed in float64 and cut."""
    if is_float(x):
        return R.sqrt(builder.emit(R.sum(x, axes, keepdims)))
    result = builder.emit(R.sum(cast(x, "float64", builder), axes, keepdims))
    return cast(builder.emit(R.sqrt(result)), dtype_of(x), builder)


def log_of_total(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
    """The logarithm of the sum."""
    return _through_float(x, builder, lambda v: R.log(builder.emit(R.sum(v, axes, keepdims))))


def log_sum_exp(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
    """`log(sum(exp(x)))`, the largest element taken out first so that exp never overflows."""

    def stable(value: relax.Expr) -> relax.Expr:
        dtype = dtype_of(value)
        largest = builder.emit(R.max(value, axes, True))
        # an infinite maximum would give inf - inf
        finite = builder.emit(R.where(R.isfinite(largest), largest, scalar(0, dtype)))
        powers = builder.emit(R.exp(builder.emit(R.subtract(value, finite))))
        logs = builder.emit(R.log(builder.emit(R.sum(powers, axes, True))))
        result = builder.emit(R.add(logs, finite))
        return result if keepdims else builder.emit(R.squeeze(result, axes))

    return _through_float(x, builder, stable)


def _through_float(
    x: relax.Expr, builder: Builder, function: Callable[[relax.Expr], relax.Expr]
) -> relax.Expr:
    if is_float(x):
        return function(x)
    result = builder.emit(function(cast(x, "float64", builder)))
    return cast(result, dtype_of(x), builder)


def extremum(largest: bool) -> Callable[..., relax.Expr]:
    """The maximum or minimum; bool inputs (opset 20) as or/and."""

    def reduce(x: relax.Expr, axes: list[int], keepdims: bool, builder: Builder) -> relax.Expr:
        operator = R.max if largest else R.min
        dtype = dtype_of(x)
        if dtype == "bool":
            small = cast(x, "int8", builder)
            result = builder.emit(operator(small, axes, keepdims))
            return R.greater(result, scalar(0, "int8"))  # of nothing it is -128 or 127
        if not is_float(x):
            return operator(x, axes, keepdims)
        return infinite_extremum(x, axes, keepdims, largest, builder)

    return reduce


def infinite_extremum(
    x: relax.Expr, axes: list[int], keepdims: bool, largest: bool, builder: Builder
) -> relax.Expr:
    """Maximum or minimum that starts from an infinity.

    relax.max starts from the lowest finite number, so that a row of -inf (a fully masked row of
    attention scores) comes out finite.
    """
    reducer = _extremum_reducer(largest, infinite=True)

    def kernel(data: te.Tensor) -> te.Tensor:
        taps = {axis: te.reduce_axis((0, data.shape[axis]), name=f"k{axis}") for axis in axes}
        rank = len(data.shape)
        kept = [axis for axis in range(rank) if axis not in axes]
        shape = [1 if axis in axes else data.shape[axis] for axis in range(rank)]
        shape = shape if keepdims else [data.shape[axis] for axis in kept]

        def element(*i: Any) -> Any:
            place = dict(zip(range(rank) if keepdims else kept, i, strict=True))
            return reducer(
                data(*(taps[a] if a in taps else place[a] for a in range(rank))),
                axis=[taps[a] for a in axes],
            )

        return te.compute(tuple(shape), element, name="reduce_max" if largest else "reduce_min")

    return compute(builder, "reduce_max" if largest else "reduce_min", kernel, x)


def index_of_extremum(largest: bool) -> Callable[..., relax.Expr]:
    """A converter for ArgMax or ArgMin: int64 indices; the first (or last) of equal elements.

    Source: https://onnx.ai/onnx/operators/onnx__ArgMax.html
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        axis = node.axis("axis", rank_of(inputs[0]), 0)
        last = bool(node.int("select_last_index", 0))
        result = index_along(inputs[0], axis, largest, last, builder)
        return R.expand_dims(result, axis) if node.int("keepdims", 1) else result

    return converter


def index_along(
    x: relax.Expr, axis: int, largest: bool, last: bool, builder: Builder
) -> relax.Expr:
    """Where x has its maximum or minimum along `axis`: int64, x's shape without that axis.

    The first or last of equal elements; a NaN is before all numbers, as in NumPy. The extremum is
    taken first, and then the least index of what equals it: both run in vectors, unlike pairs.
    """
    dtype, length = dtype_of(x), shape_of(x)[axis]
    short = not is_symbolic(length) and int(length) < 2**31
    number = "int32" if short else "int64"
    none = tirx.const(-1 if last else np.iinfo(number).max, number)
    extreme = _extremum_reducer(largest, infinite=is_float(x))
    nearest = _extremum_reducer(last, infinite=False)

    def kernel(data: te.Tensor) -> te.Tensor:
        shape = [d for i, d in enumerate(data.shape) if i != axis]
        taps = [te.reduce_axis((0, data.shape[axis]), name=name) for name in ("k", "place")]

        def value(*i: Any) -> Any:
            return extreme(data(*i[:axis], taps[0], *i[axis:]), axis=taps[0])

        best = te.compute(tuple(shape), value, name="best")

        def place(*i: Any) -> Any:
            mine = data(*i[:axis], taps[1], *i[axis:])
            hit = mine == best(*i)
            if is_float(x):  # TVM knows no isnan of bfloat16
                asked = mine.astype("float32") if dtype == "bfloat16" else mine
                hit = tirx.any(hit, tirx.isnan(asked))
            return nearest(tirx.Select(hit, taps[1].var.astype(number), none), axis=taps[1])

        found = te.compute(tuple(shape), place, name="place")
        return te.compute(tuple(shape), lambda *i: found(*i).astype("int64"), name="index")

    return compute(builder, "argmax" if largest else "argmin", kernel, x)


def _extremum_reducer(largest: bool, infinite: bool) -> Callable[..., Any]:
    """Maxima or minima for te; of nothing they are infinite, or the type's last number."""

    def start(kind: Any) -> Any:
        if infinite:
            return tirx.const(float("-inf") if largest else float("inf"), str(kind))
        return (tirx.min_value if largest else tirx.max_value)(str(kind))

    combine = tirx.max if largest else tirx.min
    return te.comm_reducer(lambda a, b: combine(a, b), start, name="extremum")


def reduce_kind(name: str) -> Callable[..., relax.Expr]:
    """The converter of the Reduce operator called `name`.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html and its kin
    """
    square: Callable[[relax.Expr], relax.Expr] = lambda x: R.multiply(x, x)  # noqa: E731
    kinds: dict[str, Callable[..., relax.Expr]] = {
        "ReduceL1": reduction(total, R.abs),
        "ReduceL2": reduction(square_root_of_total, square),
        "ReduceLogSum": reduction(log_of_total),
        "ReduceLogSumExp": reduction(log_sum_exp),
        "ReduceMax": reduction(extremum(True)),
        "ReduceMean": reduction(mean),
        "ReduceMin": reduction(extremum(False)),
        "ReduceProd": reduction(product),
        "ReduceSum": reduction(total, axes_input_since=13),
        "ReduceSumSquare": reduction(total, square),
    }
    return kinds[name]
