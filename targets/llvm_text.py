"""Scalar expressions -> LLVM IR functions over vectors."""

from __future__ import annotations

import struct

from tvm import ir, tirx
from tvm.ir.prim import expr as prim

_FLOAT = {tirx.Add: "fadd", tirx.Sub: "fsub", tirx.Mul: "fmul", tirx.Div: "fdiv"}
_INTEGER = {
    tirx.Add: "add",
    tirx.Sub: "sub",
    tirx.Mul: "mul",
    prim.BitwiseAnd: "and",
    prim.BitwiseOr: "or",
    prim.BitwiseXor: "xor",
    prim.LShift: "shl",
    prim.RShift: "ashr",
}
_COMPARE = {tirx.LT: "olt", tirx.LE: "ole", tirx.GT: "ogt", tirx.GE: "oge", tirx.EQ: "oeq"}
_LOGIC = {tirx.And: "and", tirx.Or: "or"}
_TYPES = {
    "float32": "float",
    "float16": "half",
    "bfloat16": "bfloat",
    "int32": "i32",
    "bool": "i1",
}


def vector_function(name: str, parameter: tirx.Var, body: tirx.Expr, lanes: int) -> str:
    """`name(<lanes x parameter>)`, which computes `body` in every lane, as LLVM IR.

    `body` is float32 and int32 arithmetic, comparisons, selects, lets and reinterpretations over
    `parameter`; no loads.
    """
    return _Function(parameter, lanes).text(name, body)


class _Function:
    def __init__(self, parameter: tirx.Var, lanes: int) -> None:
        self.parameter, self.lanes = parameter, lanes
        self.lines: list[str] = []
        self.values: dict[tirx.Var, str] = {parameter: "%x"}

    def text(self, name: str, body: tirx.Expr) -> str:
        result = self.value(body)
        made = self.type_of(body)
        head = f"define {made} @{name}({self.type_of(self.parameter)} %x) {{"
        return "\n".join([head, *self.lines, f"  ret {made} {result}", "}\n"])

    def type_of(self, expr: tirx.Expr) -> str:
        scalar = _TYPES[str(expr.ty.dtype)]
        return scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"

    def emit(self, instruction: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {instruction}")
        return name

    def value(self, expr: tirx.Expr) -> str:
        """The LLVM value of an expression; its instructions are appended."""
        kind = type(expr)
        if isinstance(expr, tirx.Var):
            return self.values[expr]
        if isinstance(expr, tirx.Let):
            self.values[expr.var] = self.value(expr.value)
            return self.value(expr.body)
        if isinstance(expr, (tirx.FloatImm, tirx.IntImm)):
            return self.constant(expr)
        if isinstance(expr, tirx.Select):
            parts = (expr.condition, expr.true_value, expr.false_value)
            operands = ", ".join(f"{self.type_of(p)} {self.value(p)}" for p in parts)
            return self.emit(f"select {operands}")
        if isinstance(expr, tirx.Cast):
            return self.cast(expr)
        if isinstance(expr, ir.Call):
            return self.call(expr)
        a, b = self.value(expr.a), self.value(expr.b)
        type_ = self.type_of(expr.a)
        is_float = "float" in str(expr.a.ty.dtype)
        if kind in _COMPARE:
            assert is_float, f"no LLVM IR for an integer {kind.__name__}"
            return self.emit(f"fcmp {_COMPARE[kind]} {type_} {a}, {b}")
        if kind in _LOGIC:
            return self.emit(f"{_LOGIC[kind]} {type_} {a}, {b}")
        operation = _FLOAT[kind] if is_float else _INTEGER[kind]
        return self.emit(f"{operation} {type_} {a}, {b}")

    def constant(self, expr: tirx.FloatImm | tirx.IntImm) -> str:
        if isinstance(expr, tirx.FloatImm):
            # LLVM writes a float as the double of the same value.
            (single,) = struct.unpack("f", struct.pack("f", expr.value))
            (bits,) = struct.unpack("Q", struct.pack("d", single))
            text = f"0x{bits:016X}"
        else:
            text = str(int(expr))
        if self.lanes == 1:
            return text
        return f"splat ({_TYPES[str(expr.ty.dtype)]} {text})"

    def cast(self, expr: tirx.Cast) -> str:
        value, source = self.value(expr.value), str(expr.value.ty.dtype)
        target = str(expr.ty.dtype)
        if source == target:
            return value
        if source == "int32":
            operation = "sitofp"
        else:
            operation = "fpext" if target == "float32" else "fptrunc"
        return self.emit(f"{operation} {self.type_of(expr.value)} {value} to {self.type_of(expr)}")

    def call(self, expr: ir.Call) -> str:
        name = expr.op.name
        operands = [self.value(arg) for arg in expr.args]
        types = [self.type_of(arg) for arg in expr.args]
        if name == "tirx.reinterpret":
            return self.emit(f"bitcast {types[0]} {operands[0]} to {self.type_of(expr)}")
        scalar = {"float": "f32"}[_TYPES[str(expr.ty.dtype)]]
        suffix = scalar if self.lanes == 1 else f"v{self.lanes}{scalar}"
        function = {"tirx.sqrt": "sqrt", "tirx.fabs": "fabs"}[name]
        return self.emit(f"call {types[0]} @llvm.{function}.{suffix}({types[0]} {operands[0]})")
