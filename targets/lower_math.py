"""Transcendental functions as polynomials that vectorize."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule

from athanor.targets.bf16_dots import BF16_FUNCTION, bf16_function
from athanor.targets.llvm_text import vector_function
from athanor.targets.transpose import TRANSPOSE, transpose_function

Expr = tirx.Expr

_LN2_HI, _LN2_LO = 0.693359375, -2.12194440e-4  # hi has 9 bits: n * hi is exact for |n| < 2^15
_LOG2E = 1.4426950408889634
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
# Fitted by weighted least squares on Chebyshev nodes for the smallest relative error: in x^2 over
# [0, 9.01^2] (error 2.1e-8) and [0, 3.925^2] (error 5.3e-8). Past these the result rounds to 1.
_TANH = (
    9.01,
    (1.33356e-08, 2.0595377e-05, 0.0034947575, 0.13380328, 1.0),
    (7.768772e-07, 0.00032842747, 0.025873825, 0.4671364, 1.0),
)
_ERF = (
    3.925,
    (
        *(1.9867535e-08, -1.9563188e-06, 0.00014213871, 0.0037181226),
        *(0.050628085, 0.20034264, 1.1283791),
    ),
    (0.000959687, 0.014387979, 0.11517054, 0.5108807, 1.0),
)


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
    Transposed tiles (`targets.transpose`) and bfloat16 functions (`targets.bf16_dots`) are
    imported the same way.
    float16 and bfloat16 go through float32; float64 and what is not listed stay calls of libm.
    Error: at most 4 units in the last place or 1e-6 of the result over all of float32. NaN stays
    NaN, infinities, overflow and signed zeros come out as libm's, denormal numbers are kept.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        texts: dict[str, str] = {}

        def replace(call: ir.Call) -> Expr:
            operator = getattr(call.op, "name", "")
            if operator == "tirx.call_extern" and (tile := TRANSPOSE.match(call.args[0].value)):
                texts[tile.group()] = transpose_function(int(tile.group(1)))
                return call
            if operator == "tirx.call_pure_extern" and (
                made := BF16_FUNCTION.fullmatch(call.args[0].value)
            ):
                texts[made.group()] = bf16_function(made.group(1), int(made.group(2)))
                return call
            if operator not in _FUNCTIONS:
                return call
            dtype = tvm.DataType(str(call.ty.dtype))
            scalar = str(dtype).split("x")[0]
            if scalar not in ("float32", "float16", "bfloat16"):
                return call
            name = f"athanor_{operator.removeprefix('tirx.')}_{dtype}"
            texts[name] = _llvm_function(name, operator, scalar, max(1, dtype.lanes))
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
                text = ir.StringImm("\n".join(texts.values()))
                body = tirx.AttrStmt(text, "pragma_import_llvm", text, func.body)
                func = func.with_body(body)
            mod[variable] = func
        return mod


@functools.cache
def _llvm_function(name: str, operator: str, dtype: str, lanes: int) -> str:
    x = tirx.Var("x", dtype)
    let = _Bindings()
    wide = let.bind("wide", x.astype("float32"))
    return vector_function(name, x, let.wrap(_FUNCTIONS[operator](let, wide)).astype(dtype), lanes)


class _Bindings:
    """Names for intermediate values, so that none is computed twice."""

    def __init__(self) -> None:
        self.pairs: list[tuple[tirx.Var, Expr]] = []

    def bind(self, name: str, value: Expr) -> tirx.Var:
        """A variable that holds `value`."""
        variable = tirx.Var(name, str(value.ty.dtype))
        self.pairs.append((variable, value))
        return variable

    def wrap(self, result: Expr) -> Expr:
        """`result` under all the bindings made."""
        for variable, value in reversed(self.pairs):
            result = tirx.Let(variable, value, result)
        return result


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _i32(value: int) -> Expr:
    return tirx.const(value, "int32")


def _bits(value: Expr) -> Expr:
    return tirx.reinterpret("int32", value)


def _float(bits: Expr) -> Expr:
    return tirx.reinterpret("float32", bits)


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial in x, highest power first."""
    value: Expr = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _f32(coefficient)
    return value


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """X within [low, high]. Selects in this order, unlike min and max, pass a NaN on."""
    raised = tirx.Select(x < _f32(low), _f32(low), x)
    return tirx.Select(raised > _f32(high), _f32(high), raised)


def _scaled_exp(let: _Bindings, shifted: Expr, reduced: Callable[[Expr], Expr]) -> Expr:
    """2^n * e^r, where n is the integer in `shifted` (value + _ROUND) and r = reduced(n).

    In two factors, for n reaches from -151 to 128 and one factor only from -126 to 127.
    """
    shifted = let.bind("shifted", shifted)
    n = let.bind("n", shifted - _f32(_ROUND))
    r = let.bind("r", reduced(n))
    value = let.bind("p", _horner(r, _EXP) * (r * r) + r + _f32(1.0))
    whole = let.bind("whole", _bits(shifted) - _bits(_f32(_ROUND)))
    half = let.bind("half", whole >> _i32(1))
    first = _float((half + _i32(127)) << _i32(23))
    second = _float((whole - half + _i32(127)) << _i32(23))
    return value * first * second


def _exp(let: _Bindings, x: Expr) -> Expr:
    x = let.bind("x", _clamp(x, -105.0, 89.0))

    def reduced(n: Expr) -> Expr:
        return x - n * _f32(_LN2_HI) - n * _f32(_LN2_LO)

    return _scaled_exp(let, x * _f32(_LOG2E) + _f32(_ROUND), reduced)


