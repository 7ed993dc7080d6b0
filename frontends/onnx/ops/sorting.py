"""TopK: the largest or smallest elements along an axis."""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.known import constant, is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import dtype_of, np_dtype, reshape, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def top_k(node: Node, inputs: Inputs, builder: Any) -> tuple[relax.Expr, relax.Expr]:
    """Values and int64 indices of the k largest (or smallest) elements, in order.

    Of equal elements the one with the lower index comes first. k is the attribute (opset 9 and
    older) or input 1.
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
    outer, inner = product(dims[:axis]), product(dims[axis + 1 :])
    flat = reshape(x, [outer, dims[axis], inner], builder)
    outer_size, length, inner_size, count = (
        tirx.Var(name, "int64") if is_symbolic(size) else size
        for name, size in (("o", outer), ("n", dims[axis]), ("i", inner), ("k", k))
    )
    function = _top_k_kernel(
        outer_size, length, inner_size, count, dtype, bool(node.int("largest", 1))
    )
    kernel = builder.add_func(function, "top_k")
    types = [relax.TensorType([outer, k, inner], kind) for kind in (dtype, "int64")]
    call = builder.emit(relax.call_tir(kernel, [flat], types))
    parts = [builder.emit(relax.TupleGetItem(call, i)) for i in range(2)]
    return reshape(parts[0], result_dims, builder), reshape(parts[1], result_dims, builder)


def _top_k_kernel(
    outer: Any, length: Any, inner: Any, k: Any, dtype: str, largest: bool
) -> tirx.PrimFunc:
    """Selection: each of k passes finds the best element that comes after the previous one."""

    def better(left: Any, right: Any) -> Any:
        return left > right if largest else left < right

    def comes_after(value: Any, index: Any, last: Any, last_index: Any, rank: Any) -> Any:
        later = tirx.any(better(last, value), tirx.all(last == value, index > last_index))
        return tirx.any(rank == 0, later)

    def wins(value: Any, index: Any, best: Any, best_index: Any) -> Any:
        return tirx.any(best_index < 0, better(value, best))

    zero, none = tirx.const(0, dtype), tirx.const(-1, "int64")

    @T.prim_func(private=True, s_tir=True)
    def select(
        X: T.Buffer((outer, length, inner), dtype),
        V: T.Buffer((outer, k, inner), dtype),
        N: T.Buffer((outer, k, inner), "int64"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "top_k"})
        for o, i, r in T.grid(outer, inner, k):
            with T.sblock("top_k_start"):
                vo = T.axis.spatial(outer, o)
                vi = T.axis.spatial(inner, i)
                vr = T.axis.opaque(k, r)
                V[vo, vr, vi] = zero
                N[vo, vr, vi] = none
            for j in T.serial(length):
                with T.sblock("top_k_scan"):
                    vo = T.axis.spatial(outer, o)
                    vi = T.axis.spatial(inner, i)
                    vr = T.axis.opaque(k, r)
                    vj = T.axis.opaque(length, j)
                    if comes_after(
                        X[vo, vj, vi],
                        vj,
                        V[vo, tirx.max(vr - 1, 0), vi],
                        N[vo, tirx.max(vr - 1, 0), vi],
                        vr,
                    ) and wins(X[vo, vj, vi], vj, V[vo, vr, vi], N[vo, vr, vi]):
                        V[vo, vr, vi] = X[vo, vj, vi]
                        N[vo, vr, vi] = T.cast(vj, "int64")

    return select
