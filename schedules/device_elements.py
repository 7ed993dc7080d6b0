"""Kernels for a GPU that compute each element on its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.schedules import blocks
from athanor.schedules.device_rows import StageEmitter
from athanor.schedules.device_threads import RowPlan, RowThreads, when
from athanor.schedules.row_stages import RowFunction
from athanor.schedules.rules.by_hand import SCHEDULED
from athanor.schedules.written_loops import i64


def element_kernel(
    func: tirx.PrimFunc, functions: list[RowFunction], plans: list[tuple[int, int]]
) -> tirx.PrimFunc:
    """`func` as a launch for each of `functions`, which have one stage each.

    plans: threads of a block, and neighbouring elements of one thread, which divide a row.
    """
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("elements")
            for function, (threads, vector) in zip(functions, plans, strict=True):
                plan = RowPlan(threads, 1, vector, 0)
                with _ElementThreads(function, plan) as loops:
                    StageEmitter(function, plan, loops).emit()
    made = tirx.PrimFunc(func.params, frame.get().body, func.ret_type, func.attrs)
    return made.with_attr({SCHEDULED: True})


class _ElementThreads(RowThreads):
    """Context: one launch, within it the thread's vector of some row."""

    def __enter__(self) -> _ElementThreads:
        plan = self.plan
        pieces = tirx.floordiv(self.function.length, i64(plan.vector))
        total = self.count * pieces
        known = blocks.constant(total)
        grid = -(-known // plan.threads) if known is not None else None
        if grid is None:
            grid = tirx.floordiv(total + (plan.threads - 1), i64(plan.threads))
        block = self.bound(grid, "blockIdx.x")
        thread = self.bound(plan.threads, "threadIdx.x")
        number = block * plan.threads + thread
        self.row = i64(0)
        self.first = number * plan.vector
        if self.function.rows:
            self.row = tirx.floordiv(number, pieces)
            self.first = tirx.floormod(number, pieces) * plan.vector
        self.exact = True
        whole = known is not None and known % plan.threads == 0
        self.within = None if whole else number < total
        self.flatten()
        return self

    def element(self, chunk: Any, lane: Any) -> Any:
        return self.first + lane

    def storing(self, once: bool = False) -> AbstractContextManager[Any]:
        return when(self.within if once else None)  # else within over_chunks

    def over_chunks(self, body: Callable[[Any], None]) -> None:
        with when(self.within):
            body(i64(0))
