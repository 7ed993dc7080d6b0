"""Compute what depends on constants alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    constant_array,
    op_name,
    static_shape,
)


def _permute(call: Call, x: np.ndarray) -> np.ndarray:
    axes = call.attrs.axes
    return np.transpose(x, None if axes is None else [int(a) for a in axes])


def _reshape(call: Call, x: np.ndarray) -> np.ndarray:
    return x.reshape(static_shape(call))


def _slice(call: Call, x: np.ndarray) -> np.ndarray:
    axes, begins, ends, *rest = ([int(v) for v in arg.fields] for arg in call.args[1:])
    steps = rest[0] if rest else [1] * len(axes)
    index = [slice(None)] * x.ndim
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        if step < 0 or begin < 0 or end < 0:
            return x.take([], axis=axis)  # another shape than deduced, so it is not folded
        index[axis] = slice(begin, end, step)
    return x[tuple(index)]


def _over_axes(reduce: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The fold of a reduction, which is summed in float64."""

    def fold(call: Call, x: np.ndarray) -> np.ndarray:
        axes = call.attrs.axis
        axis = None if axes is None else tuple(int(a) for a in axes)
        kept = bool(call.attrs.keepdims)
        return np.asarray(reduce(x, axis=axis, dtype=np.float64, keepdims=kept))

    return fold


_FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": lambda _call, a, b: a + b,
    "relax.concat": lambda call, *parts: np.concatenate(parts, axis=int(call.attrs.axis)),
    "relax.divide": lambda _call, a, b: a / b,
    "relax.expand_dims": _reshape,
    "relax.flatten": _reshape,
    "relax.maximum": lambda _call, a, b: np.maximum(a, b),
    "relax.mean": _over_axes(np.mean),
    "relax.minimum": lambda _call, a, b: np.minimum(a, b),
    "relax.multiply": lambda _call, a, b: a * b,
    "relax.negative": lambda _call, a: -a,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.sqrt": lambda _call, a: np.sqrt(a),
    "relax.squeeze": _reshape,
    "relax.strided_slice": _slice,
    "relax.subtract": lambda _call, a, b: a - b,
    "relax.variance": _over_axes(np.var),
}

_OF_FLOATS = ("relax.divide", "relax.mean", "relax.variance")
"""Of integers, NumPy's round otherwise."""


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Replace an operator over constants by its result.

        lv = R.permute_dims(weight)    =>    the transposed constant

    NumPy computes, which takes no time next to compiling a kernel for each, as TVM's FoldConstant
    does. Only operators whose NumPy result is the same bit for bit are listed, and means and
    variances, in float64, by which weights are standardized. Run again after any pass that leaves
    arithmetic on weights.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) in _FOLDS and _constants(call) is not None

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        fold = _FOLDS.get(op_name(call) or "")
        tensors = _constants(call) if fold is not None else None
        if fold is None or tensors is None or static_shape(old) is None:
            return None
        if op_name(call) in _OF_FLOATS and "float" not in str(old.ty.dtype):
            return None
        called = relax.Call(call.op, call.args, attrs=call.attrs, ty_args=call.ty_args)
        called = self.builder.normalize(called)
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            result = fold(called, *(constant_array(arg) for arg in tensors))
        if result.shape != static_shape(old):
            return None
        return array_constant(result.astype(str(old.ty.dtype), copy=False))


def _constants(call: Call) -> list[GenericConst] | None:
    """The tensors that a call reads, where all are constants; else None."""
    arguments = list(call.args)
    if arguments and isinstance(arguments[0], relax.Tuple):
        arguments = [*arguments[0].fields, *arguments[1:]]
    tensors = [arg for arg in arguments if isinstance(arg.ty, relax.TensorType)]
    return tensors if all(isinstance(arg, GenericConst) for arg in tensors) else None
