"""Depthwise convolutions whose weights lie as a GPU's threads read them."""

from __future__ import annotations

import tvm
from tvm import relax, te
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    op_name,
    padding_of,
    pair_of,
    static_shape,
)
from athanor.schedules.compute.conv2d_channels_last import depthwise_channels_last


@tvm.transform.module_pass(opt_level=0, name="ArrangeDepthwise")
class ArrangeDepthwise:
    """Turn a depthwise `conv2d` with channels last into the compute that has a rule of its own.

        R.nn.conv2d(x, w, groups=C)    =>    depthwise_channels_last(x, w')    # w (C, KH, KW, 1)
                                                                               # w' (KH, KW, C)

    So that neighbouring threads read neighbouring weights. Declines weights of the run, and more
    than one result for a channel. After ChannelsLast and FoldConstants, before LegalizeOps. Results
    stay equal bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.nn.conv2d" and int(call.attrs.groups) > 1

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if not self.concerns(call):
            return None
        attrs = call.attrs
        data, weights = call.args[0], self.constant(call.args[1])
        if (attrs.data_layout, attrs.kernel_layout) != ("NHWC", "OHWI") or weights is None:
            return None
        shape, groups = static_shape(data), int(attrs.groups)
        if shape is None or not groups == shape[3] == weights.shape[0] or weights.shape[3] != 1:
            return None
        dtype = str(old.ty.dtype)
        strides, dilation = pair_of(attrs.strides), pair_of(attrs.dilation)
        padding = padding_of(attrs.padding)

        def compute(left: te.Tensor, right: te.Tensor) -> te.Tensor:
            return depthwise_channels_last(left, right, strides, padding, dilation, dtype)

        turned = array_constant(weights[..., 0].transpose(1, 2, 0))
        return self.emit(self.call(compute, data, turned, hint="depthwise"), name)
