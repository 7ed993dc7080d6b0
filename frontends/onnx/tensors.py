"""Questions about relax tensors, and the few constructions that every converter family needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import as_int, constant

FLOATS = ("float16", "float32", "float64", "bfloat16")


def shape_of(expr: relax.Expr) -> list[Any]:
    """The dimensions: ints, and expressions where symbolic."""
    shape = expr.ty.shape
    if shape is None:  # Relax gives up where dims may not fit; the importer names the node
        raise ValueError("the shape of an operand does not follow from those of the inputs")
    return [as_int(dim) for dim in shape.values]


def rank_of(expr: relax.Expr) -> int:
    """The number of dimensions."""
    return len(shape_of(expr))


def dtype_of(expr: relax.Expr) -> str:
    """The element type by name, such as `float32`."""
    return str(expr.ty.dtype)


def is_float(expr: relax.Expr) -> bool:
    """Whether the elements are floating point numbers."""
    return dtype_of(expr) in FLOATS


def scalar(value: float | int | bool, dtype: str) -> relax.Expr:
    """A rank-0 constant."""
    return constant(np.asarray(value).astype(np_dtype(dtype)))


def np_dtype(name: str) -> np.dtype:
    """The NumPy dtype of that name, ml_dtypes' (bfloat16, float8) included."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def as_constant(expr: relax.Expr) -> np.ndarray | None:
    """The elements of a relax constant (a view), None for anything else."""
    if not isinstance(expr, tvm.ir.GenericConst):
        return None
    return expr.value.numpy()


def reshape(expr: relax.Expr, shape: Sequence[Any], builder: relax.BlockBuilder) -> relax.Expr:
    """`expr` with another shape; nothing is emitted when it has that shape already."""
    have = shape_of(expr)
    if len(have) == len(shape) and all(
        a is b or (isinstance(a, int) and isinstance(b, int) and a == b)
        for a, b in zip(have, shape, strict=True)
    ):
        return expr
    if any(isinstance(dim, int) and dim == 0 for dim in shape):
        # relax.reshape takes a 0 for "keep the dimension"
        return builder.emit(relax.op.zeros(relax.ShapeExpr(list(shape)), dtype_of(expr)))
    value = as_constant(expr)
    if value is not None and value.size <= 1 << 20 and all(isinstance(d, int) for d in shape):
        return constant(value.reshape(tuple(shape)), dtype_of(expr))
    return builder.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))


def cast(expr: relax.Expr, dtype: str, builder: relax.BlockBuilder) -> relax.Expr:
    """`expr` in another element type; nothing is emitted when it has that type already."""
    if dtype_of(expr) == dtype:
        return expr
    return builder.emit(relax.op.astype(expr, dtype))


def per_channel(
    expr: relax.Expr, rank: int, builder: relax.BlockBuilder, axis: int = 1
) -> relax.Expr:
    """A vector (C,) as (1, C, 1, ...), to broadcast along `axis` of a rank-`rank` tensor."""
    shape = [1] * rank
    shape[axis] = shape_of(expr)[0]
    return reshape(expr, shape, builder)


def accumulation_dtype(dtype: str) -> str:
    """What sums of `dtype` are kept in: float32 for the 16-bit floats, whose sums drift."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def filled(shape: Sequence[Any], value: float, dtype: str, builder: relax.BlockBuilder) -> Any:
    """A tensor with the same value everywhere; relax.full can't be lowered for infinities."""

    def kernel(dims: list[Any]) -> te.Tensor:
        return te.compute(tuple(dims), lambda *_: tirx.const(value, dtype), name="fill")

    return compute(builder, "fill", kernel, relax.ShapeExpr(list(shape)))


def compute(
    builder: relax.BlockBuilder, name: str, function: Callable[..., Any], *arguments: Any
) -> relax.Expr:
    """Emit a tensor expression as a kernel called `name`; a tuple when it has many outputs."""
    return builder.emit(builder.call_te(function, *arguments, primfunc_name_hint=name))
