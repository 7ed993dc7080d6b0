"""Element types of tensors."""

import ml_dtypes
import numpy as np
import pytest

from athanor.runtime.dtypes import dlpack_type, numpy_dtype

# DLPack's type codes and bits, from dlpack.h.
TYPES = {
    "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64),
    "uint8": (1, 8), "uint16": (1, 16), "uint32": (1, 32), "uint64": (1, 64),
    "float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16),
    "complex64": (5, 64), "complex128": (5, 128), "bool": (6, 8),
    "int4": (0, 4), "uint4": (1, 4), "int2": (0, 2), "uint2": (1, 2),
    "float8_e4m3": (8, 8), "float8_e4m3fn": (10, 8), "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8), "float8_e5m2fnuz": (13, 8), "float8_e8m0fnu": (14, 8),
    "float6_e2m3fn": (15, 6), "float6_e3m2fn": (16, 6), "float4_e2m1fn": (17, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_both_ways(name):
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    assert numpy_dtype(*TYPES[name]) == dtype
    assert dlpack_type(dtype) == TYPES[name]