def _exp2(let: _Bindings, x: Expr) -> Expr:
    x = let.bind("x", _clamp(x, -151.0, 129.0))
    return _scaled_exp(let, x + _f32(_ROUND), lambda n: (x - n) * _f32(math.log(2)))


def _exp10(let: _Bindings, x: Expr) -> Expr:
    x = let.bind("x", _clamp(x, -45.5, 38.7))

    def reduced(n: Expr) -> Expr:
        # log10(2) in two parts, the first of 9 bits.
        return (x - n * _f32(0.30078125) - n * _f32(2.4874566e-4)) * _f32(math.log(10))

    return _scaled_exp(let, x * _f32(math.log2(10)) + _f32(_ROUND), reduced)


def _split_log(let: _Bindings, x: Expr) -> tuple[Expr, Expr, Expr]:
    """X -> (e, m, c) with log(x) = e * log(2) + m + c, |c| much below |m|."""
    # Conditions are not bound: the simplifier fails on a vector of booleans in a let.
    tiny = x < _f32(1.17549435e-38)
    scaled = let.bind("scaled", tirx.Select(tiny, x * _f32(2.0**23), x))
    bits = let.bind("bits", _bits(scaled))
    fraction = let.bind("fraction", _float((bits & _i32(0x7FFFFF)) | _i32(0x3F000000)))
    low = fraction < _f32(math.sqrt(0.5))
    exponent = (bits >> _i32(23)) - _i32(126)
    exponent = exponent - tirx.Select(low, _i32(1), _i32(0))
    exponent = exponent - tirx.Select(tiny, _i32(23), _i32(0))
    e = let.bind("e", exponent.astype("float32"))
    m = let.bind("m", tirx.Select(low, fraction + fraction, fraction) - _f32(1.0))
    z = let.bind("z", m * m)
    return e, m, let.bind("c", _horner(m, _LOG) * m * z - _f32(0.5) * z)


def _log_edges(x: Expr, value: Expr) -> Expr:
    """Logarithms of zero, infinity, negative numbers and NaN."""
    infinity, nan = _f32(math.inf), _f32(math.nan)
    positive = tirx.Select(x.equal(infinity), infinity, value)
    other = tirx.Select(x.equal(_f32(0.0)), -infinity, nan)
    return tirx.Select(x > _f32(0.0), positive, other)


def _log(let: _Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    return _log_edges(x, (m + (c + e * _f32(_LN2_LO))) + e * _f32(_LN2_HI))


def _log2(let: _Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    return _log_edges(x, e + (m + c) * _f32(_LOG2E))


def _log10(let: _Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    value = (m + c) * _f32(math.log10(math.e)) + e * _f32(2.4874566e-4) + e * _f32(0.30078125)
    return _log_edges(x, value)


def _log1p(let: _Bindings, x: Expr) -> Expr:
    u = let.bind("u", x + _f32(1.0))
    log = let.bind("log", _log(let, u))
    # What rounding 1 + x lost; where u is 0 or infinite the logarithm is already right.
    value = let.bind("value", log - ((u - _f32(1.0)) - x) / u)
    small = tirx.Select(tirx.abs(x) < _f32(2.0**-24), x, value)
    return tirx.Select(tirx.any(u.equal(_f32(0.0)), u.equal(_f32(math.inf))), log, small)


def _odd_rational(
    limit: float, numerator: Sequence[float], denominator: Sequence[float]
) -> Callable[[_Bindings, Expr], Expr]:
    """X * P(x^2) / Q(x^2), within [-1, 1]."""

    def lower(let: _Bindings, x: Expr) -> Expr:
        x = let.bind("x", _clamp(x, -limit, limit))
        z = let.bind("z", x * x)
        value = let.bind("y", x * _horner(z, numerator) / _horner(z, denominator))
        return _clamp(value, -1.0, 1.0)

    return lower


def _sigmoid(let: _Bindings, x: Expr) -> Expr:
    # of the side where the power is at most 1: it does not overflow, and keeps denormal numbers
    power = let.bind("power", _exp(let, let.bind("far", _f32(0.0) - tirx.abs(x))))
    share = let.bind("share", _f32(1.0) / (_f32(1.0) + power))
    return tirx.Select(x < _f32(0.0), power * share, share)


def _rsqrt(_let: _Bindings, x: Expr) -> Expr:
    return _f32(1.0) / tirx.sqrt(x)


def _lower_power(call: ir.Call) -> Expr:
    """Powers with a constant exponent of 2, 3, 4, 0.5, 1, -1 or -0.5; any other stays a call."""
    if getattr(call.op, "name", "") != "tirx.pow":
        return call
    base, exponent = call.args
    dtype = str(call.ty.dtype)
    if not isinstance(exponent, tirx.FloatImm) or dtype not in ("float32", "float64"):
        return call
    one = tirx.const(1.0, dtype)
    let = _Bindings()
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


_FUNCTIONS: dict[str, Callable[[_Bindings, Expr], Expr]] = {
    "tirx.erf": _odd_rational(*_ERF),
    "tirx.exp": _exp,
    "tirx.exp10": _exp10,
    "tirx.exp2": _exp2,
    "tirx.log": _log,
    "tirx.log10": _log10,
    "tirx.log1p": _log1p,
    "tirx.log2": _log2,
    "tirx.rsqrt": _rsqrt,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _odd_rational(*_TANH),
}
