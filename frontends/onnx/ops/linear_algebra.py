"""Det: determinants by elimination."""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.known import is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import cast, dtype_of, is_float, rank_of, reshape, shape_of

Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def determinant(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The determinant of each matrix of the last two dims, computed in float64.

    Source: https://onnx.ai/onnx/operators/onnx__Det.html
    """
    x = inputs[0]
    if rank_of(x) < 2:
        raise node.error(f"input {shape_of(x)} is no matrix")
    *outer, rows, columns = shape_of(x)
    if is_symbolic(rows) or rows != columns or not is_float(x):
        raise node.error(f"input {shape_of(x)} of {dtype_of(x)} is no square of fixed size")
    count = product(outer)
    flat = reshape(cast(x, "float64", builder), [count, rows, rows], builder)
    batch = tirx.Var("batch", "int64") if is_symbolic(count) else count
    kernel = builder.add_func(_determinant_kernel(batch, tirx.IntImm("int64", rows)), "determinant")
    shapes = [([count], "float64"), ([count, rows, rows], "float64")]
    shapes += [([count, rows], "float64"), ([count], "int64")]  # workspace, as the one before
    types = [relax.TensorType(shape, dtype) for shape, dtype in shapes]
    both = builder.emit(relax.call_tir(kernel, [flat], types))
    result = builder.emit(relax.TupleGetItem(both, 0))
    return cast(reshape(result, outer, builder), dtype_of(x), builder)


def _determinant_kernel(batch: Any, size: Any) -> tirx.PrimFunc:
    """Gaussian elimination with partial pivoting in W; the product of the pivots goes to D."""
    zero, one = tirx.const(0.0, "float64"), tirx.const(1.0, "float64")

    def larger(left: Any, right: Any) -> Any:
        return tirx.abs(left) > tirx.abs(right)

    def factor(value: Any, pivot: Any) -> Any:
        # below a zero pivot the column is zero
        return tirx.Select(pivot == zero, zero, value / pivot)

    @T.prim_func(private=True, s_tir=True)
    def eliminate(
        X: T.Buffer((batch, size, size), "float64"),
        D: T.Buffer((batch,), "float64"),
        W: T.Buffer((batch, size, size), "float64"),
        S: T.Buffer((batch, size), "float64"),
        P: T.Buffer((batch,), "int64"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            for b in T.parallel(batch):
                for i, j in T.grid(size, size):
                    W[b, i, j] = X[b, i, j]
                D[b] = one
                for k in T.serial(size):
                    P[b] = k
                    for i in T.serial(size - 1 - k):
                        if larger(W[b, k + 1 + i, k], W[b, P[b], k]):
                            P[b] = k + 1 + i
                    if P[b] != k:
                        D[b] = -D[b]
                        for j in T.serial(size):
                            S[b, j] = W[b, k, j]
                        for j in T.serial(size):
                            W[b, k, j] = W[b, P[b], j]
                        for j in T.serial(size):
                            W[b, P[b], j] = S[b, j]
                    D[b] = D[b] * W[b, k, k]
                    for i in T.serial(size - 1 - k):
                        # column k, which the factor is made of, stays as it is
                        for j in T.serial(size - 1 - k):
                            W[b, k + 1 + i, k + 1 + j] = W[b, k + 1 + i, k + 1 + j] - (
                                factor(W[b, k + 1 + i, k], W[b, k, k]) * W[b, k, k + 1 + j]
                            )

    return eliminate
