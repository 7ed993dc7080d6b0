"""Let kernels of whole rows read narrow floats, and compute with wide ones."""

from __future__ import annotations

import tvm
from tvm import relax, te
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.legalize import ROW_OPERATORS, row_kernel_name
from athanor.compiler.passes.rewrite import GraphRewriter, call_of, op_name


@tvm.transform.module_pass(opt_level=0, name="WidenWithin")
class WidenWithin:
    """Turn the widening of a row operator's operand into a part of its kernel.

        w = R.astype(x, "float32")      # x: float16
        y = R.nn.softmax(w)             =>    y = call_tir(softmax, x)

    The kernel then reads half of the bytes, and the wide copy is not made. FuseOps fuses what
    follows such a kernel, not what comes before. After products are arranged, before LegalizeOps.
    Keeps outputs bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) in ROW_OPERATORS

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        if kind not in ROW_OPERATORS:
            return None
        widened = call_of(self.definition.get(call.args[0]), "relax.astype")
        if widened is None:
            return None
        source, dtype = widened.args[0], str(call.args[0].ty.dtype)
        if str(source.ty.dtype) not in ("float16", "bfloat16") or dtype != "float32":
            return None
        operator = ROW_OPERATORS[kind](call)

        def compute(x: te.Tensor, *others: te.Tensor) -> te.Tensor:
            wide = te.compute(x.shape, lambda *i: x(*i).astype(dtype), name="widened")
            return operator(wide, *others)

        made = self.call(compute, source, *call.args[1:], hint=row_kernel_name(kind))
        return self.emit(made, name)
