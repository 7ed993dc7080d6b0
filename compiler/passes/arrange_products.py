"""Matrix products whose operands lie as a GPU's tiles want them."""

from __future__ import annotations

import tvm
from tvm import relax, te
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, array_constant, batches_fit, op_name
from athanor.schedules.compute.product import product

_TYPES = ("float32", "float16", "bfloat16")


@tvm.transform.module_pass(opt_level=0, name="ArrangeProducts")
class ArrangeProducts:
    """Turn `matmul` into the compute that the GPU's product rule schedules.

        y = R.matmul(x, w)                   =>    y = product(x, w^T)     # w constant, now (N, K)
        y = R.matmul(a, R.permute_dims(b))   =>    y = product(a, b)       # of the last two axes

    So that neighbours along the depth lie next to each other, and no transpose is a launch of its
    own. Other products keep Relax's legalization, which the rule takes too. After FoldConstants,
    before LegalizeOps. Results stay equal bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.matmul"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.matmul" or not _has_products(call):
            return None
        a, b = call.args
        swap_a, swap_b = self.swaps_last_axes(a), self.swaps_last_axes(b)
        a = self.definition[a].args[0] if swap_a else a
        b = self.definition[b].args[0] if swap_b else b
        weights = self.constant(b)
        if weights is not None and weights.ndim == 2 and not swap_b:
            b, swap_b = array_constant(weights.T), True
        dtype = str(old.ty.dtype)

        def compute(left: te.Tensor, right: te.Tensor) -> te.Tensor:
            return product(left, right, swap_a, swap_b, dtype)

        return self.emit(self.call(compute, a, b, hint="matmul"), name)


def _has_products(call: Call) -> bool:
    """Matrices of one type that there are kernels for, batch axes equal or 1."""
    a, b = (arg.ty for arg in call.args)
    if a.shape is None or b.shape is None or str(a.dtype) != str(b.dtype):
        return False
    if str(a.dtype) not in _TYPES or min(len(a.shape.values), len(b.shape.values)) < 2:
        return False
    return batches_fit(*call.args)
