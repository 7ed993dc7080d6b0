"""Convolutions of few channels read as many as one copy of a GPU takes."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    op_name,
    static_shape,
)

_TOGETHER = 4
"""Channels of one copy: 8 bytes. A single number of 16 bits is not copied asynchronously."""
_NARROW = ("float16", "bfloat16")
_MOST_WORK = 1.5
"""Multiply-adds after against before."""


@tvm.transform.module_pass(opt_level=0, name="PadChannels")
class PadChannels:
    """Add channels of zeros to a 16-bit convolution of 3 channels, or another odd number.

        y = R.nn.conv2d(x, w)    =>    t = R.nn.pad(x, [0, 0, 0, 1, 0, 0, 0, 0])
                                       y = R.nn.conv2d(t, w with zeros)

    Where the weight is a constant. Before ChannelsLast, whose transpose of the input then writes
    the zeros along. Sums are equal, for what is added are zeros.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.nn.conv2d"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.nn.conv2d" or int(call.attrs.groups) != 1:
            return None
        weight = self.constant(call.args[1])
        shape = static_shape(call.args[1])
        if weight is None or shape is None or str(call.args[1].ty.dtype) not in _NARROW:
            return None
        channels = shape[1]
        more = -channels % _TOGETHER
        if channels % 2 == 0 or channels + more > _MOST_WORK * channels:
            return None
        data = self.emit(relax.op.nn.pad(call.args[0], [0, 0, 0, more, 0, 0, 0, 0]))
        wide = np.pad(weight, [(0, 0), (0, more), (0, 0), (0, 0)])
        return self.emit(relax.Call(call.op, [data, array_constant(wide)], call.attrs), name)
