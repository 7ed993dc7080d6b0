"""Products of 16-bit numbers in a float32 model, for tensor cores."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, array_constant, op_name

PRODUCTS = ("relax.matmul", "relax.nn.conv2d")
"""What multiplies 16-bit numbers and adds up in float32."""
_MOVES = (
    "relax.expand_dims",
    "relax.flatten",
    "relax.nn.max_pool2d",
    "relax.permute_dims",
    "relax.reshape",
    "relax.squeeze",
)
"""What gives the same numbers before and after rounding."""
_TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@tvm.transform.module_pass(opt_level=0, name="NarrowProducts")
class NarrowProducts:
    """Round what products multiply to float16 or bfloat16, and keep it in that form alone.

        y = R.nn.relu(x)                y = R.nn.relu(x)
        z = R.matmul(y, w)        =>    y16 = R.astype(y, "float16")
        v = R.add(y, z)                 z = R.matmul(y16, w16, out_dtype="float32")
                                        v = R.add(R.astype(y16, "float32"), z)

    Fusion then joins each rounding with what makes the value, and each widening with what reads
    it: memory holds 16-bit numbers, arithmetic other than products stays float32. After constants
    are final, before layouts. Changes results by the rounding.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.dtype).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, dtype: str) -> None:
        super().__init__(mod)
        self.dtype = dtype
        self.wanted = _read_by_products(self.main)

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        if kind in PRODUCTS and _all_float32(call):
            made = self.multiplied(call, kind)
        elif kind in _MOVES and call.args[0] in self.narrowed and old in self.wanted:
            first = self.narrowed[call.args[0]]
            new = relax.Call(call.op, [first, *call.args[1:]], call.attrs, ty_args=call.ty_args)
            narrow = self.emit(new, name)
            made = self.emit(relax.op.astype(narrow, "float32"))
            self.narrowed[made] = narrow
            return made
        elif kind == "relax.astype" and _is_widening(call, self.dtype):
            made = self.emit(call, name)
            self.narrowed[made] = call.args[0]
            return made
        else:
            plain = [self.widened(arg) for arg in call.args]
            made = relax.Call(call.op, plain, call.attrs, ty_args=call.ty_args)
        value = self.emit(made, name)
        if old in self.wanted:
            self.narrow(value)
        return value

    def multiplied(self, call: Call, kind: str) -> Expr:
        a, b = (self.narrow(arg) for arg in call.args)
        if kind == "relax.matmul":
            return relax.op.matmul(a, b, out_dtype="float32")
        attrs = call.attrs
        options = {
            key: [int(n) for n in getattr(attrs, key)] for key in ("strides", "padding", "dilation")
        }
        return relax.op.nn.conv2d(
            a,
            b,
            **options,
            groups=int(attrs.groups),
            data_layout=attrs.data_layout,
            kernel_layout=attrs.kernel_layout,
            out_layout=attrs.out_layout,
            out_dtype="float32",
        )

    def narrow(self, value: Expr) -> Expr:
        """The value rounded, once."""
        if value not in self.narrowed:
            weights = self.constant(value)
            if weights is not None:
                self.narrowed[value] = array_constant(weights.astype(_TYPES[self.dtype]))
            else:
                self.narrowed[value] = self.emit(relax.op.astype(value, self.dtype))
        return self.narrowed[value]

    def widened(self, value: Expr) -> Expr:
        """What others read: the rounded value, widened for each reader, to be fused."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.widened(field) for field in value.fields])
        if value not in self.narrowed or isinstance(value, GenericConst):
            return value
        if value not in self.definition:
            return value  # an input, which is there in float32
        return self.emit(relax.op.astype(self.narrowed[value], "float32"))


def _all_float32(call: Call) -> bool:
    return all(str(getattr(arg.ty, "dtype", "")) == "float32" for arg in call.args)


def _is_widening(call: Call, dtype: str) -> bool:
    """Whether a cast only widens numbers that are rounded already."""
    return str(call.args[0].ty.dtype) == dtype and str(call.attrs.dtype) == "float32"


def _read_by_products(main: relax.Function) -> set[relax.Var]:
    """The variables that a product reads, itself or through what moves numbers."""
    found: set[relax.Var] = set()
    for block in reversed(list(main.body.blocks)):
        for binding in reversed(list(block.bindings)):
            kind = op_name(binding.value)
            if kind in PRODUCTS and _all_float32(binding.value):
                found |= {arg for arg in binding.value.args if isinstance(arg, relax.Var)}
            elif kind in _MOVES and binding.var in found:
                found |= {arg for arg in binding.value.args[:1] if isinstance(arg, relax.Var)}
            elif isinstance(binding.value, relax.Var) and binding.var in found:
                found.add(binding.value)
    return found
