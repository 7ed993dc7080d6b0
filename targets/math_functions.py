"""Transcendental functions of float32 as arithmetic that vectorizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx

from athanor.targets.llvm_text import SCALE

Expr = tirx.Expr

_LN2_HI, _LN2_LO = 0.693359375, -2.12194440e-4  # hi has 9 bits: n * hi is exact for |n| < 2^15
_LOG2E = 1.4426950408889634
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
# Minimax over [-log(2) / 2, log(2) / 2] (relative error 9.2e-8) of those that are 1 at 0.
_EXP = (8.290272206e-3, 4.189816117e-2, 1.666763872e-1, 4.999914765e-1, 9.999997020e-1, 1.0)
_EXP2 = tuple(c * math.log(2) ** power for power, c in zip(range(5, -1, -1), _EXP, strict=True))
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
# In x^2, highest power first: the arcs are x + x^3 * polynomial, that of the sine over [0, 1 / 2]
# (error 4.8e-9), of the tangent over [0, 1] (2.6e-9).
_ASIN = (0.0421663, 0.02417952, 0.04547038, 0.07495298, 0.16666752)
_ATAN = (
    *(-0.00179361, 0.01091457, -0.03117778, 0.05795752, -0.08403446),
    *(0.10952184, -0.14264241, 0.19998548, -0.33333299),
)


class Bindings:
    """Names for intermediate values, so that none is computed twice."""

    def __init__(self, avx512: bool = False) -> None:
        """avx512: whether the functions may use that instruction set's scaling by powers."""
        self.avx512 = avx512
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


def _scaled_exp(
    let: Bindings,
    shifted: Callable[[Expr], Expr],
    reduced: Callable[[Expr], Expr],
    coefficients: Sequence[float],
) -> Expr:
    """2^n * polynomial(r), where n is an integer, n + c = shifted(c), and r = reduced(n).

    c is 1.5 * 2^23 and some more: adding it leaves the nearest integer in the lowest bits.
    """
    if let.avx512:
        center = _f32(_ROUND)
        n = let.bind("n", shifted(center) - center)
        value = _horner(let.bind("r", reduced(n)), coefficients)
        return tirx.call_pure_extern("float32", SCALE, value, n)
    # In two factors, for n reaches from -151 to 128 and one factor only from -126 to 127. Their
    # biased exponents have the sum n + 254, which is what the lowest bits hold.
    center = _f32(_ROUND + 254)
    moved = let.bind("moved", shifted(center))
    n = let.bind("n", moved - center)
    value = let.bind("p", _horner(let.bind("r", reduced(n)), coefficients))
    bits = let.bind("bits", _bits(moved))
    half = let.bind("half", (bits >> _i32(1)) << _i32(23))
    return value * _float(half) * _float((bits << _i32(23)) - half)


def _exp(let: Bindings, x: Expr) -> Expr:
    return _exp_within(let, let.bind("x", _clamp(x, -105.0, 89.0)))


def _exp_within(let: Bindings, x: Expr) -> Expr:
    """e^x for x in [-105, 89]."""

    def reduced(n: Expr) -> Expr:
        return x - n * _f32(_LN2_HI) - n * _f32(_LN2_LO)

    return _scaled_exp(let, lambda center: x * _f32(_LOG2E) + center, reduced, _EXP)


def _exp2(let: Bindings, x: Expr) -> Expr:
    x = let.bind("x", _clamp(x, -151.0, 129.0))
    return _scaled_exp(let, lambda center: x + center, lambda n: x - n, _EXP2)


def _exp10(let: Bindings, x: Expr) -> Expr:
    x = let.bind("x", _clamp(x, -45.5, 38.7))

    def reduced(n: Expr) -> Expr:
        # log10(2) in two parts, the first of 9 bits.
        return (x - n * _f32(0.30078125) - n * _f32(2.4874566e-4)) * _f32(math.log(10))

    return _scaled_exp(let, lambda center: x * _f32(math.log2(10)) + center, reduced, _EXP)


def _split_log(let: Bindings, x: Expr) -> tuple[Expr, Expr, Expr]:
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


