"""Convolutions and what lies between them with channels last."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, op_name


@tvm.transform.module_pass(opt_level=0, name="ChannelsLast")
class ChannelsLast:
    """Compute convolutions in NHWC, weights (O, KH, KW, C), and keep values in it in between.

        y = R.nn.conv2d(x, w)                t = R.permute_dims(x, (0, 2, 3, 1))
        z = R.clip(y, 0, 6)           =>     y = R.nn.conv2d(t, w', data_layout="NHWC", ...)
        v = R.nn.max_pool2d(z)               z = R.maximum(R.minimum(y, 6), 0)
                                             v = R.permute_dims(R.nn.max_pool2d(z, "NHWC"), ...)

    By Relax's ConvertLayout; a clip becomes what that knows. Neighbouring threads then read
    neighbouring channels, and a convolution is a product whose depth is dense. A graph without
    convolutions stays as it is. After weights are final, before FoldConstants, which turns them.
    Results stay equal but for the order of sums.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
        if not any(op_name(value) == "relax.nn.conv2d" for value in values):
            return mod
        # There is no lowering of a transposed one but in NCHW.
        kept = {"relax.nn.conv2d_transpose": ["NCHW", "IOHW"]}
        layouts = {"relax.nn.conv2d": ["NHWC", "OHWI"], **kept}
        return relax.transform.ConvertLayout(layouts)(_Clips(mod).run())


class _Clips(GraphRewriter):
    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.clip" or len(old.ty.shape.values) != 4:
            return None
        dtype = str(old.ty.dtype)
        if not dtype.startswith(("float", "bfloat")):
            return None
        low, high = (relax.const(float(bound.value), dtype) for bound in call.args[1:])
        most = self.emit(relax.op.minimum(call.args[0], high))
        return self.emit(relax.op.maximum(most, low), name)
