"""16-bit integer operands of products: pairs along the sum, accumulated in int32."""

from __future__ import annotations

import numpy as np
from tvm import ir, tirx

from athanor.schedules.compute.bf16 import operator

DOT = "athanor.dot_int16"
"""(int32, int32 or int16) -> int32, in any number of lanes: a product of two pairs, added up."""


def dot(left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
    """left.low * right.low + left.high * right.high in int32, of pairs of int16.

    right: a word of two int16, or half a word of two int8. Overflow wraps.
    """
    return ir.Call(operator(DOT), [left, right], ret_ty=ir.PrimType("int32"))


def pack_pairs(array: np.ndarray, axis: int) -> np.ndarray:
    """int16 -> words of two neighbours along `axis`, a 0 behind an odd number of them.

    int32 words; int16 words of two bytes where all numbers fit a byte.
    """
    if array.shape[axis] % 2:
        array = np.pad(array, [(0, int(i == axis)) for i in range(array.ndim)])
    is_small = array.size == 0 or (array.min() >= -128 and array.max() <= 127)
    part, word = (np.int8, np.int16) if is_small else (np.int16, np.int32)
    pairs = np.stack(
        [np.take(array, range(start, array.shape[axis], 2), axis) for start in (0, 1)], axis=-1
    )
    return np.ascontiguousarray(pairs.astype(part)).view(word)[..., 0]