def _log(let: Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    return _log_edges(x, (m + (c + e * _f32(_LN2_LO))) + e * _f32(_LN2_HI))


def _log2(let: Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    return _log_edges(x, e + (m + c) * _f32(_LOG2E))


def _log10(let: Bindings, x: Expr) -> Expr:
    e, m, c = _split_log(let, x)
    value = (m + c) * _f32(math.log10(math.e)) + e * _f32(2.4874566e-4) + e * _f32(0.30078125)
    return _log_edges(x, value)


def _log1p(let: Bindings, x: Expr) -> Expr:
    u = let.bind("u", x + _f32(1.0))
    log = let.bind("log", _log(let, u))
    # What rounding 1 + x lost; where u is 0 or infinite the logarithm is already right.
    value = let.bind("value", log - ((u - _f32(1.0)) - x) / u)
    small = tirx.Select(tirx.abs(x) < _f32(2.0**-24), x, value)
    return tirx.Select(tirx.any(u.equal(_f32(0.0)), u.equal(_f32(math.inf))), log, small)


def _odd_rational(
    limit: float, numerator: Sequence[float], denominator: Sequence[float]
) -> Callable[[Bindings, Expr], Expr]:
    """X * P(x^2) / Q(x^2), within [-1, 1]."""

    def lower(let: Bindings, x: Expr) -> Expr:
        x = let.bind("x", _clamp(x, -limit, limit))
        z = let.bind("z", x * x)
        value = let.bind("y", x * _horner(z, numerator) / _horner(z, denominator))
        return _clamp(value, -1.0, 1.0)

    return lower


def _sigmoid(let: Bindings, x: Expr) -> Expr:
    # Not 1 / (1 + e^-x), which overflows where the result is denormal. 1 from 17 on.
    power = let.bind("power", _exp_within(let, let.bind("x", _clamp(x, -105.0, 40.0))))
    return power / (power + _f32(1.0))


def _rsqrt(_let: Bindings, x: Expr) -> Expr:
    return _f32(1.0) / tirx.sqrt(x)


def _arc(let: Bindings, s: Expr, z: Expr, coefficients: Sequence[float]) -> Expr:
    """S + s * z * polynomial(z), z being s * s."""
    return let.bind("arc", s + s * (z * _horner(z, coefficients)))


def _halved_sine(let: Bindings, x: Expr) -> Expr:
    """The arc sine of |x| up to 1 / 2, of sqrt((1 - |x|) / 2) past it."""
    a = let.bind("a", tirx.abs(x))
    half = let.bind("half", (_f32(1.0) - a) * _f32(0.5))
    z = let.bind("z", tirx.Select(a > _f32(0.5), half, a * a))
    return _arc(let, let.bind("s", tirx.Select(a > _f32(0.5), tirx.sqrt(half), a)), z, _ASIN)


def _signed(x: Expr, value: Expr) -> Expr:
    """`value`, positive, with the sign of x, of zeros too."""
    return _float(_bits(value) | (_bits(x) & _i32(-(1 << 31))))


def _asin(let: Bindings, x: Expr) -> Expr:
    arc = _halved_sine(let, x)
    high = _f32(math.pi / 2) - (arc + arc)
    return _signed(x, let.bind("value", tirx.Select(tirx.abs(x) > _f32(0.5), high, arc)))


def _acos(let: Bindings, x: Expr) -> Expr:
    arc = _halved_sine(let, x)
    low = _f32(math.pi / 2) - _signed(x, arc)
    high = tirx.Select(x > _f32(0.0), arc + arc, _f32(math.pi) - (arc + arc))
    return tirx.Select(tirx.abs(x) > _f32(0.5), high, low)


def _atan(let: Bindings, x: Expr) -> Expr:
    a = let.bind("a", tirx.abs(x))
    s = let.bind("s", tirx.Select(a > _f32(1.0), _f32(1.0) / a, a))
    arc = _arc(let, s, let.bind("z", s * s), _ATAN)
    turned = _f32(math.pi / 2) - arc
    return _signed(x, let.bind("value", tirx.Select(a > _f32(1.0), turned, arc)))


def _asinh(let: Bindings, x: Expr) -> Expr:
    a = let.bind("a", tirx.abs(x))
    square = let.bind("square", a * a)
    near = let.bind("near", a + square / (_f32(1.0) + tirx.sqrt(_f32(1.0) + square)))
    return _signed(x, let.bind("value", _log_of_sum(let, a, near)))


def _acosh(let: Bindings, x: Expr) -> Expr:
    t = let.bind("t", x - _f32(1.0))
    root = tirx.sqrt(t) * tirx.sqrt(t + _f32(2.0))  # NaN below 1, which t * (t + 2) hides
    return _log_of_sum(let, x, let.bind("near", t + root))


def _log_of_sum(let: Bindings, x: Expr, near: Expr) -> Expr:
    """The logarithm of 1 + near, which is 2 * x where squares of x may be infinite."""
    far = let.bind("far", _log(let, x)) + _f32(math.log(2))
    return tirx.Select(x > _f32(2.0**31), far, _log1p(let, near))


def _atanh(let: Bindings, x: Expr) -> Expr:
    a = let.bind("a", tirx.abs(x))
    quotient = let.bind("quotient", (a + a) / (_f32(1.0) - a))
    return _signed(x, let.bind("value", _log1p(let, quotient) * _f32(0.5)))


FUNCTIONS: dict[str, Callable[[Bindings, Expr], Expr]] = {
    "tirx.acos": _acos,
    "tirx.acosh": _acosh,
    "tirx.asin": _asin,
    "tirx.asinh": _asinh,
    "tirx.atan": _atan,
    "tirx.atanh": _atanh,
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

_ARCS = ("acos", "acosh", "asin", "asinh", "atan", "atanh")
IN_LANES = {f"tirx.{name}": f"athanor.{name}" for name in _ARCS}
"""Names for those that TVM vectorizes under no name of its own."""
