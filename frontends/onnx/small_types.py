"""Element types that no kernel computes with: float8, float6, float4, integers below a byte, text.

A tensor of a small type is carried as uint8, the byte of each element as ml_dtypes stores it, so
that data movement needs no kernels of its own; TVM 0.27 would pack int4 two to a byte, and converts
float8 without its subnormal numbers (0.0 becomes 0.0078). Only Cast and the quantization operators
look into the bytes. The upper bits of an integer below a byte are undefined.

A tensor of strings is carried as int64, the address of each element (see ops/strings.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx


@dataclass(frozen=True)
class SmallFloat:
    """The bits of a float below 16 bits: sign, exponent, mantissa; code = sign and the rest."""

    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: int  # code of the largest finite number
    overflow: int  # code of what is larger, where nothing saturates
    nan: int  # code of NaN
    unsigned_zero: bool = False  # -0 is NaN: "fnuz"

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.exponent_bits + self.mantissa_bits)


SMALL_FLOATS = {
    "float8_e4m3fn": SmallFloat(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": SmallFloat(4, 3, 8, 0x7F, 0x80, 0x80, unsigned_zero=True),
    "float8_e5m2": SmallFloat(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": SmallFloat(5, 2, 16, 0x7F, 0x80, 0x80, unsigned_zero=True),
    # no infinity and no NaN: what is too large is the largest, NaN is undefined
    "float6_e2m3fn": SmallFloat(2, 3, 1, 0x1F, 0x1F, 0),
    "float6_e3m2fn": SmallFloat(3, 2, 3, 0x1F, 0x1F, 0),
    "float4_e2m1fn": SmallFloat(2, 1, 1, 0x07, 0x07, 0),
}
EXPONENT = "float8_e8m0fnu"
"""A power of two: only an exponent, no sign."""
SMALL_INTEGERS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
SMALL_TYPES = (*SMALL_FLOATS, EXPONENT, *SMALL_INTEGERS)
STRING = "string"
CARRIED_TYPES = (*SMALL_TYPES, STRING)
"""All types that are another one in Relax."""

MOVES_BYTES = frozenset(
    "Concat Expand Flatten Gather GatherElements GatherND Identity Reshape Slice Split Squeeze "
    "Tile Transpose Unsqueeze".split()
)
"""Operators that move elements, whatever they are: results have the small type of input 0."""

MOVES_STRINGS = {
    **{op: (0,) for op in (*MOVES_BYTES, "ArrayFeatureExtractor", "Compress", "ReverseSequence")},
    **{op: (0, 2) for op in ("Scatter", "ScatterElements", "ScatterND")},
    "Where": (1, 2),
}
"""Operators that move strings, and the inputs that have to be strings; of Concat all. An operator
that would make up elements (Pad, ConstantOfShape) is not among them: 0 is no address."""

READS_STRINGS = {
    "CategoryMapper": (0,),
    "Equal": (0, 1),
    "LabelEncoder": (0,),
    "OneHotEncoder": (0,),
    "RegexFullMatch": (0,),
    "Shape": (0,),
    "Size": (0,),
    "StringConcat": (0, 1),
    "StringNormalizer": (0,),
    "StringSplit": (0,),
    "Unique": (0,),
}
"""Operators whose converters know strings, and the inputs that have to be strings."""

STRINGS_ML = frozenset(("ArrayFeatureExtractor", "CategoryMapper", "LabelEncoder", "OneHotEncoder"))
"""Those of both that are of ai.onnx.ml; the others are of ONNX's own domain."""

READS_BYTES = frozenset("Cast CastLike DequantizeLinear QuantizeLinear Shape Size".split())
"""Operators whose converters know small types."""


@dataclass(frozen=True)
class Carried:
    """A converter's result: what stands for elements of a carried type."""

    expr: relax.Expr
    dtype: str


def carrier_of(dtype: str) -> str:
    """The type that a tensor of that element type has in Relax."""
    if dtype == STRING:
        return "int64"
    return "uint8" if dtype in SMALL_TYPES else dtype


def carried(array: np.ndarray) -> np.ndarray:
    """The elements as Relax has them: bytes, for a small type."""
    return array.view(np.uint8) if array.dtype.name in SMALL_TYPES else array


