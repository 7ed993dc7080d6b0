"""Products of one value with several weights as one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, IRModule

from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    call_of,
    constant_array,
    op_name,
)
from athanor.compiler.passes.strided_view import number_of

_VIEWS = ("relax.broadcast_to", "relax.permute_dims", "relax.reshape")


@tvm.transform.module_pass(opt_level=0, name="MergeProducts")
class MergeProducts:
    """Compute the queries, keys and values of an attention as one product.

        q = R.add(R.matmul(x, wq), bq)              y = R.add(R.matmul(x, [wq wk wv]), [bq bk bv])
        k = R.add(R.matmul(x, wk), bk)      =>      q = R.strided_slice(y, 0, n)
        v = R.add(R.matmul(x, wv), bv)              k = ...

    One launch in the place of three, whose tiles fill the device better. Only where all that reads
    the results are views that lead to products of two values of the run: FuseAttention makes the
    slices addresses there. Before FuseAttention. Keeps every result but for the order of sums.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


@dataclass
class _Product:
    """matmul(source, weights) + bias."""

    source: Expr
    weights: np.ndarray
    bias: np.ndarray | None
    result: relax.Var


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.readings: dict[Expr, list[tuple[relax.Var, Expr]]] = {}
        """Where main reads each of its values: bindings, by the old names."""
        self.groups: dict[Expr, list[_Product]] = {}
        """By each member's result."""
        self.merged: dict[int, Expr] = {}
        """By the group."""

    def concerns(self, call: Call) -> bool:
        return _is_weighted(call)

    def run(self) -> IRModule:
        """The module with the new main."""
        self.find_groups()
        return super().run() if self.groups else self.module

    def find_groups(self) -> None:
        """Products that can be one, of the module as it was."""
        bindings = [binding for block in self.main.body.blocks for binding in block.bindings]
        for binding in bindings:
            for part in _variables(binding.value):
                self.readings.setdefault(part, []).append((binding.var, binding.value))
        result = self.main.body.body
        for part in _variables(result):
            self.readings.setdefault(part, []).append((part, result))
        found: dict[tuple[Expr, bool, str], list[_Product]] = {}
        for binding in bindings:
            made = self.product_of(binding.var, binding.value)
            if made is not None and self.is_attended(made.result):
                key = made.source, made.bias is None, str(made.weights.dtype)
                found.setdefault(key, []).append(made)
        for group in found.values():
            if len(group) > 1:
                self.groups.update((member.result, group) for member in group)

    def product_of(self, var: relax.Var, call: Expr) -> _Product | None:
        """The product that `call` is, with the bias behind it."""
        if not _is_weighted(call):
            return None
        weights = constant_array(call.args[1])
        readings = self.readings.get(var, [])
        if len(readings) == 1 and (sum_ := call_of(readings[0][1], "relax.add")) is not None:
            bias = next((arg for arg in sum_.args if isinstance(arg, GenericConst)), None)
            if bias is not None and constant_array(bias).shape == weights.shape[1:]:
                return _Product(call.args[0], weights, constant_array(bias), readings[0][0])
        return _Product(call.args[0], weights, None, var)

    def is_attended(self, value: Expr) -> bool:
        """Whether nothing but views that lead to products of two variables reads a value."""
        readings = self.readings.get(value, [])
        return bool(readings) and all(self.leads_on(var, call) for var, call in readings)

    def leads_on(self, var: relax.Var, call: Expr) -> bool:
        kind = op_name(call)
        if kind == "relax.matmul":
            return all(isinstance(arg, relax.Var) for arg in call.args)
        scales = kind in ("relax.multiply", "relax.divide") and any(
            number_of(arg) is not None for arg in call.args
        )
        return (scales or kind in _VIEWS) and self.is_attended(var)

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        group = self.groups.get(old)
        if group is None:
            return None
        if id(group) not in self.merged:
            weights = np.concatenate([member.weights for member in group], axis=1)
            source = self.substitute(group[0].source)
            y = self.emit(relax.op.matmul(source, array_constant(weights)))
            if group[0].bias is not None:
                bias = np.concatenate([m.bias for m in group if m.bias is not None])
                y = self.emit(relax.op.add(y, array_constant(bias)))
            self.merged[id(group)] = y
        widths = [member.weights.shape[1] for member in group]
        number = [member.result.same_as(old) for member in group].index(True)
        begin, axis = sum(widths[:number]), len(old.ty.shape.values) - 1
        y = self.merged[id(group)]
        return self.emit(relax.op.strided_slice(y, [axis], [begin], [begin + widths[number]]), name)


def _is_weighted(call: Expr) -> bool:
    """Whether a call is a product of a variable with a constant matrix, of their own type."""
    if op_name(call) != "relax.matmul" or not isinstance(call.args[0], relax.Var):
        return False
    source, weights = call.args
    known = isinstance(source.ty.shape, relax.ShapeExpr) and isinstance(weights, GenericConst)
    same = known and str(source.ty.dtype) == str(weights.ty.dtype) == str(call.ty.dtype)
    return same and len(weights.ty.shape.values) == 2 and len(source.ty.shape.values) > 1


def _variables(expr: Expr) -> list[relax.Var]:
    """The variables that an expression of a binding reads."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    parts = expr.fields if isinstance(expr, relax.Tuple) else getattr(expr, "args", ())
    return [var for part in parts for var in _variables(part)]
