"""Products of pairs of 16-bit numbers -> dot products of the target's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer

from athanor.schedules.compute import int16
from athanor.schedules.compute.bf16 import DOT, PAIR, ROUND, operator
from athanor.targets.llvm_text import register_lanes, shuffle, vector_type

BF16_FUNCTION = re.compile(r"athanor_(dot|round)_bf16_x(\d+)")
"""Names of the functions that `bf16_function` writes, as kernels call them."""
_DOTS = (DOT, int16.DOT)


@tvm.transform.module_pass(opt_level=0, name="JoinPairs")
class JoinPairs:
    """Two neighbours of 16 bits as one load of 32 bits, which an instruction can broadcast.

        pair(a[i], a[i + 1])   =>   reinterpret("int32", a[i:i + 2])
        pair(x, y)             =>   x | y << 16

    After FlattenBuffer, when an address is one index, and VectorizeLoop, which knows no vectors
    but its own; before common indices become variables.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        return _map_calls(mod, PAIR, lambda call: _joined(*call.args))


@tvm.transform.module_pass(opt_level=0, name="MarkRounding")
class MarkRounding:
    """Rounding to bfloat16 as an operator of our own, for `LowerDots`.

        T.bfloat16(x)   =>   reinterpret("bfloat16", round_bf16(x))

    For targets that have an instruction. Before BF16ComputeLegalize, whose integer arithmetic takes
    six instructions, and makes -0 of a NaN whose bits are all ones.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        return _map(mod, tirx.Cast, _rounded)


@tvm.transform.module_pass(opt_level=0, name="LowerDots")
class LowerDots:
    """Sums of products of pairs, and rounding, -> functions that are one instruction.

        acc + dot(a, b)   =>   athanor_dot_bf16_x16(acc, a, b)     # or of int16
        round_bf16(x)     =>   athanor_round_bf16_x16(x)

    Right before `LowerMath`, which imports what `bf16_function` and `int16_function` write.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        mod = _map(mod, tirx.Add, _accumulated)
        for name in _DOTS:
            mod = _map_calls(mod, name, lambda call: _dot(_zeros(call), call))
        return _map_calls(
            mod, ROUND, lambda call: _function("round_bf16", list(call.args), call.ty)
        )


def _map(mod: IRModule, kind: type, replace: Callable[..., tirx.Expr]) -> IRModule:
    for variable, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            body = tvm_ffi.structural_map(func.body, (kind, replace), order="post")
            if not body.same_as(func.body):
                mod[variable] = func.with_body(body)
    return mod


def _map_calls(mod: IRModule, name: str, replace: Callable[[ir.Call], tirx.Expr]) -> IRModule:
    def visit(call: ir.Call) -> tirx.Expr:
        return replace(call) if getattr(call.op, "name", "") == name else call

    return _map(mod, ir.Call, visit)


def _joined(first: tirx.Expr, second: tirx.Expr) -> tirx.Expr:
    low, high = _load(first), _load(second)
    if low is not None and high is not None and low.source.same_as(high.source):
        if Analyzer().can_prove_equal(high.indices[0] - low.indices[0], 1):
            both = tirx.BufferLoad(low.source, [tirx.Ramp(low.indices[0], 1, 2)])
            return tirx.reinterpret("int32", both)
    wide = str(first.ty.dtype).replace("uint16", "uint32")
    word = first.astype(wide) | (second.astype(wide) << tirx.const(16, wide))
    return tirx.reinterpret(wide.replace("uint", "int"), word)


def _load(bits: tirx.Expr) -> ir.TensorLoad | None:
    """What the bits of one number are loaded from, where it is loaded."""
    value = bits.args[0] if isinstance(bits, ir.Call) else bits
    scalar = isinstance(value, ir.TensorLoad) and str(value.ty.dtype) in (
        "bfloat16",
        "int16",
        "uint16",
    )
    return value if scalar and len(value.indices) == 1 else None


def _is_dot(value: tirx.Expr) -> bool:
    return isinstance(value, ir.Call) and getattr(value.op, "name", "") in _DOTS


def _accumulated(add: tirx.Add) -> tirx.Expr:
    if _is_dot(add.b):
        return _dot(add.a, add.b)
    return _dot(add.b, add.a) if _is_dot(add.a) else add


def _dot(total: tirx.Expr, call: ir.Call) -> tirx.Expr:
    numbers = "bf16"
    if call.op.name == int16.DOT:
        numbers = "int8" if str(call.args[1].ty.dtype).startswith("int16") else "int16"
    return _function(f"dot_{numbers}", [total, *call.args], call.ty)


