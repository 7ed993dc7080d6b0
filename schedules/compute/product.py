"""Matrix products as GPUs compute them: operands as they lie, in either order of their axes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from athanor.schedules.blocks import constant


def product(a: te.Tensor, b: te.Tensor, swap_a: bool, swap_b: bool, out_dtype: str) -> te.Tensor:
    """`a @ b` over leading batch axes that are equal or 1.

    a: (..., M, K), or (..., K, M) where swap_a; b: (..., K, N), or (..., N, K) where swap_b; ranks
    may differ. Result: (..., M, N) of `out_dtype`, added up in it.
    """
    *batch_a, a0, a1 = a.shape
    *batch_b, b0, b1 = b.shape
    rows, depth = (a1, a0) if swap_a else (a0, a1)
    columns = b0 if swap_b else b1
    rank = max(len(batch_a), len(batch_b))
    batch = [_dim(batch_a, batch_b, axis - rank) for axis in range(rank)]
    k = te.reduce_axis((0, depth), name="k")

    def place(outer: Sequence[tirx.Expr], dims: Sequence[tirx.Expr]) -> list[tirx.Expr | int]:
        last = outer[len(outer) - len(dims) :]
        return [0 if constant(dim) == 1 else i for i, dim in zip(last, dims, strict=True)]

    def element(*indices: tirx.Expr) -> tirx.Expr:
        *outer, i, j = indices
        left = a(*place(outer, batch_a), *((k, i) if swap_a else (i, k)))
        right = b(*place(outer, batch_b), *((j, k) if swap_b else (k, j)))
        return te.sum(left.astype(out_dtype) * right.astype(out_dtype), axis=k)

    return te.compute((*batch, rows, columns), element, name="matmul")


def _dim(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr], axis: int) -> tirx.Expr | int:
    """The broadcast extent of an axis counted from the end."""
    found = [dims[axis] for dims in (a, b) if -axis <= len(dims)]
    return next((dim for dim in found if constant(dim) != 1), found[0])
