"""Maxima and minima that hand NaN on, which a processor's and CUDA's `max` and `min` drop."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule


@tvm.transform.module_pass(opt_level=0, name="HandNaNOn")
class HandNaNOn:
    """NaN where an operand is one, in maxima and minima of floats.

        max(a, b)   =>   select(a > b or isnan(a), a, b)

    ONNX asks for it of Max, Relu, Clip, MaxPool and ReduceMax alike. Where b is NaN, the comparison
    is false and b is taken. After cross-thread reductions are lowered, which are recognized by
    their maxima; before the code generator, which prints `max`.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                visitors = [((tirx.Max, tirx.Min), passing_nan_on)]
                body = tvm_ffi.structural_map(func.body, visitors, order="post")
                mod[variable] = func.with_body(body)
        return mod


def passing_nan_on(value: tirx.Max | tirx.Min) -> tirx.Expr:
    """A maximum or minimum that is NaN where an operand is one."""
    if "float" not in str(value.ty.dtype):
        return value
    return _chosen(value, value.a > value.b if isinstance(value, tirx.Max) else value.a < value.b)


def _chosen(value: tirx.Max | tirx.Min, better: tirx.Expr) -> tirx.Expr:
    if isinstance(value.a, tirx.FloatImm):  # no NaN, so that the other one is to be asked
        value = type(value)(value.b, value.a)
        better = value.a > value.b if isinstance(value, tirx.Max) else value.a < value.b
    asked = value.a
    if "bfloat16" in str(value.ty.dtype):  # TVM knows no isnan of it
        asked = tirx.Cast(str(value.ty.dtype).replace("bfloat16", "float32"), asked)
    return tirx.Select(tirx.any(better, tirx.isnan(asked)), value.a, value.b)
