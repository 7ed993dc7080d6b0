"""Compute what is the same once."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Expr, GenericConst, IRModule

from athanor.compiler.passes.rewrite import static_shape

_LARGE_ELEMENTS = 1024
"""Constants of more elements are the same only where they are one object."""


@tvm.transform.module_pass(opt_level=0, name="MergeEqual")
class MergeEqual:
    """Relax's EliminateCommonSubexpr, which does not look at the elements of large constants.

        a = R.add(x, w)
        b = R.add(x, w)    =>    a = R.add(x, w), read for b too

    Hashing every weight at every reader takes longer than any other graph pass; so large
    constants are parameters of main meanwhile.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        main = mod["main"]
        hidden: dict[GenericConst, relax.Var] = {}

        def hide(constant: GenericConst) -> GenericConst | relax.Var:
            shape = static_shape(constant)
            if shape is None or math.prod(shape) <= _LARGE_ELEMENTS:
                return constant
            return hidden.setdefault(constant, relax.Var(f"weight{len(hidden)}", constant.ty))

        body = tvm_ffi.structural_map(main.body, (GenericConst, hide))
        merged = IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        merged["main"] = _with(main, [*main.params, *hidden.values()], body)
        merged = relax.transform.EliminateCommonSubexpr()(merged)
        shown = {variable: constant for constant, variable in hidden.items()}
        body = tvm_ffi.structural_map(
            merged["main"].body, (relax.Var, lambda variable: shown.get(variable, variable))
        )
        merged["main"] = _with(main, list(main.params), body)
        return merged


def _with(main: relax.Function, params: list[relax.Var], body: Expr) -> relax.Function:
    return relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
