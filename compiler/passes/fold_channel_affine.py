"""Fold batch normalization and other per-channel arithmetic into convolution weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    call_of,
    constant_array,
    op_name,
    static_shape,
)

_TRANSPOSED = {f"relax.nn.conv{rank}d_transpose" for rank in (1, 2, 3)}
_CONVOLUTIONS = {"relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d", *_TRANSPOSED}


@tvm.transform.module_pass(opt_level=0, name="FoldChannelAffine")
class FoldChannelAffine:
    """Move per-channel scale and shift behind a convolution into its weights and one bias.

        c = R.nn.conv2d(x, w)                    c = R.nn.conv2d(x, w * s)
        b = R.nn.batch_norm(c, ...)[0]     =>    b = R.add(c, t)

    with s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, in float64. Batch
    normalization elsewhere becomes multiply and add by constants. Also `multiply`, `add` and
    `subtract` by per-channel constants behind a convolution with one use. Before layouts are
    chosen: it reads NCHW weights. Changes outputs by rounding only.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def substitute(self, expr: Expr) -> Expr:
        new = super().substitute(expr)
        if isinstance(new, relax.TupleGetItem):
            made = self.definition.get(new.tuple_value)
            if made is not None and isinstance(made, relax.Tuple):
                return made.fields[new.index]
        return new

    def concerns(self, call: Call) -> bool:
        return op_name(call) in (
            "relax.nn.batch_norm",
            "relax.add",
            "relax.subtract",
            "relax.multiply",
        )

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        if kind == "relax.nn.batch_norm":
            return self.batch_norm(call, name)
        if kind in ("relax.add", "relax.subtract", "relax.multiply"):
            value, other = call.args[0], call.args[1]
            if isinstance(value, GenericConst) and kind != "relax.subtract":
                value, other = other, value
            channels = self.per_channel(value, other)
            if channels is None or self.convolution(value) is None:
                return None
            if kind == "relax.multiply":
                return self.affine(value, channels, np.zeros_like(channels), name)
            shift = channels if kind == "relax.add" else -channels
            return self.affine(value, np.ones_like(channels), shift, name)
        return None

    def batch_norm(self, call: Call, name: str) -> Expr | None:
        arrays = [self.constant(arg) for arg in call.args[1:5]]
        if any(array is None for array in arrays) or int(call.attrs.axis) != 1:
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        if not call.attrs.scale:
            gamma = np.ones_like(gamma)
        if not call.attrs.center:
            beta = np.zeros_like(beta)
        scale = gamma / np.sqrt(variance + float(call.attrs.epsilon))
        result = self.affine(call.args[0], scale, beta - mean * scale, name)
        made = relax.Tuple([result, call.args[3], call.args[4]])
        return self.emit(made, f"{name}_all")

    def affine(self, value: Expr, scale: np.ndarray, shift: np.ndarray, name: str) -> Expr:
        """`value * scale + shift` per channel, inside the convolution where there is one."""
        found = self.convolution(value)
        if found is None:
            product = self.emit(relax.op.multiply(value, self.channels(scale, value)), name)
            return self.emit(relax.op.add(product, self.channels(shift, value)), name)
        convolution, bias = found
        self.absorb(value)
        weight = constant_array(convolution.args[1])
        if np.any(scale != 1):
            folded = array_constant(_scaled(convolution, weight, scale))
            args = [convolution.args[0], folded]
            made = relax.Call(convolution.op, args, convolution.attrs, ret_ty=convolution.ty)
            value = self.emit(made, name)
        else:
            value = self.emit(convolution, name)
        if bias is not None:
            shift = shift + bias * scale
        if not np.any(shift):
            return value
        return self.emit(relax.op.add(value, self.channels(shift, value)), name)

    def convolution(self, value: Expr) -> tuple[Call, np.ndarray | None] | None:
        """The convolution with constant weights that makes `value`, alone or plus a bias."""
        definition = self.definition.get(value)
        if definition is None or self.used_elsewhere(value):
            return None
        made, bias = call_of(definition, *_CONVOLUTIONS), None
        addition = call_of(definition, "relax.add")
        if addition is not None:
            inner = addition.args[0]
            bias = self.per_channel(inner, addition.args[1])
            if bias is not None and not self.used_elsewhere(inner):
                made = call_of(self.definition.get(inner), *_CONVOLUTIONS)
        if made is None or not isinstance(made.args[1], GenericConst):
            return None
        return made, bias

    def used_elsewhere(self, value: Expr) -> bool:
        """Whether more than one reader needs the value as it is."""
        return self.readers.get(value, 0) > 1

    def per_channel(self, value: Expr, other: Expr) -> np.ndarray | None:
        """One number per channel of `value` where `other` is a constant that broadcasts so."""
        shape, array = static_shape(other), self.constant(other)
        full: Any = getattr(value.ty, "shape", None)
        if array is None or shape is None or not isinstance(full, relax.ShapeExpr):
            return None
        rank = len(full.values)
        if rank < 3 or len(shape) > rank or not isinstance(full.values[1], tvm.tirx.IntImm):
            return None
        channels = int(full.values[1])
        padded = (1,) * (rank - len(shape)) + shape
        if any(dim != 1 for axis, dim in enumerate(padded) if axis != 1):
            return None
        if padded[1] not in (1, channels):
            return None
        return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,)).copy()

    def channels(self, values: np.ndarray, like: Expr) -> Expr:
        dtype = str(like.ty.dtype)
        rank = len(like.ty.shape.values)
        shaped = values.reshape(1, -1, *[1] * (rank - 2))
        return relax.const(np.ascontiguousarray(shaped.astype(dtype)), dtype)


def _scaled(convolution: Call, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The weights times a number for each output channel."""
    rest = [1] * (weight.ndim - 2)
    if op_name(convolution) not in _TRANSPOSED:
        return (weight * scale.reshape(-1, 1, *rest)).astype(weight.dtype)
    # (I, O / groups, ...), the input channels of one group behind those of another.
    groups = int(convolution.attrs.groups)
    split = weight.reshape(groups, -1, *weight.shape[1:])
    scaled = split * scale.reshape(groups, 1, weight.shape[1], *rest)
    return scaled.reshape(weight.shape).astype(weight.dtype)
