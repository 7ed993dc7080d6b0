"""Writing elements by index: ScatterElements, ScatterND; and running sums along an axis.

The kernels work on flat buffers, so one kernel serves every rank: where an update goes is an
index expression that the converter builds. Updates are applied in order, one after another.
"""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.known import product as product_of
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import run_time_axes
from athanor.frontends.onnx.ops.indexing import from_front
from athanor.frontends.onnx.tensors import cast, dtype_of, reshape, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": tirx.max,
    "min": tirx.min,
}


def scatter_elements(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y = x; y[index[i, j], j] = update[i, j]` (axis 0), with an optional reduction.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterElements.html
    """
    dims, shape = _static(node, inputs[0]), _static(node, inputs[1])
    axis = node.axis("axis", len(dims), 0)
    if len(shape) != len(dims) or shape != _static(node, inputs[2]):
        raise node.error(f"indices {shape} and updates {shape_of(inputs[2])} for input {dims}")

    def place(indices: Any, update: Any) -> Any:
        position = _unravel(update, shape)
        position[axis] = from_front(indices[update], dims[axis])
        return _ravel(position, dims)

    return _scatter(node, inputs, place, builder)


def scatter_nd(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y = x; y[indices[i]] = updates[i]`, the last dim of the indices indexing into x.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterND.html
    """
    dims, shape = _static(node, inputs[0]), _static(node, inputs[1])
    depth = shape[-1]
    if depth > len(dims) or shape[:-1] + dims[depth:] != _static(node, inputs[2]):
        raise node.error(f"indices {shape} and updates {shape_of(inputs[2])} for input {dims}")
    part = int(np.prod(dims[depth:]))

    def place(indices: Any, update: Any) -> Any:
        row, inner = tirx.floordiv(update, part), tirx.floormod(update, part)
        position = [from_front(indices[row * depth + k], dims[k]) for k in range(depth)]
        return _ravel(position, dims[:depth]) * part + inner

    return _scatter(node, inputs, place, builder)


def _static(node: Node, value: relax.Expr) -> list[int]:
    dims = shape_of(value)
    if any(is_symbolic(dim) for dim in dims):
        raise node.error(f"input {dims} has a symbolic dimension; fix it with shapes=")
    return dims


def _unravel(flat: Any, dims: list[int]) -> list[Any]:
    position: list[Any] = []
    for dim in reversed(dims):
        position.insert(0, tirx.floormod(flat, dim))
        flat = tirx.floordiv(flat, dim)
    return position


def _ravel(position: list[Any], dims: list[int]) -> Any:
    flat: Any = tirx.const(0, "int64")
    for index, dim in zip(position, dims, strict=True):
        flat = flat * dim + index
    return flat


def _scatter(
    node: Node, inputs: Inputs, place: Callable[[Any, Any], Any], builder: Builder
) -> relax.Expr:
    x, dims = inputs[0], shape_of(inputs[0])
    reduction = node.string("reduction", "none")
    if reduction not in _COMBINE:
        raise node.error(f"reduction={reduction!r} is none of {sorted(_COMBINE)}")
    counts = [int(np.prod(shape_of(value))) for value in inputs[:3]]
    if 0 in counts:
        return x
    dtype = dtype_of(x)
    if dtype == "bool":  # bytes, so that reductions are arithmetic
        x = cast(x, "uint8", builder)
    indices = cast(inputs[1], "int64", builder)
    updates = cast(inputs[2], dtype_of(x), builder)
    flat = [reshape(v, [n], builder) for v, n in zip((x, indices, updates), counts, strict=True)]
    size, index_count, update_count = counts
    combine = _COMBINE[reduction]
    function = _scatter_kernel(size, index_count, update_count, dtype_of(x), place, combine)
    kernel = builder.add_func(function, "scatter")
    call = relax.call_tir(kernel, flat, relax.TensorType([counts[0]], dtype_of(x)))
    return cast(reshape(builder.emit(call), dims, builder), dtype, builder)


def _scatter_kernel(
    size: int,
    index_count: int,
    update_count: int,
    dtype: str,
    place: Callable[[Any, Any], Any],
    combine: Callable[[Any, Any], Any],
) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def scatter(
        X: T.Buffer((size,), dtype),
        I: T.Buffer((index_count,), "int64"),  # noqa: E741
        U: T.Buffer((update_count,), dtype),
        Y: T.Buffer((size,), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "scatter"})
        for i in T.serial(size):
            with T.sblock("scatter_copy"):
                vi = T.axis.spatial(size, i)
                Y[vi] = X[vi]
        for u in T.serial(update_count):
            with T.sblock("scatter_update"):
                vu = T.axis.opaque(update_count, u)
                Y[place(I, vu)] = combine(Y[place(I, vu)], U[vu])

    return scatter


def cumulative(product: bool) -> Callable[..., relax.Expr]:
    """A converter for CumSum or CumProd along the axis in input 1.

    Attributes: exclusive (the element itself is left out), reverse (from the end).
    Source: https://onnx.ai/onnx/operators/onnx__CumSum.html
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        x = inputs[0]
        dims = shape_of(x)
        if any(not is_symbolic(dim) and dim == 0 for dim in dims):
            return x
        if run_time_axes.is_run_time(node, 1, inputs):
            sizes = run_time_axes.around_axis(node, x, inputs[1], builder)
        else:
            axis = node.normalize_axis(int(node.constant(1, "axis").item()), len(dims))
            sizes = [product_of(dims[:axis]), dims[axis], product_of(dims[axis + 1 :])]
        flat = reshape(x, sizes, builder)
        outer, length, inner = (
            tirx.Var(name, "int64") if is_symbolic(size) else size
            for name, size in zip(("outer", "length", "inner"), sizes, strict=True)
        )
        function = _cumulative_kernel(
            (outer, length, inner),
            dtype_of(x),
            product,
            bool(node.int("exclusive", 0)),
            bool(node.int("reverse", 0)),
        )
        kernel = builder.add_func(function, node.op.lower())
        call = relax.call_tir(kernel, [flat], flat.ty)
        return reshape(builder.emit(call), dims, builder)

    return converter


def _cumulative_kernel(
    dims: tuple[Any, Any, Any], dtype: str, product: bool, exclusive: bool, reverse: bool
) -> tirx.PrimFunc:
    outer, length, inner = dims  # ints, or variables of the kernel's own
    start = tirx.const(1 if product else 0, dtype)

    def at(k: Any) -> Any:
        return length - 1 - k if reverse else k

    def source(k: Any) -> Any:
        """The element that step k takes in; clamped, because step 0 may take none."""
        return at(tirx.max(k - 1, 0)) if exclusive else at(k)

    def before(k: Any) -> Any:
        return at(tirx.max(k - 1, 0))

    def combine(k: Any, total: Any, element: Any) -> Any:
        first = start if exclusive else element
        return tirx.Select(k == 0, first, total * element if product else total + element)

    @T.prim_func(private=True, s_tir=True)
    def cumulate(
        X: T.Buffer((outer, length, inner), dtype), Y: T.Buffer((outer, length, inner), dtype)
    ) -> None:
        # kOpaque, so that nothing is fused with it: TVM takes a scan for an injective function.
        T.func_attr({"tirx.noalias": True, "athanor.op": "cumulative", "op_pattern": 8})
        for o, k, i in T.grid(outer, length, inner):
            with T.sblock("cumulate"):
                vo = T.axis.spatial(outer, o)
                vk = T.axis.opaque(length, k)
                vi = T.axis.spatial(inner, i)
                Y[vo, at(vk), vi] = combine(vk, Y[vo, before(vk), vi], X[vo, source(vk), vi])

    return cumulate
