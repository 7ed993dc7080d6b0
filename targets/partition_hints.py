"""Where TVM's LoopPartition must not be let loose, and where its pieces have to be cut."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer

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


_PLACE = "athanor.place"
"""A statement around the body of a loop to be partitioned: node holds the loop's number and extent,
value is the place in the loop, which becomes `variable of the piece + where it begins`."""


@tvm.transform.module_pass(opt_level=0, name="MarkPlaces")
class MarkPlaces:
    """Note in each loop with a hint, before LoopPartition, what CutPieces needs after it."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        count = 0

        def mark(hint: tirx.AttrStmt) -> tirx.Stmt:
            nonlocal count
            loop = hint.body
            if hint.attr_key != HINT or not isinstance(loop, tirx.For):
                return hint
            count += 1
            node = {"number": count, "extent": loop.extent}
            body = tirx.AttrStmt(node, _PLACE, loop.loop_var, loop.body)
            marked = _with(loop, loop.extent, body)
            return tirx.AttrStmt(hint.node, HINT, hint.value, marked)

        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.AttrStmt, mark), order="post")
                mod[variable] = func.with_body(body)
        return mod


@tvm.transform.module_pass(opt_level=0, name="CutPieces")
class CutPieces:
    """Cut the pieces of a partitioned loop so that none runs out of it or into another.

        for i, j in T.grid(4, 5):                                   # hint on j
            y[i, j] = T.Select(3 <= j - i, x[i, j], 0)

    becomes in LoopPartition (TVM 0.27) `for j in range(i + 3)` and a rest: in row 3 the first piece
    has 6 elements. It checks that a piece does not begin before the loop, not that it ends in it.
    Just after LoopPartition; what is provably right stays as it is.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                mod[variable] = func.with_body(_cut(func.body))
        return mod


def _cut(body: tirx.Stmt) -> tirx.Stmt:
    analyzer = _analyzer_of(body)
    ends: dict[int, Any] = {}

    def cut(loop: tirx.For) -> tirx.Stmt:
        place = loop.body
        if not isinstance(place, tirx.AttrStmt) or place.attr_key != _PLACE:
            return loop
        number, whole = int(place.node["number"]), place.node["extent"]
        begin = analyzer.simplify(place.value - loop.loop_var)
        end, inner = begin + loop.extent, place.body
        done = 0 if analyzer.can_prove(tirx.EQ(begin, whole * 0)) else ends.get(number, 0)
        if not analyzer.can_prove(begin >= done):
            first = tirx.max(begin, done)
            inner, begin = _moved(inner, loop.loop_var, first - begin), first
        if not analyzer.can_prove(end <= whole):
            end = tirx.min(end, whole)
        ends[number] = end = end if analyzer.can_prove(end >= begin) else tirx.max(end, begin)
        return _with(loop, analyzer.simplify(end - begin), inner)

    def drop(mark: tirx.AttrStmt) -> tirx.Stmt:
        return mark.body if mark.attr_key == _PLACE else mark

    body = tvm_ffi.structural_map(body, (tirx.For, cut), order="post")
    return tvm_ffi.structural_map(body, (tirx.AttrStmt, drop), order="post")


def _moved(body: tirx.Stmt, variable: tirx.Var, distance: Any) -> tirx.Stmt:
    """The body with `variable + distance` in place of the variable."""

    def place(var: tirx.Var) -> Any:
        return var + distance if var.same_as(variable) else var

    return tvm_ffi.structural_map(body, (tirx.Var, place), order="post")


def _with(loop: tirx.For, extent: Any, body: tirx.Stmt) -> tirx.For:
    annotations, binding = loop.annotations, loop.thread_binding
    return tirx.For(loop.loop_var, loop.min, extent, loop.kind, body, binding, annotations)


def _analyzer_of(body: tirx.Stmt) -> Analyzer:
    """An analyzer that knows the loops of fixed extent."""
    analyzer, extents = Analyzer(), {}

    def see(loop: tirx.For) -> None:
        extents.setdefault(loop.loop_var.__hash__(), []).append(loop)

    tvm_ffi.structural_walk(body, (tirx.For, see))
    for loops in extents.values():
        if all(isinstance(loop.extent, tirx.IntImm) for loop in loops):
            longest = max(loops, key=lambda loop: int(loop.extent))
            limit = tvm.ir.Range.from_min_extent(longest.min, longest.extent)
            analyzer.bind(longest.loop_var, limit)
    return analyzer
