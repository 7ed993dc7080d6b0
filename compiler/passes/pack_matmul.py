"""Pack constant matrices for the matrix product kernels."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, te
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    call_of,
    constant_array,
    op_name,
)
from athanor.schedules.compute import matmul
from athanor.schedules.compute.bf16 import pack_pairs
from athanor.targets import TargetSpec


@tvm.transform.module_pass(opt_level=0, name="PackMatmul")
class PackMatmul:
    """Turn `matmul` into the computes that the matrix product rules schedule.

        y = R.matmul(x, w)    =>    y = matmul_packed(x, packed w)    # w constant, (K, N)
        y = R.matmul(a, b)    =>    y = batch_matmul(a, b)            # both known at run time

    A transpose of the last two axes in front of `b` is taken into the product. Packed weights are
    (N / panel, K, panel), zero-padded. With bf16, an even K is multiplied in pairs of bfloat16:

        y = R.matmul(x, w)    =>    y = matmul_packed(R.astype(x, "bfloat16"), packed pairs of w)

    float32 only; other types keep Relax's own legalization.
    After FoldConstants, before LegalizeOps.
    """

    def __init__(self, target: TargetSpec, bf16: bool = False) -> None:
        self.target, self.bf16 = target, bf16

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.target, self.bf16).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, target: TargetSpec, bf16: bool) -> None:
        super().__init__(mod)
        self.target, self.bf16 = target, bf16

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.matmul" or str(old.ty.dtype) != "float32":
            return None
        a, b = call.args
        ranks = [len(arg.ty.shape.values) for arg in (a, b)]
        if min(ranks) < 2 or any(str(arg.ty.dtype) != "float32" for arg in (a, b)):
            return None
        weights = self.constant(b)
        if weights is not None and ranks[1] == 2:
            depth, columns = weights.shape
            if matmul.worth_dots(depth, columns, self.target):
                rows = array_constant(weights.T)
                return self.emit(self.call(matmul.matmul_dots, a, rows, hint="matmul"), name)
            packed = array_constant(matmul.weight_panels(weights, False, self.target))
            if self.bf16 and depth % 2 == 0:
                a, packed = self.narrow(a), relax.const(pack_pairs(constant_array(packed), 1))

            def dense(x: te.Tensor, w: te.Tensor) -> te.Tensor:
                return matmul.matmul_packed(x, w, columns)

            made = self.call(dense, a, packed, hint="matmul")
            return self.emit(made, name)
        return self.run_time_product(a, b, ranks, name)

    def run_time_product(self, a: Expr, b: Expr, ranks: list[int], name: str) -> Expr | None:
        batch_a, batch_b = (arg.ty.shape.values[:-2] for arg in (a, b))
        if ranks[0] != ranks[1] or not tvm_ffi.structural_equal(batch_a, batch_b):
            return None  # broadcast batches keep Relax's legalization
        swapped = self.swaps_last_axes(b)
        source = self.definition[b].args[0] if swapped else b

        def product(left: te.Tensor, right: te.Tensor) -> te.Tensor:
            return matmul.batch_matmul(left, right, False, swapped)

        return self.emit(self.call(product, a, source, hint="batch_matmul"), name)

    def swaps_last_axes(self, value: Expr) -> bool:
        """Whether `value` is a transpose of its last two axes."""
        made = call_of(self.definition.get(value), "relax.permute_dims")
        if made is None or made.attrs.axes is None:
            return False
        rank = len(made.attrs.axes)
        axes = [int(axis) % rank for axis in made.attrs.axes]
        return axes == [*range(rank - 2), rank - 1, rank - 2]
