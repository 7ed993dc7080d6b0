"""Calls that TVM leaves in a loop over lanes, as ones of vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule
from tvm.ir.op import register_op_attr

from athanor.targets.math_functions import IN_LANES

_DTYPES = ("float32", "float16", "bfloat16")
"""Of which `LowerMath` makes arithmetic; of float64 a call of libm for every lane stays."""
_ISNAN, _OURS = "tirx.isnan", "athanor.isnan"


@tvm.transform.module_pass(opt_level=0, name="VectorCalls")
class VectorCalls:
    """Functions that become arithmetic, and questions for NaN, so that VectorizeLoop takes them.

        for lane in T.vectorized(16):
            y[lane] = T.atan(x[lane])
    =>
            y[lane] = athanor.atan(x[lane])

    `LowerMath` knows them by both names. Right before VectorizeLoop.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        _register()

        def renamed(call: ir.Call) -> ir.Call:
            name = getattr(call.op, "name", "")
            if name == _ISNAN:
                return ir.Call(ir.Op.get(_OURS), call.args, ret_ty=call.ty)
            if name not in IN_LANES or str(call.ty.dtype) not in _DTYPES:
                return call
            return ir.Call(ir.Op.get(IN_LANES[name]), call.args, ret_ty=call.ty)

        return _mapped(mod, renamed)


@tvm.transform.module_pass(opt_level=0, name="QuestionsForNaN")
class QuestionsForNaN:
    """Questions for NaN under their own name again, as LLVM's code generator takes them.

    Right after VectorizeLoop. To say of `tirx.isnan` itself that it takes vectors would be said
    for CUDA too, whose vectors can't be compared.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""

        def renamed(call: ir.Call) -> ir.Call:
            if getattr(call.op, "name", "") != _OURS:
                return call
            return ir.Call(ir.Op.get(_ISNAN), call.args, ret_ty=call.ty)

        return _mapped(mod, renamed)


def _mapped(mod: IRModule, renamed: Callable[[ir.Call], ir.Call]) -> IRModule:
    for variable, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            body = tvm_ffi.structural_map(func.body, (ir.Call, renamed), order="post")
            if not body.same_as(func.body):
                mod[variable] = func.with_body(body)
    return mod


@functools.cache
def _register() -> None:
    """TVM need know that they take vectors, and are pure."""
    pure = ir.Op.get("tirx.exp").get_attr("TCallEffectKind")
    for name in (_OURS, *IN_LANES.values()):
        register_op_attr(name, "TCallEffectKind", int(pure))
        register_op_attr(name, "TVectorizable", True)
        register_op_attr(name, "TScriptPrinterName", name)
