"""Write convolution and pooling over one axis as the same over two."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, op_name


@tvm.transform.module_pass(opt_level=0, name="LiftConv1d")
class LiftConv1d:
    """Turn convolutions, transposed too, and pooling over one axis into those of height 1.

        y = R.nn.conv1d(x, w)    =>    x4 = R.reshape(x, (N, C, 1, W))
                                       y4 = R.nn.conv2d(x4, reshape(w, (O, I, 1, K)))
                                       y = R.reshape(y4, (N, O, W'))

    So that one family of layouts and schedule rules serves both. Before BlockLayouts. Keeps
    outputs bit for bit.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


_LIFTED = (
    "relax.nn.conv1d",
    "relax.nn.conv1d_transpose",
    "relax.nn.max_pool1d",
    "relax.nn.avg_pool1d",
)


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) in _LIFTED

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind, attrs = op_name(call), call.attrs
        if kind == "relax.nn.conv1d":
            if attrs.data_layout != "NCW" or attrs.kernel_layout != "OIW":
                return None
            lifted = relax.op.nn.conv2d(
                self.with_height(call.args[0]),
                self.with_height(call.args[1]),
                strides=(1, *_numbers(attrs.strides)),
                padding=_sides(attrs.padding),
                dilation=(1, *_numbers(attrs.dilation)),
                groups=int(attrs.groups),
                out_dtype=str(old.ty.dtype),
            )
        elif kind == "relax.nn.conv1d_transpose":
            if attrs.data_layout != "NCW" or attrs.kernel_layout != "IOW":
                return None
            lifted = relax.op.nn.conv2d_transpose(
                self.with_height(call.args[0]),
                self.with_height(call.args[1]),
                strides=(1, *_numbers(attrs.strides)),
                padding=_sides(attrs.padding),
                output_padding=(0, *_numbers(attrs.output_padding)),
                dilation=(1, *_numbers(attrs.dilation)),
                groups=int(attrs.groups),
                out_dtype=str(old.ty.dtype),
            )
        elif kind in ("relax.nn.max_pool1d", "relax.nn.avg_pool1d"):
            if attrs.layout != "NCW":
                return None
            is_max = kind == "relax.nn.max_pool1d"
            pool = relax.op.nn.max_pool2d if is_max else relax.op.nn.avg_pool2d
            lifted = pool(
                self.with_height(call.args[0]),
                pool_size=(1, *_numbers(attrs.pool_size)),
                strides=(1, *_numbers(attrs.strides)),
                padding=_sides(attrs.padding),
                dilation=(1, *_numbers(attrs.dilation)),
                ceil_mode=bool(attrs.ceil_mode),
                count_include_pad=bool(attrs.count_include_pad),
            )
        else:
            return None
        return self.emit(relax.op.reshape(self.emit(lifted, f"{name}_2d"), old.ty.shape), name)

    def with_height(self, value: Expr) -> Expr:
        """(N, C, W) -> (N, C, 1, W)."""
        batch, channels, width = value.ty.shape.values
        made = relax.op.reshape(value, [batch, channels, 1, width])
        return self.emit(made)


def _numbers(values: object) -> list[int]:
    return [int(value) for value in values]  # type: ignore[attr-defined]


def _sides(padding: object) -> tuple[int, int, int, int]:
    left, right = _numbers(padding)
    return 0, left, 0, right
