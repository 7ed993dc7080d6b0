"""Calls of transcendental functions -> polynomials."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule

from athanor.targets.bf16_dots import BF16_FUNCTION, bf16_function
from athanor.targets.int16_dots import INT16_FUNCTION, int16_function
from athanor.targets.llvm_text import register_lanes, vector_function
from athanor.targets.math_functions import FUNCTIONS, IN_LANES, Bindings
from athanor.targets.stream_stores import STREAM, stream_function
from athanor.targets.transpose import TRANSPOSE, transpose_function

Expr = tirx.Expr
_NAMES = {ours: name for name, ours in IN_LANES.items()}


@tvm.transform.module_pass(opt_level=0, name="LowerPower")
class LowerPower:
    """Powers with a small constant exponent -> products and roots.

        T.pow(x, 2.0)   =>   x * x

    Before VectorizeLoop, while the exponent is still a plain number.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for name, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (ir.Call, _lower_power), order="post")
                if not body.same_as(func.body):
                    mod[name] = func.with_body(body)
        return mod


@tvm.transform.module_pass(opt_level=0, name="LowerMath")
class LowerMath:
    """Calls of transcendental functions on float32 -> arithmetic that runs in vector lanes.

        T.exp(x)   =>   athanor_exp_float32x16(x), inlined by LLVM, which computes
                        let n = round(x * log2(e)) in 2^n * polynomial(x - n * log(2))

    A call of libm would be made once a lane, at some 5 to 20 ns each. The last pass before LLVM,
    which gets the functions as LLVM IR: as lets in TIR they would be right too, but TVM's
    simplifier substitutes every let into the next, and exp(log(x)) takes it 20 s.
    Transposed tiles (`targets.transpose`), dot products (`targets.bf16_dots`, `targets.int16_dots`)
    and stores past the caches (`targets.stream_stores`) are imported the same way.
    float16 and bfloat16 go through float32; float64 and what is not listed stay calls of libm.
    Error: at most 4 units in the last place or 1e-6 of the result over all of float32. NaN stays
    NaN, infinities, overflow and signed zeros come out as libm's, denormal numbers are kept.
    """

    def __init__(self, avx512: bool, pair_lanes: int = 0) -> None:
        """avx512: whether the target has AVX-512, which scales by powers in one instruction.

        pair_lanes: `TargetSpec.pair_lanes`.
        """
        self.avx512, self.pair_lanes = avx512, pair_lanes

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        texts: dict[str, str] = {}

        def replace(call: ir.Call) -> Expr:
            operator = getattr(call.op, "name", "")
            if operator == "tirx.call_extern" and (tile := TRANSPOSE.match(call.args[0].value)):
                texts[tile.group()] = transpose_function(int(tile.group(1)))
                return call
            if operator == "tirx.call_extern" and (made := STREAM.match(call.args[0].value)):
                texts[made.group()] = stream_function(int(made.group(1)))
                return call
            if operator == "tirx.call_pure_extern" and (
                made := BF16_FUNCTION.fullmatch(call.args[0].value)
            ):
                texts[made.group()] = bf16_function(made.group(1), int(made.group(2)))
                return call
            if operator == "tirx.call_pure_extern" and (
                made := INT16_FUNCTION.fullmatch(call.args[0].value)
            ):
                size = int(made.group(2))
                texts[made.group()] = int16_function(made.group(1), size, self.pair_lanes)
                return call
            operator = _NAMES.get(operator, operator)
            if operator not in FUNCTIONS:
                return call
            dtype = tvm.DataType(str(call.ty.dtype))
            scalar = str(dtype).split("x")[0]
            if scalar not in ("float32", "float16", "bfloat16"):
                return call
            name = f"athanor_{operator.removeprefix('tirx.')}_{dtype}"
            lanes = max(1, dtype.lanes)
            avx512 = self.avx512 and bool(register_lanes(lanes))
            texts[name] = _llvm_function(name, operator, scalar, lanes, avx512)
            pure = ir.Op.get("tirx.call_pure_extern")
            return ir.Call(pure, [ir.StringImm(name), call.args[0]], ret_ty=call.ty)

        changed = {}
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (ir.Call, replace), order="post")
                changed[variable] = func.with_body(body)
        if not texts:
            return mod
        for number, (variable, func) in enumerate(changed.items()):
            if number == 0:  # one import serves the module
                text = ir.StringImm(_joined(texts.values()))
                body = tirx.AttrStmt(text, "pragma_import_llvm", text, func.body)
                func = func.with_body(body)
            mod[variable] = func
        return mod


def _joined(texts: Iterable[str]) -> str:
    """One module of LLVM's; what several functions declare is declared once."""
    lines = "\n".join(texts).splitlines()
    declared = dict.fromkeys(line for line in lines if line.startswith("declare "))
    return "\n".join([*declared, *(line for line in lines if line not in declared)]) + "\n"


@functools.cache
def _llvm_function(name: str, operator: str, dtype: str, lanes: int, avx512: bool) -> str:
    x = tirx.Var("x", dtype)
    let = Bindings(avx512)
    wide = let.bind("wide", x.astype("float32"))
    return vector_function(name, x, let.wrap(FUNCTIONS[operator](let, wide)).astype(dtype), lanes)


def _lower_power(call: ir.Call) -> Expr:
    """Powers with a constant exponent of 2, 3, 4, 0.5, 1, -1 or -0.5; any other stays a call."""
    if getattr(call.op, "name", "") != "tirx.pow":
        return call
    base, exponent = call.args
    dtype = str(call.ty.dtype)
    if not isinstance(exponent, tirx.FloatImm) or dtype not in ("float32", "float64"):
        return call
    one = tirx.const(1.0, dtype)
    let = Bindings()
    x = let.bind("x", base)
    power = exponent.value
    if power in (0.5, -0.5):
        # pow(-0, 0.5) is +0 and pow(-inf, 0.5) is +inf, unlike the square roots.
        infinity = tirx.const(math.inf, dtype)
        zero = tirx.const(0.0, dtype)
        root = tirx.Select(x.equal(-infinity), infinity, tirx.sqrt(x))
        root = tirx.Select(x.equal(zero), zero, root)
        return let.wrap(root if power > 0 else one / root)
    square = let.bind("square", x * x)
    products = {1.0: x, 2.0: square, 3.0: square * x, 4.0: square * square, -1.0: one / x}
    return let.wrap(products[power]) if power in products else call
