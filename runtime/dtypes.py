"""Element types: DLPack's code and bits <-> NumPy's dtype."""

from __future__ import annotations

import numpy as np

_KINDS = {0: "i", 1: "u", 2: "f", 5: "c"}
_CODES = {kind: code for code, kind in _KINDS.items()}
_BOOL = 6
_STRING = (3, 64)
"""An opaque handle; to a user an object array of str."""
_EXTENSION = {
    (4, 16): "bfloat16",
    (0, 4): "int4",
    (1, 4): "uint4",
    (0, 2): "int2",
    (1, 2): "uint2",
    (7, 8): "float8_e3m4",
    (8, 8): "float8_e4m3",
    (9, 8): "float8_e4m3b11fnuz",
    (10, 8): "float8_e4m3fn",
    (11, 8): "float8_e4m3fnuz",
    (12, 8): "float8_e5m2",
    (13, 8): "float8_e5m2fnuz",
    (14, 8): "float8_e8m0fnu",
    (15, 6): "float6_e2m3fn",
    (16, 6): "float6_e3m2fn",
    (17, 4): "float4_e2m1fn",
}
"""Types of ml_dtypes, a package that is imported for them alone."""
_EXTENSION_CODES = {name: pair for pair, name in _EXTENSION.items()}


def numpy_dtype(code: int, bits: int) -> np.dtype:
    """NumPy's dtype of a DLPack type code and the bits of one element."""
    if (code, bits) in _EXTENSION:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _EXTENSION[code, bits]))
    if (code, bits) == _STRING:
        return np.dtype(object)
    if code == _BOOL:
        return np.dtype(np.bool_)
    return np.dtype(f"{_KINDS[code]}{bits // 8}")


def named_dtype(name: str) -> np.dtype:
    """NumPy's dtype of a name in an artifact's metadata."""
    if name == "string":
        return np.dtype(object)
    if name in _EXTENSION_CODES:
        return numpy_dtype(*_EXTENSION_CODES[name])
    return np.dtype(name)


def dlpack_type(dtype: np.dtype) -> tuple[int, int]:
    """DLPack's type code and bits of a dtype that `numpy_dtype` gives."""
    if dtype.kind == "b":
        return _BOOL, 8
    if dtype.kind == "O":
        return _STRING
    if dtype.name in _EXTENSION_CODES:
        return _EXTENSION_CODES[dtype.name]
    return _CODES[dtype.kind], dtype.itemsize * 8
