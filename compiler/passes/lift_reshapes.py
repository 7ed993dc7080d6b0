"""Reshapes behind matrix products before them, where they part nothing that could be one kernel."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, IRModule
from tvm_ffi import structural_equal

from athanor.compiler.passes.rewrite import GraphRewriter, op_name

_ELEMENTWISE = (
    "relax.add",
    "relax.astype",
    "relax.clip",
    "relax.divide",
    "relax.maximum",
    "relax.minimum",
    "relax.multiply",
    "relax.nn.gelu",
    "relax.nn.relu",
    "relax.nn.silu",
    "relax.sigmoid",
    "relax.subtract",
    "relax.tanh",
)


@tvm.transform.module_pass(opt_level=0, name="LiftReshapes")
class LiftReshapes:
    """Multiply in the shape that follows, where a product's rows are only counted otherwise.

        lv = R.matmul(x, w)               # (64, 8)         lv = R.reshape(x, (2, 32, 4))
        lv1 = R.add(lv, bias)                               lv1 = R.matmul(lv, w)
        gv = R.reshape(lv1, (2, 32, 8))             =>      gv = R.add(lv1, bias)

    So that what comes next joins the product's kernel: fusion ends at a reshape. What lies between
    has to be elementwise, with constants of one axis, and be read by nothing else. Before layouts;
    SimplifyViews merges the reshape with one before it. Keeps every output bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.reshape"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.reshape" or not isinstance(old.ty.shape, relax.ShapeExpr):
            return None
        source, shape = call.args[0], list(old.ty.shape.values)
        if not _is_matrix(source) or len(shape) < 3:
            return None
        if not structural_equal(shape[-1], _columns(source)):
            return None
        chain = self.chain(source)
        if chain is None:
            return None
        (_, product), *rest = chain
        left, right = product.args
        inner = [*shape[:-1], _columns(left)]
        value = self.emit(relax.op.reshape(left, inner))
        value = self.emit(relax.Call(product.op, [value, right], product.attrs))
        for former, step in rest:
            arguments = [value if arg.same_as(former) else arg for arg in step.args]
            value = self.emit(relax.Call(step.op, arguments, step.attrs))
        for part, _ in chain:
            self.absorb(part)
        return value

    def chain(self, value: Expr) -> list[tuple[Expr, Call]] | None:
        """The product behind `value` and the steps from there, each with the value that it reads.

        None where there is no product, or anything else reads a part.
        """
        steps: list[tuple[Expr, Call]] = []
        while self.readers.get(value) == 1:
            call = self.definition.get(value)
            if call is None:
                return None
            kind = op_name(call)
            if kind == "relax.matmul" and all(_is_matrix(arg) for arg in call.args):
                return [(value, call), *reversed(steps)]
            if kind not in _ELEMENTWISE:
                return None
            others = [arg for arg in call.args if isinstance(arg, relax.Var)]
            if len(others) != 1 or not all(_is_row(arg) for arg in call.args if arg not in others):
                return None
            steps.append((others[0], call))
            value = others[0]
        return None


def _is_matrix(value: Expr) -> bool:
    if not isinstance(value.ty, relax.TensorType) or value.ty.ndim != 2:
        return False
    return isinstance(value.ty.shape, relax.ShapeExpr)


def _columns(matrix: Expr) -> Expr:
    return matrix.ty.shape.values[1]  # pyright: ignore[reportOptionalMemberAccess]


def _is_row(value: Expr) -> bool:
    """A constant of at most one axis, or an argument that is no tensor."""
    if not isinstance(value, GenericConst):
        return not isinstance(value.ty, relax.TensorType)
    return value.ty.ndim in (0, 1)
