"""Concatenations and slices of blocked values; None leaves one to the plain layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import relax
from tvm.ir import Call, Expr

from athanor.compiler.passes.rewrite import static_shape

if TYPE_CHECKING:
    from athanor.compiler.passes.block_layouts import LayoutRewriter


def concat(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    """Whole blocks of channels one behind the other, or rows and columns of blocked values."""
    parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    axis = int(call.attrs.axis) % 4
    if axis in (2, 3):
        return _join(graph, parts, axis, name)
    if not any(graph.is_blocked(part) for part in parts) or axis != 1:
        return None
    operands, total = [], 0
    for part in parts:
        channels = graph.channels.get(part)
        if channels is None:
            channels = _float_channels(part)
        if channels is None or total % graph.block:  # only the last may leave its block open
            return None
        operands.append(graph.blocked(part, channels))
        total += channels
    made = relax.op.concat(operands, axis=1)
    return graph.emit_blocked(made, total, name)


def _join(graph: LayoutRewriter, parts: list[Expr], axis: int, name: str) -> Expr | None:
    if not parts or not all(graph.is_blocked(part) for part in parts):
        return None
    return graph.emit_blocked(relax.op.concat(parts, axis=axis), graph.channels[parts[0]], name)


def _float_channels(value: Expr) -> int | None:
    ty = value.ty
    if not isinstance(ty, relax.TensorType) or str(ty.dtype) != "float32":
        return None
    shape = static_shape(value)
    return shape[1] if shape is not None and len(shape) == 4 else None


def strided_slice(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    """Rows and columns of a blocked value."""
    value, axes = call.args[0], call.args[1]
    if not graph.is_blocked(value) or not isinstance(axes, relax.Tuple):
        return None
    if any(int(getattr(axis, "value", axis)) not in (2, 3) for axis in axes.fields):
        return None
    made = relax.Call(call.op, list(call.args), call.attrs, ty_args=call.ty_args)
    return graph.emit_blocked(made, graph.channels[value], name)
