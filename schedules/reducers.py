"""Reductions that TVM does not know by itself, so that it splits them into partial results too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from athanor.targets.nan_maxima import passing_nan_on


def hand_nan_on(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Maxima and minima of floats that start from an infinity, as ones that are NaN at a NaN.

    Those of ReduceMax and its kin. A maximum from the lowest number on, as softmax takes it, stays:
    there a NaN comes out of the sum, and processors have one instruction for it.
    """
    _register()

    def visit(block: s_tir.SBlock) -> s_tir.SBlock:
        start, store = block.init, block.body
        if not isinstance(start, tirx.BufferStore) or not isinstance(store, tirx.BufferStore):
            return block
        if not isinstance(start.value, tirx.FloatImm) or not math.isinf(start.value.value):
            return block
        if not isinstance(store.value, (tirx.Max, tirx.Min)):
            return block
        body = tirx.BufferStore(store.buffer, passing_nan_on(store.value), store.indices)
        return s_tir.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            body,
            start,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    body = tvm_ffi.structural_map(func.body, (s_tir.SBlock, visit), order="post")
    return func if body.same_as(func.body) else func.with_body(body)


@functools.cache
def _register() -> None:
    """Tell TVM's scheduler of them, once."""
    known = tvm.get_global_func("s_tir.schedule.RegisterReducer")
    for kind, start in ((tirx.Max, -math.inf), (tirx.Min, math.inf)):
        known(
            1,
            _kept(f"combine_{kind.__name__}", _combine(kind)),
            _kept(f"start_{start}", _start(start)),
        )


def _kept(name: str, function: Callable[..., list[tirx.Expr]]) -> tvm_ffi.Function:
    """`function` as one of the global functions: the scheduler outlives the interpreter."""
    tvm.register_global_func(f"athanor.reducers.{name}", function, override=True)
    return tvm.get_global_func(f"athanor.reducers.{name}")


def _combine(kind: type) -> Callable[..., list[tirx.Expr]]:
    return lambda old, new: [passing_nan_on(kind(old[0], new[0]))]


def _start(value: float) -> Callable[..., list[tirx.Expr]]:
    return lambda elements: [tirx.const(value, str(elements[0].ty.dtype))]
