"""Write every change of shape that moves no data as one reshape."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, call_of, op_name
from athanor.schedules.blocks import constant

_RESHAPES = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")


@tvm.transform.module_pass(opt_level=0, name="SimplifyViews")
class SimplifyViews:
    """Turn squeeze, expand_dims, flatten and trivial transposes into `reshape`, and merge chains.

        lv = R.expand_dims(x, 1)            # x: (2, 3)
        gv = R.reshape(lv, (3, 2))    =>    gv = R.reshape(x, (3, 2))

    Before LegalizeOps, which leaves `reshape` alone: the host program makes it a view. A reshape
    to the same shape disappears. Keeps every output bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) in (*_RESHAPES, "relax.permute_dims")

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        moves_nothing = kind in _RESHAPES or (
            kind == "relax.permute_dims" and _moves_only_unit_axes(call)
        )
        if not moves_nothing or not isinstance(old.ty.shape, relax.ShapeExpr):
            return None
        source = call.args[0]
        earlier = call_of(self.definition.get(source), "relax.reshape")
        if earlier is not None:
            source = earlier.args[0]
        if not isinstance(source.ty.shape, relax.ShapeExpr):
            return None
        if tvm_ffi.structural_equal(source.ty.shape, old.ty.shape):
            return source
        if any(constant(size) == 0 for size in old.ty.shape.values):
            return None  # to reshape, 0 says that a size stays
        return self.emit(relax.op.reshape(source, old.ty.shape), name)


def _moves_only_unit_axes(call: Call) -> bool:
    shape = call.args[0].ty.shape
    if not isinstance(shape, relax.ShapeExpr):
        return False
    rank = len(shape.values)
    axes = call.attrs.axes
    order = [int(axis) % rank for axis in axes] if axes is not None else list(range(rank))[::-1]
    moved = [axis for axis in order if not _is_one(shape.values[axis])]
    return moved == sorted(moved)


def _is_one(dim: Expr) -> bool:
    return isinstance(dim, tvm.tirx.IntImm) and int(dim) == 1
