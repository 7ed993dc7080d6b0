"""Fuse operators, and keep the names of what was fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Expr, GlobalVar, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, op_name
from athanor.frontends.onnx.origins import ORIGINS, READERS


@tvm.transform.module_pass(opt_level=0, name="FuseNamed")
class FuseNamed:
    """Relax's FuseOps, whose groups keep the name of their last value and the nodes of all.

        a = cls.matmul(x, w)
        y = cls.relu(a)         =>    y = cls.fused_matmul_relu(x, w)

    After LegalizeOps and AnnotateTIROpPattern, before FuseTIR. FuseOps names its groups lv, lv1,
    ... and equal groups share one function, so that neither tells which nodes a group came from.
    Here each group is followed call by call: a call of the same kernel on the same values is the
    one of the graph before. Changes names and the attribute ORIGINS, nothing else.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Fuse main."""
        before = _Graph(mod["main"])
        fused = relax.transform.FuseOps(fuse_opt_level=2)(mod)
        return _Renamer(fused, before).run()


class _Graph:
    """The graph before fusion: which binding calls what on what."""

    def __init__(self, main: relax.Function) -> None:
        attrs = main.attrs or {}
        self.origins: dict[str, list[str]] = {
            name: list(nodes) for name, nodes in attrs.get(ORIGINS, {}).items()
        }
        self.readers = {node: list(found) for node, found in attrs.get(READERS, {}).items()}
        self.calls: dict[tuple, relax.Var] = {}
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        for binding in bindings:
            self.calls.setdefault(_key(binding.value, _operands(binding.value)), binding.var)
        self.inherit(bindings)
        self.adopt(bindings)

    def inherit(self, bindings: list[relax.Binding]) -> None:
        """What a legalization emitted on the way belongs to the nodes of its reader."""
        for binding in reversed(bindings):
            nodes = self.origins.get(binding.var.name)
            for operand in _operands(binding.value):
                if nodes and isinstance(operand, relax.Var):
                    self.origins.setdefault(operand.name, nodes)

    def adopt(self, bindings: list[relax.Binding]) -> None:
        """Nodes without a kernel of their own belong to the kernels of those that read them.

        Passes have merged them into these, or made views of them.
        """
        values: dict[str, list[str]] = {}
        for binding in bindings:
            if op_name(binding.value) in ("relax.call_tir", "relax.call_dps_packed"):
                for node in self.origins.get(binding.var.name, ()):
                    values.setdefault(node, []).append(binding.var.name)
        for node, readers in self.readers.items():
            if node in values:
                continue
            seen = {node}
            while readers and not any(reader in values for reader in readers):
                seen.update(readers)
                following = [n for reader in readers for n in self.readers.get(reader, ())]
                readers = [n for n in dict.fromkeys(following) if n not in seen]
            for reader in readers:
                for name in values.get(reader, ())[:1]:
                    self.origins[name] = [node, *self.origins[name]]


def _key(value: Expr, operands: list[Any]) -> tuple:
    """What makes two values the same: what is done, to what."""
    if isinstance(value, relax.Call):
        kind = value.op.name if isinstance(value.op, tvm.ir.Op) else "call"
    else:
        kind = str(value.index) if isinstance(value, relax.TupleGetItem) else ""
    return type(value).__name__, kind, *(_identity(operand) for operand in operands)


def _identity(operand: Any) -> Any:
    if isinstance(operand, GlobalVar):
        return operand.name_hint
    if isinstance(operand, list):
        return tuple(operand)
    return operand if isinstance(operand, (relax.Var, tvm.ir.GenericConst)) else str(operand)


def _operands(value: Expr) -> list[Expr]:
    """What a kernel call, a view, a tuple or an element of one reads."""
    if isinstance(value, relax.Call):
        found: list[Expr] = []
        for argument in value.args:
            found += list(argument.fields) if isinstance(argument, relax.Tuple) else [argument]
        return found
    if isinstance(value, relax.Tuple):
        return list(value.fields)
    return [value.tuple_value] if isinstance(value, relax.TupleGetItem) else [value]


class _Renamer(GraphRewriter):
    """Follows the fused main, with the value of the graph before for each of its values."""

    def __init__(self, mod: IRModule, before: _Graph) -> None:
        super().__init__(mod)
        self.mod, self.before = mod, before
        self.same: dict[Expr, Any] = {param: param for param in self.main.params}
        """Value of main -> value of the graph before; a list of them for a tuple."""

    def bind(self, binding: relax.Binding) -> Expr:
        value, name = binding.value, binding.var.name
        self.current = self.before.origins.get(name)
        if isinstance(value, relax.Call) and isinstance(value.op, GlobalVar):
            found, result = self.follow(value)
            nodes = [n for var in found for n in self.before.origins.get(var.name, ())]
            self.current = list(dict.fromkeys(nodes))
            name = found[-1].name if found else name
        else:
            result = self.find(value, self.same)
        if result is not None:
            self.same[binding.var] = result
        return self.emit(self.substitute(value), name)

    def follow(self, call: relax.Call) -> tuple[list[relax.Var], Any]:
        """The values of the graph before that a call of a group computes, and its result's."""
        group = self.mod[call.op]
        arguments = [self.same.get(argument, argument) for argument in call.args]
        same: dict[Expr, Any] = dict(zip(group.params, arguments, strict=True))
        found = []
        for block in group.body.blocks:
            for binding in block.bindings:
                known = self.find(binding.value, same)
                if known is not None:
                    same[binding.var] = known
                if isinstance(known, relax.Var) and isinstance(binding.value, relax.Call):
                    found.append(known)
        return found, same.get(group.body.body)

    def find(self, value: Expr, same: Mapping[Expr, Any]) -> Any:
        """The value of the graph before that does the same; None where there is none."""
        operands = [_lookup(operand, same) for operand in _operands(value)]
        if isinstance(value, relax.Tuple):
            return operands
        if isinstance(value, relax.TupleGetItem) and isinstance(operands[0], list):
            return operands[0][value.index]
        if isinstance(value, relax.Var):
            return operands[0]
        return self.before.calls.get(_key(value, operands))


def _lookup(expr: Expr, same: Mapping[Expr, Any]) -> Any:
    return same.get(expr, expr) if isinstance(expr, relax.Var) else expr
