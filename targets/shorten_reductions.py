"""Loops over input channels that end where an output block's groups end."""

from __future__ import annotations

import json

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer

from athanor.schedules.compute.conv2d import PLAN, Conv2dPlan


@tvm.transform.module_pass(opt_level=0, name="ShortenReductions")
class ShortenReductions:
    """Give the reduction of a grouped convolution the length that its output blocks need.

        for rc in range(17):          # the most that any block needs: two groups of 136 channels
            acc[...] += data[start(oc) + rc, ...] * weight[oc, rc, ...]
    =>
        for rc in range(steps(oc)):   # 9 for a block whose channels are all of one group

    What is left out are products with zeros of the packed weight. While blocks are still there,
    after scheduling: the scheduler wants rectangular domains. Channel blocks that one iteration
    computes together take the longest of their reductions.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and PLAN in func.script():
                body = tvm_ffi.structural_map(func.body, (tirx.For, _shortened), order="post")
                mod[variable] = func.with_body(body)
        return mod


def _shortened(loop: tirx.For) -> tirx.For:
    for realize in _realizes(loop.body):
        plan = realize.block.annotations.get(PLAN)
        if plan is None or not _reduces_over(realize, loop.loop_var):
            continue
        steps = _longest(Conv2dPlan(**json.loads(str(plan))), realize.iter_values[1], loop.body)
        extent = Analyzer().simplify(tirx.min(steps, loop.extent))
        return tirx.For(
            loop.loop_var, loop.min, extent, loop.kind, loop.body, loop.thread_binding,
            loop.annotations,
        )  # fmt: skip
    return loop


def _reduces_over(realize: s_tir.SBlockRealize, variable: tirx.Var) -> bool:
    """Whether the first reduction of a block, which is over reduction blocks, is this loop."""
    for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        if axis.iter_type == tirx.IterVar.CommReduce:
            return value.same_as(variable)
    return False  # the block that sets sums to zero


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
