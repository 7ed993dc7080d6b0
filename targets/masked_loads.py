"""Conditional loads of vectors -> masked loads."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule
from tvm.sym import detect_linear_equation

from athanor.targets.partition_loops import CONDITIONAL, uses
from athanor.targets.target import TargetSpec
from athanor.targets.vector_calls import QuestionsForNaN, VectorCalls
from athanor.targets.vector_divisions import DivideFloats


def vectorize_loops(target: TargetSpec) -> tvm.transform.Sequential:
    """TVM's VectorizeLoop, which by itself turns a load with a condition into a loop over lanes."""
    vectorize = [DivideFloats(), VectorCalls(), tirx.transform.VectorizeLoop(True)]
    vectorize.append(QuestionsForNaN())
    if target.masked_loads:
        vectorize = [SelectLanes(), *vectorize, MaskLoads()]
    return tvm.transform.Sequential(vectorize)


@tvm.transform.module_pass(opt_level=0, name="SelectLanes")
class SelectLanes:
    """Conditions of neighbouring loads in vectorized loops as selections, which become vectors.

        for lane in T.vectorized(16):
            y[lane] = T.if_then_else(x + lane < n, data[x + lane], 0)
    =>
            y[lane] = T.Select(x + lane < n, data[x + lane], 0)

    Nothing reads where the condition doesn't hold: `MaskLoads` sees to it right after vectorizing.
    Branches that all lanes take or leave go around the loop (64 maps of 65x65, 3x3: 54 us, 250
    with them inside). With others it stays, for VectorizeLoop makes loops over lanes of them.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""

        def lanes(loop: tirx.For) -> tirx.Stmt:
            body, conditions = loop.body, []
            while isinstance(body, tirx.IfThenElse) and body.else_case is None:
                if uses(body.condition, loop.loop_var):
                    break
                conditions.append(body.condition)
                body = body.then_case
            if loop.kind != tirx.ForKind.VECTORIZED or _has_branches(body):
                return loop
            body = tvm_ffi.structural_map(
                body, (ir.Call, lambda call: _selection(call, loop.loop_var)), order="post"
            )
            kept = loop.annotations
            made: tirx.Stmt = tirx.For(
                loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, kept
            )
            for condition in reversed(conditions):
                if not (isinstance(condition, tirx.IntImm) and int(condition)):
                    made = tirx.IfThenElse(condition, made, None)
            return made

        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.For, lanes), order="post")
                mod[variable] = func.with_body(body)
        return mod


@tvm.transform.module_pass(opt_level=0, name="MaskLoads")
class MaskLoads:
    """Selections between a vector of memory and another one, as masked loads.

        T.Select(lanes < n, data[x:x + 16], T.broadcast(0, 16))
    =>
        llvm.masked.load(address_of(data[x]), lanes < n, T.broadcast(0, 16))

    A lane that the mask leaves out is not read, so that it may lie outside of what was allocated.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.Select, _masked), order="post")
                mod[variable] = func.with_body(body)
        return mod


def _selection(call: ir.Call, lane: tirx.Var) -> tirx.Expr:
    """`if_then_else(condition of the lane, neighbouring load, constant)` as a Select."""
    if not CONDITIONAL.same_as(call.op):
        return call
    condition, load, other = call.args
    if not isinstance(load, ir.TensorLoad) or not isinstance(other, tirx.FloatImm):
        return call
    if str(load.ty.dtype) != "float32" or len(load.indices) != 1 or not uses(condition, lane):
        return call
    mask = _of_lanes(condition, lane)
    if mask is None or _factor(load.indices[0], lane)[0] != 1:
        return call
    return tirx.Select(mask, load, other)


def _of_lanes(condition: tirx.Expr, lane: tirx.Var) -> tirx.Expr | None:
    """The condition by comparisons of the lane's number, 32 bits wide as what is loaded is."""
    if isinstance(condition, tirx.And):
        first, second = _of_lanes(condition.a, lane), _of_lanes(condition.b, lane)
        return None if first is None or second is None else tirx.And(first, second)
    if not uses(condition, lane):
        return condition
    if not isinstance(condition, tirx.LT | tirx.LE | tirx.GT | tirx.GE):
        return None
    a, b = condition.a, condition.b
    if isinstance(condition, tirx.GT | tirx.GE):
        a, b = b, a
    factor, rest = _factor(a - b if isinstance(condition, tirx.LT | tirx.GT) else a - b - 1, lane)
    number = lane.astype("int32")
    if factor == 1:  # lane + rest < 0
        return number < tirx.Cast("int32", -rest)
    return number > tirx.Cast("int32", rest) if factor == -1 else None


def _factor(index: tirx.Expr, lane: tirx.Var) -> tuple[int, tirx.Expr]:
    """What the lane's number is multiplied by, and what is added; factor 0: not linear."""
    terms = detect_linear_equation(index, [lane])
    if not terms or not isinstance(terms[0], tirx.IntImm):
        return 0, index
    return int(terms[0]), terms[1]


def _has_branches(body: tirx.Stmt) -> bool:
    found: list[tirx.IfThenElse] = []
    tvm_ffi.structural_walk(body, (tirx.IfThenElse, found.append))
    return bool(found)


def _masked(select: tirx.Select) -> tirx.Expr:
    load, mask = select.true_value, select.condition
    if not isinstance(load, ir.TensorLoad) or not isinstance(load.indices[-1], tirx.Ramp):
        return select
    lanes = int(load.indices[-1].lanes)
    if str(mask.ty.dtype) != f"boolx{lanes}" or str(load.ty.dtype) != f"float32x{lanes}":
        return select
    first = tirx.BufferLoad(load.source, [load.indices[-1].base])
    name = f"llvm.masked.load.v{lanes}f32.p0"
    return tirx.call_llvm_pure_intrin(
        str(load.ty.dtype), name, tirx.address_of(first), mask, select.false_value
    )
