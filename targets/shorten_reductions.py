"""Reductions over the channels that an output block needs, and the taps that pixels meet."""

from __future__ import annotations

import json

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer

from athanor.schedules.compute.conv2d import PLAN, WINDOW, Conv2dPlan
from athanor.schedules.conv_shape import read_windows
from athanor.targets.partition_loops import HINT


@tvm.transform.module_pass(opt_level=0, name="ShortenReductions")
class ShortenReductions:
    """Give the reduction of a grouped convolution the length that its output blocks need.

        for rc in range(17):          # the most that any block needs: two groups of 136 channels
            acc[...] += data[start(oc) + rc, ...] * weight[oc, rc, ...]
    =>
        for rc in range(steps(oc)):   # 9 for a block whose channels are all of one group

    And that of a padded convolution to the taps that meet elements, tile by tile:

        for kh in range(3):           # dilation 12, for row oh of 28
            acc[...] += pad[oh + 12 * kh, ...] * weight[kh, ...]
    =>
        for kh in range(12 <= oh + 12 * kh < 40):

    What is left out are products with zeros of the packed weight, or of the padding. While blocks
    are still there, after scheduling: the scheduler wants rectangular domains. Channel blocks that
    one iteration computes together take the longest of their reductions, pixels that a tile takes
    together the taps of any of them.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if not isinstance(func, tirx.PrimFunc):
                continue
            marks = {
                mark
                for realize in _realizes(func.body)
                for mark in (PLAN, WINDOW)
                if mark in realize.block.annotations
            }
            for mark, change in ((PLAN, _shortened), (WINDOW, _within)):
                if mark in marks:
                    body = tvm_ffi.structural_map(func.body, (tirx.For, change), order="post")
                    func = func.with_body(body)
            if marks:
                mod[variable] = func
        return mod


def _shortened(loop: tirx.For) -> tirx.For:
    for realize in _realizes(loop.body):
        plan = realize.block.annotations.get(PLAN)
        if plan is None or _reduction_number(realize, loop.loop_var) != 0:
            continue
        steps = _longest(Conv2dPlan(**json.loads(str(plan))), realize.iter_values[1], loop.body)
        extent = Analyzer().simplify(tirx.min(steps, loop.extent))
        return tirx.For(
            loop.loop_var, loop.min, extent, loop.kind, loop.body, loop.thread_binding,
            loop.annotations,
        )  # fmt: skip
    return loop


def _reduction_number(realize: s_tir.SBlockRealize, variable: tirx.Var) -> int | None:
    """Which reduction of a block this loop is: 0 over reduction blocks, 1 rows, 2 columns."""
    values = [
        value
        for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)
        if axis.iter_type == tirx.IterVar.CommReduce
    ]  # none in the block that sets sums to zero
    return next((i for i, value in enumerate(values) if value.same_as(variable)), None)


def _within(loop: tirx.For) -> tirx.For:
    """A loop over rows or columns of taps with those alone that some result of the body needs."""
    for realize in _realizes(loop.body):
        windows = read_windows(realize.block)
        number = _reduction_number(realize, loop.loop_var)
        if windows is None or number not in (1, 2):
            continue
        window, results = windows[number - 1], realize.iter_values[number + 1]
        first, last = _ends(results, loop.body)
        tap = loop.loop_var * window.dilation - window.padding
        met = tirx.all(last * window.stride + tap >= 0, first * window.stride + tap < window.length)

        def guarded(each: s_tir.SBlockRealize, met: tirx.Expr = met) -> s_tir.SBlockRealize:
            return s_tir.SBlockRealize(each.iter_values, tirx.And(each.predicate, met), each.block)

        body = tvm_ffi.structural_map(loop.body, (s_tir.SBlockRealize, guarded))
        marked = {**loop.annotations, HINT: tirx.IntImm("int32", 1)}
        return tirx.For(
            loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, marked
        )
    return loop


def _ends(value: tirx.Expr, body: tirx.Stmt) -> tuple[tirx.Expr, tirx.Expr]:
    """The least and the most that an index of a result is in the loops of the body."""
    inner: list[tirx.For] = []
    tvm_ffi.structural_walk(body, (tirx.For, inner.append))
    first = last = value
    for loop in inner:
        first = _with(first, loop.loop_var, 0)
        last = _with(last, loop.loop_var, int(loop.extent) - 1)
    return first, last


def _longest(plan: Conv2dPlan, block: tirx.Expr, body: tirx.Stmt) -> tirx.Expr:
    """The most steps of the output blocks that loops in `body` walk over."""
    blocks = [block]
    inner: list[tirx.For] = []
    tvm_ffi.structural_walk(body, (tirx.For, lambda loop: inner.append(loop)))
    for loop in inner:
        if any(loop.loop_var.same_as(var) for var in tirx.analysis.undefined_vars(block)):
            blocks = [
                _with(value, loop.loop_var, place)
                for value in blocks
                for place in range(int(loop.extent))
            ]
    longest = plan.steps(blocks[0])
    for other in blocks[1:]:
        longest = tirx.max(longest, plan.steps(other))
    return longest


def _with(value: tirx.Expr, variable: tirx.Var, number: int) -> tirx.Expr:
    def replace(var: tirx.Var) -> tirx.Expr:
        return tirx.IntImm(str(var.ty.dtype), number) if var.same_as(variable) else var

    return tvm_ffi.structural_map(value, (tirx.Var, replace))


def _realizes(stmt: tirx.Stmt) -> list[s_tir.SBlockRealize]:
    found: list[s_tir.SBlockRealize] = []
    tvm_ffi.structural_walk(stmt, (s_tir.SBlockRealize, lambda node: found.append(node)))
    return found