def _zeros(call: ir.Call) -> tirx.Expr:
    dtype = str(call.ty.dtype)
    zero, lanes = tirx.const(0, dtype.split("x")[0]), tvm.DataType(dtype).lanes
    return zero if lanes == 1 else tirx.Broadcast(zero, lanes)


def _rounded(cast: tirx.Cast) -> tirx.Expr:
    if (str(cast.value.ty.dtype), str(cast.ty.dtype)) != ("float32", "bfloat16"):
        return cast
    bits = ir.Call(operator(ROUND), [cast.value], ret_ty=ir.PrimType("uint16"))
    return tirx.reinterpret("bfloat16", bits)


def _function(kind: str, arguments: list[tirx.Expr], made: ir.Type) -> ir.Call:
    lanes = max(1, tvm.DataType(str(made.dtype)).lanes)
    name = ir.StringImm(f"athanor_{kind}_x{lanes}")
    return ir.Call(ir.Op.get("tirx.call_pure_extern"), [name, *arguments], ret_ty=made)


@functools.cache
def bf16_function(kind: str, lanes: int) -> str:
    """`athanor_dot_bf16_xN(float acc, int32 a, int32 b)` or `athanor_round_bf16_xN(float)`.

    As LLVM IR. A dot product is an instruction for each register; arithmetic for lanes that do not
    fill one.
    """
    return _round_function(lanes) if kind == "round" else _dot_function(lanes)


def _round_function(lanes: int) -> str:
    floats, halves, narrow = (vector_type(scalar, lanes) for scalar in ("float", "i16", "bfloat"))
    return f"""\
define {halves} @athanor_round_bf16_x{lanes}({floats} %x) alwaysinline {{
  %r = fptrunc {floats} %x to {narrow}
  %v = bitcast {narrow} %r to {halves}
  ret {halves} %v
}}
"""


def _dot_function(lanes: int) -> str:
    register = register_lanes(lanes)
    floats, words = (vector_type(scalar, lanes) for scalar in ("float", "i32"))
    head = f"define {floats} @athanor_dot_bf16_x{lanes}({floats} %acc, {words} %a, {words} %b)"
    lines = [f"{head} alwaysinline {{"]
    if not register:
        shift, mask = (_splat(number, lanes) for number in (16, -65536))
        for v in "ab":
            lines += [f"  %{v}l = shl {words} %{v}, {shift}", f"  %{v}h = and {words} %{v}, {mask}"]
            lines += [f"  %{v}{p}f = bitcast {words} %{v}{p} to {floats}" for p in "lh"]
        lines += [f"  %{p} = fmul {floats} %a{p}f, %b{p}f" for p in "lh"]
        lines += [f"  %s = fadd {floats} %acc, %h", f"  %r = fadd {floats} %s, %l"]
        return "\n".join([*lines, f"  ret {floats} %r", "}\n"])
    part, pairs = vector_type("float", register), vector_type("bfloat", 2 * register)
    intrinsic = f"@llvm.x86.avx512bf16.dpbf16ps.{32 * register}"
    lines.insert(0, f"declare {part} {intrinsic}({part}, {pairs}, {pairs})")
    made = "poison"
    for number, first in enumerate(range(0, lanes, register)):
        for v, kind in (("acc", floats), ("a", words), ("b", words)):
            picked = shuffle(kind, f"%{v}", "poison", range(first, first + register))
            lines.append(f"  %{v}{number} = {picked}")
        for v in "ab":
            word = vector_type("i32", register)
            lines.append(f"  %{v}{number}p = bitcast {word} %{v}{number} to {pairs}")
        # The left pair, which products broadcast, comes last: that operand may be in memory.
        operands = f"{part} %acc{number}, {pairs} %b{number}p, {pairs} %a{number}p"
        lines.append(f"  %r{number} = call {part} {intrinsic}({operands})")
        wide = shuffle(part, f"%r{number}", "poison", [i % register for i in range(lanes)])
        lines.append(f"  %w{number} = {wide}")
        chosen = [i + lanes * (first <= i < first + register) for i in range(lanes)]
        lines.append(f"  %m{number} = {shuffle(floats, made, f'%w{number}', chosen)}")
        made = f"%m{number}"
    return "\n".join([*lines, f"  ret {floats} {made}", "}\n"])


def _splat(number: int, lanes: int) -> str:
    return str(number) if lanes == 1 else f"splat (i32 {number})"
