"""Divisions of integers in vectors, which processors have none of, as ones of floats."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule

from athanor.schedules import blocks

_WIDER = {
    **dict.fromkeys(("int8", "uint8", "int16", "uint16"), "float32"),
    **dict.fromkeys(("int32", "uint32"), "float64"),
}
"""A float whose quotients, cut, are exact: numbers of n bits are 2^-n of the next integer apart at
least, and it rounds to less than that."""


@tvm.transform.module_pass(opt_level=0, name="DivideFloats")
class DivideFloats:
    """Quotients of what is loaded in vectorized loops, but for 64 bits wide ones.

        y[lane] = T.truncdiv(a[lane], b[lane])
    =>
        y[lane] = T.Cast("int32", T.Cast("float64", a[lane]) / T.Cast("float64", b[lane]))

    LLVM divides vectors of integers number by number. Constants it multiplies by, and they stay.
    The quotient has to fit its type, as it must for a processor's division. Before VectorizeLoop.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""

        def lanes(loop: tirx.For) -> tirx.For:
            if loop.kind != tirx.ForKind.VECTORIZED:
                return loop
            body = tvm_ffi.structural_map(loop.body, (tirx.Div, _divided), order="post")
            if body.same_as(loop.body):
                return loop
            kept = loop.annotations
            return tirx.For(
                loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, kept
            )

        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.For, lanes), order="post")
                if not body.same_as(func.body):
                    mod[variable] = func.with_body(body)
        return mod


def _divided(division: tirx.Div) -> tirx.Expr:
    dtype = str(division.ty.dtype)
    if dtype not in _WIDER or not blocks.loads(division.b):
        return division
    wide = _WIDER[dtype]
    quotient = tirx.Div(tirx.Cast(wide, division.a), tirx.Cast(wide, division.b))
    return tirx.Cast(dtype, quotient)
