"""Matrix products."""

from __future__ import annotations

from tvm import relax

from athanor.frontends.onnx.known import is_equal, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import cast_shape, unify
from athanor.frontends.onnx.tensors import accumulation_dtype, dtype_of, rank_of, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def matmul(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """NumPy's matmul: the last two dims multiply, the others broadcast.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    a, b = inputs
    return _product(*matched(a, b, builder), builder)


def matched(a: relax.Expr, b: relax.Expr, builder: Builder) -> tuple[relax.Expr, relax.Expr]:
    """Operands of a product whose sums have one length and whose batches are of equal dimensions.

    What the model leaves open is compared when it runs; a symbol beside a number becomes it, so
    that a constant operand stays one.
    """
    dims, depth = list(shape_of(b)), max(rank_of(b) - 2, 0)
    left, right = shape_of(a)[-1], dims[depth]
    if is_symbolic(left) and not is_symbolic(right):
        a = cast_shape(a, [*shape_of(a)[:-1], right], builder)
    elif is_symbolic(left) != is_symbolic(right) or not is_equal(left, right):
        b = cast_shape(b, [*dims[:depth], left, *dims[depth + 1 :]], builder)
    if rank_of(a) > 1 and rank_of(b) > 1:
        a, b = unify([a, b], builder, keep=2)
    return a, b


def _product(a: relax.Expr, b: relax.Expr, builder: Builder) -> relax.Expr:
    dtype = dtype_of(a)
    wide = accumulation_dtype(dtype)
    if wide == dtype:
        return R.matmul(a, b)
    return R.astype(builder.emit(R.matmul(a, b, out_dtype=wide)), dtype)


def gemm(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`alpha * A' @ B' + beta * C`; C is optional and broadcasts to (M, N).

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    a, b = inputs[0], inputs[1]
    for operand, what in ((a, "A"), (b, "B")):
        if rank_of(operand) != 2:
            raise node.error(f"{what} has rank {rank_of(operand)}, expected 2")
    if node.int("transA", 0):  # A is (K, M)
        a = builder.emit(R.permute_dims(a))
    if node.int("transB", 0):  # B is (N, K)
        b = builder.emit(R.permute_dims(b))
    result = _product(*matched(a, b, builder), builder)
    dtype = dtype_of(inputs[0])
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    if alpha != 1.0:
        result = R.multiply(builder.emit(result), scalar(alpha, dtype))
    if not node.has_input(2, inputs) or beta == 0.0:
        return result
    c = inputs[2]
    if beta != 1.0:
        c = builder.emit(R.multiply(c, scalar(beta, dtype)))
    return R.add(builder.emit(result), c)
