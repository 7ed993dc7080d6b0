"""Arithmetic that TVM's CUDA code generator prints with another meaning in C++."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule

_WRAPPING = (tirx.Add, tirx.Sub, tirx.Mul, tirx.LShift)
_NARROW = ("int8", "uint8", "int16", "uint16")


@tvm.transform.module_pass(opt_level=0, name="WrapNarrowIntegers")
class WrapNarrowIntegers:
    """Results of 8- and 16-bit integer arithmetic, cut to their type at once.

        (a + b) // 2   =>   int8(int32(a) + int32(b)) // 2       # of int8 a, b

    C++ computes with int, and would divide the sum before it is cut. Also: infinities and NaN of
    bfloat16, which TVM prints as `inff`, from those of float32. Last before code generation, or
    simplification takes the casts away again.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        rewrites = [
            (_WRAPPING, _wrap_binary),
            (tirx.BitwiseNot, _wrap_not),
            (tirx.FloatImm, _spell),
        ]
        for variable, func in mod.functions_items():
            body = func.body
            for kind, rewrite in rewrites:
                body = tvm_ffi.structural_map(body, (kind, rewrite), order="post")
            mod[variable] = func.with_body(body)
        return mod


def _wide(dtype: str) -> str | None:
    """The type that C++ computes a narrow integer type in; None for any other type."""
    base, _, lanes = dtype.partition("x")
    return None if base not in _NARROW else f"int32x{lanes}" if lanes else "int32"


def _wrap_binary(value: tirx.expr.BinaryOpExpr) -> tirx.Expr:
    dtype = str(value.ty.dtype)
    wide = _wide(dtype)
    if wide is None:
        return value
    return tirx.Cast(dtype, type(value)(tirx.Cast(wide, value.a), tirx.Cast(wide, value.b)))


def _wrap_not(value: tirx.BitwiseNot) -> tirx.Expr:
    dtype = str(value.ty.dtype)
    wide = _wide(dtype)
    return value if wide is None else tirx.Cast(dtype, tirx.BitwiseNot(tirx.Cast(wide, value.a)))


def _spell(number: tirx.FloatImm) -> tirx.Expr:
    if str(number.ty.dtype) != "bfloat16" or math.isfinite(number.value):
        return number
    return tirx.Cast("bfloat16", tirx.FloatImm("float32", number.value))
