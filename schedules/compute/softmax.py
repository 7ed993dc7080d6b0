"""Softmax and its logarithm."""

from __future__ import annotations

from tvm import te, tirx

from athanor.schedules.compute.rows import reduce_rows


def softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`exp(x - max) / sum(exp(x - max))` along `axis`.

    x and result: any shape, float. The exponentials are computed once; one division a row.
    """
    highest = reduce_rows(x, [axis], tirx.max, "softmax_max")
    exponential = te.compute(
        x.shape, lambda *i: tirx.exp(x(*i) - highest(*_row(i, axis, x.ndim))), name="softmax_exp"
    )
    total = reduce_rows(exponential, [axis], te.sum, "softmax_sum")
    scale = te.compute(
        total.shape, lambda *i: tirx.const(1, x.dtype) / total(*i), name="softmax_scale"
    )
    return te.compute(
        x.shape,
        lambda *i: exponential(*i) * scale(*_row(i, axis, x.ndim)),
        name="softmax",
    )


def log_softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`x - max - log(sum(exp(x - max)))` along `axis`; shapes as for `softmax`."""
    highest = reduce_rows(x, [axis], tirx.max, "log_softmax_max")
    exponential = te.compute(
        x.shape,
        lambda *i: tirx.exp(x(*i) - highest(*_row(i, axis, x.ndim))),
        name="log_softmax_exp",
    )
    total = reduce_rows(exponential, [axis], te.sum, "log_softmax_sum")
    shift = te.compute(
        total.shape, lambda *i: highest(*i) + tirx.log(total(*i)), name="log_softmax_shift"
    )
    return te.compute(x.shape, lambda *i: x(*i) - shift(*_row(i, axis, x.ndim)), name="log_softmax")


def _row(indices: tuple[tirx.Var, ...], axis: int, rank: int) -> list[tirx.Var]:
    axis %= rank
    return [*indices[:axis], *indices[axis + 1 :]]
