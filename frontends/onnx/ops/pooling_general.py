"""Pooling as one tensor expression: for windows that Relax's pooling operators don't describe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.windows import Windows, pool_windows
from athanor.frontends.onnx.tensors import (
    dtype_of,
    filled,
    is_float,
    rank_of,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def average_general(x: relax.Expr, pool: Windows, include: bool, builder: Builder) -> relax.Expr:
    """The mean over each window's elements in the image; with `include` over pads as zeros too.

    What ceil_mode's last window has past the pads never counts.
    """

    def kernel(data: te.Tensor, pool: Windows) -> te.Tensor:
        total = _windowed(data, pool, lambda value: value, "window_sum")

        def element(n: Any, c: Any, *place: Any) -> Any:
            count: Any = 1
            for axis, position in enumerate(place):
                count = count * elements_inside(pool, axis, position)
            return total(n, c, *place) / count.astype(data.dtype)

        return te.compute(total.shape, element, name="average_pool")

    def elements_inside(pool: Windows, axis: int, position: Any) -> Any:
        # taps with 0 <= start + tap * step < limit
        step = pool.dilations[axis]
        start = position * pool.strides[axis] - pool.begins[axis]
        limit = pool.dims[axis] + (pool.ends[axis] - pool.past[axis] if include else 0)
        last = tirx.min(tirx.floordiv(limit - start + step - 1, step), pool.kernel[axis])
        first = 0 if include else tirx.max(tirx.floordiv(step - 1 - start, step), 0)
        return last - first

    return pool.compute(builder, "average_pool", kernel, x)


def max_general(x: relax.Expr, pool: Windows, builder: Builder) -> relax.Expr:
    """The largest element of each window; pads never win."""
    lowest = _lowest(x)

    def kernel(data: te.Tensor, pool: Windows) -> te.Tensor:
        taps = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(pool.kernel)]

        def element(n: Any, c: Any, *place: Any) -> Any:
            source, inside = pool.source(data, place, taps)
            return te.max(tirx.if_then_else(inside, data(n, c, *source), lowest), axis=taps)

        return te.compute((*data.shape[:2], *pool.counts), element, name="max_pool")

    return pool.compute(builder, "max_pool", kernel, x)


def _lowest(x: relax.Expr) -> Any:
    dtype = dtype_of(x)
    return tirx.const(-np.inf, dtype) if is_float(x) else tirx.min_value(dtype)


def lp_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(sum of |x|^p) ^ (1/p)` over each window; pads count as 0.

    Source: https://onnx.ai/onnx/operators/onnx__LpPool.html
    """
    x, pool = inputs[0], pool_windows(node, inputs[0])
    p = node.int("p", 2)
    if p < 1:
        raise node.error(f"p={p} is not positive")

    shape = [*shape_of(x)[:2], *pool.counts]
    if 0 in shape:
        return filled(shape, 0, dtype_of(x), builder)

    def raised(value: Any) -> Any:
        size = tirx.abs(value)
        return (
            tirx.power(size, tirx.const(p, dtype_of(x)))
            if p > 2
            else (size if p == 1 else value * value)
        )

    def kernel(data: te.Tensor, pool: Windows) -> te.Tensor:
        total = _windowed(data, pool, raised, "window_sum")

        def root(*i: Any) -> Any:
            if p == 1:
                return total(*i)
            if p == 2:
                return tirx.sqrt(total(*i))
            return tirx.power(total(*i), tirx.const(1.0 / p, data.dtype))

        return te.compute(total.shape, root, name="lp_pool")

    return pool.compute(builder, "lp_pool", kernel, x)


def global_lp_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(sum of |x|^p) ^ (1/p)` over all spatial dims, kept as 1.

    Source: https://onnx.ai/onnx/operators/onnx__GlobalLpPool.html
    """
    x, p = inputs[0], node.int("p", 2)
    axes = list(range(2, rank_of(x)))
    dtype = dtype_of(x)
    powers = builder.emit(R.power(builder.emit(R.abs(x)), scalar(p, dtype)))
    total = builder.emit(R.sum(powers, axes, keepdims=True))
    return R.power(total, scalar(1.0 / p, dtype))


def _windowed(
    data: te.Tensor, pool: Windows, function: Callable[[Any], Any], name: str
) -> te.Tensor:
    """The sum of `function` over each window; positions outside the image add nothing."""
    taps = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(pool.kernel)]

    def element(n: Any, c: Any, *place: Any) -> Any:
        source, inside = pool.source(data, place, taps)
        value = tirx.if_then_else(inside, function(data(n, c, *source)), tirx.const(0, data.dtype))
        return te.sum(value, axis=taps)

    return te.compute((*data.shape[:2], *pool.counts), element, name=name)


def max_with_indices(
    node: Node, x: relax.Expr, pool: Windows, builder: Builder
) -> tuple[relax.Expr, relax.Expr]:
    """The largest element of each window and its flat index in x; the first of equal ones.

    storage_order=1 counts an image's elements column by column.
    """
    order = node.int("storage_order", 0)
    lowest = _lowest(x)

    def combine(left: Any, right: Any) -> tuple[Any, Any]:
        first = tirx.all(left[1] == right[1], left[0] < right[0])
        keep = tirx.any(left[1] > right[1], first)
        return tirx.Select(keep, left[0], right[0]), tirx.Select(keep, left[1], right[1])

    none = tirx.const(np.iinfo(np.int64).max, "int64")

    def identity(_index: Any, _value: Any) -> tuple[Any, Any]:
        return none, lowest

    reducer = te.comm_reducer(combine, identity, name="argmax")

    def kernel(data: te.Tensor, pool: Windows) -> list[te.Tensor]:
        taps = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(pool.kernel)]

        def element(n: Any, c: Any, *place: Any) -> Any:
            source, inside = pool.source(data, place, taps)
            axes = list(range(pool.rank))
            flat: Any = n * data.shape[1] + c
            image: Any = tirx.const(0, "int64")
            for axis in reversed(axes) if order else axes:
                image = image * data.shape[axis + 2] + source[axis]
            extent: Any = 1
            for axis in axes:
                extent = extent * data.shape[axis + 2]
            index = tirx.if_then_else(inside, flat * extent + image, none)
            value = tirx.if_then_else(inside, data(n, c, *source), lowest)
            return reducer((index, value), axis=taps)

        shape = (*data.shape[:2], *pool.counts)
        index, value = te.compute(shape, element, name="max_pool")
        return [
            te.compute(shape, lambda *i: value(*i), name="values"),
            te.compute(shape, lambda *i: index(*i), name="indices"),
        ]

    both = pool.compute(builder, "max_pool_indices", kernel, x)
    values, indices = (builder.emit(relax.TupleGetItem(both, i)) for i in range(2))
    return values, indices
