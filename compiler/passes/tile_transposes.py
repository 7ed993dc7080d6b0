"""Give transposes that move the innermost axis a kernel that keeps both sides in whole lines."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, op_name
from athanor.schedules.blocks import constant
from athanor.schedules.compute.transpose import plan_transpose, transpose_kernel
from athanor.targets import TargetSpec

FEWEST_ELEMENTS = 4096
"""Where a kernel of its own gains more than it costs not to be fused with what is before or behind:
an element that is loaded on its own takes up to 1 ns, a pass over one in vectors 0.1."""


@tvm.transform.module_pass(opt_level=0, name="TileTransposes")
class TileTransposes:
    """Turn `permute_dims` that moves the innermost axis into `schedules.compute.transpose`.

        y = R.permute_dims(x, [0, 2, 1])    =>    y = transpose(x)

    For CPUs, before LegalizeOps and behind every pass that takes transposes away. Declines small
    tensors, symbolic sizes, sides shorter than a vector, types other than float32, and a last axis
    that stays last, whose rows the elementwise rule copies. Keeps every output bit for bit.
    """

    def __init__(self, target: TargetSpec) -> None:
        self.target = target

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.target).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, target: TargetSpec) -> None:
        super().__init__(mod)
        self.lanes = target.lanes(32)

    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.permute_dims"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if not self.concerns(call) or str(old.ty.dtype) != "float32":
            return None
        source = call.args[0]
        if not isinstance(source.ty.shape, relax.ShapeExpr):
            return None
        sizes = [constant(dim) for dim in source.ty.shape.values]
        shape = [size for size in sizes if size is not None]
        if len(shape) < len(sizes):
            return None
        axes = call.attrs.axes
        order = range(len(shape))[::-1] if axes is None else [int(a) % len(shape) for a in axes]
        plan = plan_transpose(shape, order)
        if plan is None or plan.elements < FEWEST_ELEMENTS:
            return None
        if min(plan.rows[0], plan.columns[0]) < self.lanes:
            return None
        kernel = self.builder.add_func(transpose_kernel(plan, self.lanes), "transpose")
        flat = self.emit(relax.op.reshape(source, [plan.elements]))
        ty = relax.TensorType([plan.elements], "float32")
        made = self.emit(relax.call_tir(kernel, [flat], ty), name)
        return self.emit(relax.op.reshape(made, old.ty.shape))