def integer_limits(dtype: str) -> tuple[int, int]:
    """The least and the largest value of an integer type, small ones included."""
    if dtype not in SMALL_INTEGERS:
        info = np.iinfo(dtype)
        return int(info.min), int(info.max)
    bits = SMALL_INTEGERS[dtype]
    return (0, (1 << bits) - 1) if dtype[0] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def decoded(byte: Any, dtype: str) -> Any:
    """The value of one element: int8 or uint8 for an integer, float32 for a float.

    Bits are handled as unsigned numbers: passes take int32 for indices and may widen it.
    """
    if dtype in SMALL_INTEGERS:
        bits = SMALL_INTEGERS[dtype]
        if dtype[0] == "u":
            return byte & tirx.const(_mask(bits), "uint8")
        places = tirx.const(8 - bits, "int8")
        return (byte.astype("int8") << places) >> places
    code = byte.astype("uint32")
    if dtype == EXPONENT:
        # 2^-127 is a subnormal number of float32
        bits = tirx.Select(code == _uint(0), _uint(0x00400000), code << _uint(23))
        return tirx.Select(code == _uint(255), _float(float("nan")), _as_float(bits))
    kind = SMALL_FLOATS[dtype]
    magnitude = code & _uint(kind.sign - 1)
    field = magnitude >> _uint(kind.mantissa_bits)
    mantissa = magnitude & _uint(_mask(kind.mantissa_bits))
    whole = tirx.Select(field > _uint(0), mantissa + _uint(1 << kind.mantissa_bits), mantissa)
    exponent = tirx.max(field, _uint(1)) + _uint(127 - kind.bias - kind.mantissa_bits)
    value = whole.astype("float32") * _as_float(exponent << _uint(23))
    if dtype == "float8_e5m2":
        value = tirx.Select(magnitude == _uint(0x7C), _float(float("inf")), value)
        value = tirx.Select(magnitude > _uint(0x7C), _float(float("nan")), value)
    if dtype == "float8_e4m3fn":
        value = tirx.Select(magnitude == _uint(0x7F), _float(float("nan")), value)
    value = tirx.Select((code & _uint(kind.sign)) != _uint(0), _float(-1.0) * value, value)
    if kind.unsigned_zero:
        value = tirx.Select(code == _uint(kind.nan), _float(float("nan")), value)
    return value


def encoded_float(value: Any, dtype: str, saturate: bool) -> Any:
    """The byte of a float32 or float64 element, rounded half to even."""
    kind = SMALL_FLOATS[dtype]
    double = str(value.ty.dtype) == "float64"
    wide, unsigned = ("float64", "uint64") if double else ("float32", "uint32")
    fraction, offset, top = (52, 1023, 63) if double else (23, 127, 31)

    def number(v: int) -> Any:
        return tirx.const(v, unsigned)

    is_negative = (tirx.reinterpret(unsigned, value) >> number(top)) != number(0)
    # the order of the operands makes a NaN large, so that no conversion below is undefined
    largest = 2.0 ** (1 << kind.exponent_bits)
    size = tirx.min(tirx.abs(value), tirx.const(largest, wide))
    least = 1 - kind.bias + offset
    exponent = tirx.max(tirx.reinterpret(unsigned, size) >> number(fraction), number(least))
    # size in units of the last place, exactly: the factor is a power of two
    factor = (number(2 * offset + kind.mantissa_bits) - exponent) << number(fraction)
    units = tirx.nearbyint(size * tirx.reinterpret(wide, factor)).astype(unsigned)
    code = ((exponent - number(least)) << number(kind.mantissa_bits)) + units
    above = kind.largest if saturate else kind.overflow
    code = tirx.Select(code > number(kind.largest), number(above), code).astype("uint32")
    signed = tirx.Select(is_negative, code | _uint(kind.sign), code)
    if kind.unsigned_zero:
        signed = tirx.Select(tirx.any(code == _uint(0), code == _uint(kind.nan)), code, signed)
    return tirx.Select(tirx.isnan(value), _uint(kind.nan), signed).astype("uint8")


def encoded_exponent(value: Any, mode: str) -> Any:
    """The byte of a float32 element as a power of two, saturated; mode: up, down or nearest."""
    bits = tirx.reinterpret("uint32", value)
    field = (bits >> _uint(23)) & _uint(0xFF)
    fraction = bits & _uint(0x7FFFFF)
    raised = {
        "up": fraction > _uint(0),
        # ties go up; below the least normal number half of the step is 2^-127 itself
        "nearest": tirx.Select(
            field > _uint(0), fraction >= _uint(0x400000), fraction > _uint(0x400000)
        ),
        "down": tirx.const(False, "bool"),
    }[mode]
    code = tirx.min(field + raised.astype("uint32"), _uint(254))
    return tirx.Select(tirx.isnan(value), _uint(255), code).astype("uint8")


def encoded_integer(value: Any, dtype: str) -> Any:
    """The byte of an integer element: its low bits."""
    low = value.astype("int32").astype("uint8")
    return low & tirx.const(_mask(SMALL_INTEGERS[dtype]), "uint8")


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _uint(value: int) -> Any:
    return tirx.const(value, "uint32")


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _as_float(bits: Any) -> Any:
    return tirx.reinterpret("float32", bits)
