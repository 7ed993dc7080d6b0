"""Leave out the taps of convolutions that meet nothing but padding."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, array_constant, op_name
from athanor.schedules.blocks import constant


@tvm.transform.module_pass(opt_level=0, name="TrimKernels")
class TrimKernels:
    """Cut the outer rows and columns of constant kernels that reach past the map everywhere.

        y = R.nn.conv2d(x, w, padding=1)    =>    y = R.nn.conv2d(x, w[:, :, 1:2], padding=(0, 1))
        # x (N, C, 1, W), w (O, C, 3, 3)

    As large kernels on small maps do, and dilated ones on maps of any size. Before BlockLayouts,
    which chooses by the kernel's size. Keeps results bit for bit where the taps are finite.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.nn.conv2d" and any(int(pad) for pad in call.attrs.padding)

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        weights = self.plain_weights(call, "relax.nn.conv2d", "OIHW")
        if weights is None:
            return None
        attrs = call.attrs
        pads, cuts = [int(pad) for pad in attrs.padding], []
        for axis in (0, 1):
            length, results = (
                constant(value.ty.shape.values[axis + 2]) for value in (call.args[0], old)
            )
            taps, step = weights.shape[axis + 2], int(attrs.dilation[axis])
            stride = int(attrs.strides[axis])
            first, last = useful_taps(length, results, taps, stride, step, pads[axis::2])
            pads[axis] -= first * step
            pads[axis + 2] -= (taps - last) * step
            cuts.append(slice(first, last))
        trimmed = weights[:, :, cuts[0], cuts[1]]
        if trimmed.shape == weights.shape:
            return None
        made = relax.op.nn.conv2d(
            call.args[0],
            array_constant(trimmed),
            strides=attrs.strides,
            padding=pads,
            dilation=attrs.dilation,
            groups=int(attrs.groups),
            out_dtype=str(old.ty.dtype),
        )
        return self.emit(made, name)


def useful_taps(
    length: int | None, results: int | None, taps: int, stride: int, step: int, pads: list[int]
) -> tuple[int, int]:
    """Of an axis: the first tap that any result needs, and one past the last; at least one.

    length and results: elements of input and output; pads: before and behind the input.
    """
    first, last = 0, taps
    if not length or not results:
        return first, last

    def meets(tap: int) -> bool:
        places = range(tap * step - pads[0], tap * step - pads[0] + results * stride, stride)
        return any(0 <= place < length for place in places)

    while last - first > 1 and (first + 1) * step <= pads[0] and not meets(first):
        first += 1
    while last - first > 1 and (taps - last + 1) * step <= pads[1] and not meets(last - 1):
        last -= 1
    return first, last
