"""Reductions that keep the other axes in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx


def reduce_rows(
    x: te.Tensor,
    axes: Sequence[int],
    combine: Callable[..., tirx.Expr],
    name: str,
    element: Callable[..., tirx.Expr] | None = None,
) -> te.Tensor:
    """`combine` (te.sum, te.max, ...) over `axes` of x; the result lacks those axes.

    What is combined is x, or `element(indices of x)` where that is given.
    """
    reduced = sorted(axis % x.ndim for axis in axes)
    iterators = {axis: te.reduce_axis((0, x.shape[axis]), name=f"k{axis}") for axis in reduced}
    kept = [axis for axis in range(x.ndim) if axis not in iterators]
    reducer = te.max if combine is tirx.max else combine

    def compute(*indices: tirx.Expr) -> tirx.Expr:
        place = dict(zip(kept, indices, strict=True))
        full = [iterators[a] if a in iterators else place[a] for a in range(x.ndim)]
        value = x(*full) if element is None else element(*full)
        return reducer(value, axis=list(iterators.values()))

    return te.compute([x.shape[axis] for axis in kept], compute, name=name)


def kept_indices(indices: Sequence[tirx.Expr], axes: Sequence[int]) -> list[tirx.Expr]:
    """Those of `indices` (one an axis) that are not of `axes`."""
    dropped = {axis % len(indices) for axis in axes}
    return [index for axis, index in enumerate(indices) if axis not in dropped]
