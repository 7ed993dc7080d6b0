"""Normalizations over the elements of a row, a channel or a group of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from athanor.schedules.blocks import constant
from athanor.schedules.compute.rows import kept_indices, reduce_rows


def layer_norm(
    x: te.Tensor,
    gamma: te.Tensor | None,
    beta: te.Tensor | None,
    axes: Sequence[int],
    epsilon: float,
) -> te.Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, statistics over `axes`.

    x: any shape, float; gamma, beta: the shape of `axes`, in their order, or None.
    The variance is that of x - mean, in a second pass: the one-pass form E[x^2] - E[x]^2 cancels.
    """
    reduced = sorted(axis % x.ndim for axis in axes)
    shift, scale = _statistics(x, reduced, epsilon, centered=True)
    assert shift is not None

    def normalized(*i: tirx.Expr) -> tirx.Expr:
        row, place = kept_indices(i, reduced), [i[axis % x.ndim] for axis in axes]
        value = (x(*i) - shift(*row)) * scale(*row)
        return _affine(value, gamma, beta, place)

    return te.compute(x.shape, normalized, name="layer_norm")


def rms_norm(
    x: te.Tensor, gamma: te.Tensor | None, axes: Sequence[int], epsilon: float
) -> te.Tensor:
    """`x / sqrt(mean(x^2) + epsilon) * gamma`, the mean over `axes`; shapes as `layer_norm`."""
    reduced = sorted(axis % x.ndim for axis in axes)
    _, scale = _statistics(x, reduced, epsilon, centered=False)

    def normalized(*i: tirx.Expr) -> tirx.Expr:
        row, place = kept_indices(i, reduced), [i[axis % x.ndim] for axis in axes]
        return _affine(x(*i) * scale(*row), gamma, None, place)

    return te.compute(x.shape, normalized, name="rms_norm")


def instance_norm(
    x: te.Tensor,
    gamma: te.Tensor | None,
    beta: te.Tensor | None,
    epsilon: float,
    channel_axis: int = 1,
) -> te.Tensor:
    """Each channel of each sample on its own. x: (N, C, ...), or C elsewhere; gamma, beta: (C,)."""
    channel_axis %= x.ndim
    reduced = [axis for axis in range(1, x.ndim) if axis != channel_axis]
    shift, scale = _statistics(x, reduced, epsilon, centered=True)
    assert shift is not None

    def normalized(*i: tirx.Expr) -> tirx.Expr:
        row = kept_indices(i, reduced)
        return _affine((x(*i) - shift(*row)) * scale(*row), gamma, beta, [i[channel_axis]])

    return te.compute(x.shape, normalized, name="instance_norm")


def instance_norm_blocked(
    x: te.Tensor, gamma: te.Tensor, beta: te.Tensor, epsilon: float
) -> te.Tensor:
    """`instance_norm` of channels in blocks. x: (N, C/b, H, W, b); gamma, beta: (C/b, b)."""
    shift, scale = _statistics(x, [2, 3], epsilon, centered=True)
    assert shift is not None

    def normalized(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr, lane: tirx.Expr) -> Any:
        value = (x(n, c, h, w, lane) - shift(n, c, lane)) * scale(n, c, lane)
        return _affine(value, gamma, beta, [c, lane])

    return te.compute(x.shape, normalized, name="instance_norm")


def group_norm(
    x: te.Tensor,
    gamma: te.Tensor | None,
    beta: te.Tensor | None,
    groups: int,
    epsilon: float,
    channel_axis: int = 1,
) -> te.Tensor:
    """Channels in `groups` equal groups; shapes as `instance_norm`, C static."""
    channel_axis %= x.ndim
    channels = constant(x.shape[channel_axis])
    assert channels is not None and channels % groups == 0
    size = channels // groups
    others = [x.shape[axis] for axis in range(1, x.ndim) if axis != channel_axis]

    def element(n: tirx.Expr, g: tirx.Expr, c: tirx.Expr, *i: tirx.Expr) -> tirx.Expr:
        return x(n, *i[: channel_axis - 1], g * size + c, *i[channel_axis - 1 :])

    grouped = te.compute((x.shape[0], groups, size, *others), element, name="groups")
    reduced = list(range(2, grouped.ndim))
    shift, scale = _statistics(grouped, reduced, epsilon, centered=True)
    assert shift is not None

    def normalized(*i: tirx.Expr) -> tirx.Expr:
        row = (i[0], tirx.floordiv(i[channel_axis], size))
        return _affine((x(*i) - shift(*row)) * scale(*row), gamma, beta, [i[channel_axis]])

    return te.compute(x.shape, normalized, name="group_norm")


def _statistics(
    x: te.Tensor, axes: list[int], epsilon: float, centered: bool
) -> tuple[te.Tensor | None, te.Tensor]:
    """Mean (None unless `centered`) and 1 / sqrt(variance + epsilon), without `axes`."""
    count: tirx.Expr | int = 1
    for axis in axes:
        count = count * x.shape[axis]
    known = constant(count)
    if known is not None:
        share = tirx.const(1.0 / max(1, known), x.dtype)
    else:
        share = tirx.const(1.0, x.dtype) / count.astype(x.dtype)
    mean = None
    if centered:
        total = reduce_rows(x, axes, te.sum, "norm_sum")
        mean = te.compute(total.shape, lambda *i: total(*i) * share, name="norm_mean")

    def square(*i: tirx.Expr) -> tirx.Expr:
        value = x(*i) if mean is None else x(*i) - mean(*kept_indices(i, axes))
        return value * value

    squares = reduce_rows(x, axes, te.sum, "norm_squares", square)
    scale = te.compute(
        squares.shape,
        lambda *i: tirx.rsqrt(squares(*i) * share + tirx.const(epsilon, x.dtype)),
        name="norm_scale",
    )
    return mean, scale


def _affine(
    value: tirx.Expr, gamma: te.Tensor | None, beta: te.Tensor | None, place: Sequence[tirx.Expr]
) -> tirx.Expr:
    if gamma is not None:
        value = value * gamma(*place)
    return value if beta is None else value + beta(*place)
