"""bfloat16 operands of products: pairs along the sum, accumulated in float32."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
from tvm import ir, te, tirx
from tvm.ir.op import register_op_attr

DOT = "athanor.dot_bf16"
"""(int32, int32) -> float32, in any number of lanes: a product of two pairs, added up."""
PAIR = "athanor.pair_bf16"
"""(uint16, uint16) -> int32: both, the first in the low half."""
BITS = "bits_bf16"
"""Name of the block that `bits` makes; a schedule inlines it."""
ROUND = "athanor.round_bf16"
"""float32 -> uint16: the bits of the nearest bfloat16."""


@functools.cache
def operator(name: str) -> ir.Op:
    """TVM's operator of that name: without side effects, and lane by lane in vectors."""
    pure = ir.Op.get("tirx.exp").get_attr("TCallEffectKind")
    register_op_attr(name, "TCallEffectKind", int(pure))
    register_op_attr(name, "TVectorizable", True)
    register_op_attr(name, "TScriptPrinterName", name)
    return ir.Op.get(name)


def bits(tensor: te.Tensor) -> te.Tensor:
    """The bits of a bfloat16 tensor, as uint16.

    TVM keeps bfloat16 scratch memory, and what its operators take, in float32; integers stay.
    """
    return te.compute(tensor.shape, lambda *i: tirx.reinterpret("uint16", tensor(*i)), name=BITS)


def pair(first: tirx.Expr, second: tirx.Expr) -> tirx.Expr:
    """The `bits` of two numbers as one int32. Of neighbours in memory it is one load.

    See `targets.bf16_dots`.
    """
    return ir.Call(operator(PAIR), [first, second], ret_ty=ir.PrimType("int32"))


def dot(left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
    """left.low * right.low + left.high * right.high in float32, of pairs of bfloat16.

    Denormal numbers count as zeros, as AVX512_BF16 has it.
    """
    return ir.Call(operator(DOT), [left, right], ret_ty=ir.PrimType("float32"))


def pack_pairs(array: np.ndarray, axis: int) -> np.ndarray:
    """float32 -> words of two bfloat16 that are neighbours along `axis`, whose length is even."""
    halves = array.astype(ml_dtypes.bfloat16).view(np.uint16).astype(np.uint32)
    low, high = (np.take(halves, range(start, array.shape[axis], 2), axis) for start in (0, 1))
    return np.ascontiguousarray(low | (high << 16)).view(np.int32)
