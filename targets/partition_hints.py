"""Where TVM's LoopPartition must not be let loose."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule

HINT = "pragma_loop_partition_hint"
"""Loop annotation by which a schedule rule asks for a loop without conditions and a rest."""


@tvm.transform.module_pass(opt_level=0, name="DropUnsafePartitionHints")
class DropUnsafePartitionHints:
    """Take the hint off loops in which a condition depends on another condition.

        for i1 in range(depth):                    # hint
            one_hot[i1] = T.Select(T.Select(p < 0, p + depth, p) == i1, on, off)

    LoopPartition (TVM 0.27) takes the inner select for the interval [min(p, p + depth),
    max(p, p + depth)], cuts i1 there, and leaves out the very place where the two are equal.
    Just before LoopPartition; a loop without the hint keeps its conditions, and is right.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.AttrStmt, _checked), order="post")
                if not body.same_as(func.body):
                    mod[variable] = func.with_body(body)
        return mod


def _checked(hint: tirx.AttrStmt) -> tirx.Stmt:
    # LowerOpaqueBlock has turned the loop's annotation into a statement around it.
    unsafe = hint.attr_key == HINT and any(map(_has_choice, _conditions(hint.body)))
    return hint.body if unsafe else hint


def _conditions(body: tirx.Stmt) -> list[tirx.Expr]:
    """Conditions of all branches, selects and conditional expressions."""
    found: list[tirx.Expr] = []

    def call(expr: ir.Call) -> None:
        if getattr(expr.op, "name", "") == "tirx.if_then_else":
            found.append(expr.args[0])

    tvm_ffi.structural_walk(body, (tirx.Select, lambda expr: found.append(expr.condition)))
    tvm_ffi.structural_walk(body, (tirx.IfThenElse, lambda stmt: found.append(stmt.condition)))
    tvm_ffi.structural_walk(body, (ir.Call, call))
    return found


def _has_choice(condition: tirx.Expr) -> bool:
    found: list[bool] = []

    def call(expr: ir.Call) -> None:
        if getattr(expr.op, "name", "") == "tirx.if_then_else":
            found.append(True)

    tvm_ffi.structural_walk(condition, (tirx.Select, lambda _expr: found.append(True)))
    tvm_ffi.structural_walk(condition, (ir.Call, call))
    return bool(found)
