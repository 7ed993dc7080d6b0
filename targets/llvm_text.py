"""Scalar expressions -> LLVM IR functions over vectors."""

from __future__ import annotations

import struct
from collections.abc import Iterable

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
SCALE = "scale"
"""A call (call_pure_extern) of AVX-512's a * 2^floor(b), also where 2^b itself is no number."""
_REGISTERS = (16, 8, 4)
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


def vector_type(scalar: str, lanes: int) -> str:
    """LLVM's name of a vector, or of the scalar itself."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def register_lanes(lanes: int) -> int:
    """float32 numbers in the largest register of AVX-512 that vectors consist of; 0: of none."""
    return next((size for size in _REGISTERS if lanes % size == 0), 0)


def shuffle(kind: str, first: str, second: str, lanes: Iterable[int]) -> str:
    """The instruction that picks `lanes` out of two vectors of type `kind`."""
    picked = [f"i32 {lane}" for lane in lanes]
    mask = f"<{len(picked)} x i32> <{', '.join(picked)}>"
    return f"shufflevector {kind} {first}, {kind} {second}, {mask}"


class _Function:
    def __init__(self, parameter: tirx.Var, lanes: int) -> None:
        self.parameter, self.lanes = parameter, lanes
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.values: dict[tirx.Var, str] = {parameter: "%x"}

    def text(self, name: str, body: tirx.Expr) -> str:
        result = self.value(body)
        made = self.type_of(body)
        head = f"define {made} @{name}({self.type_of(self.parameter)} %x) {{"
        lines = [*sorted(self.declarations), head, *self.lines, f"  ret {made} {result}", "}\n"]
        return "\n".join(lines)

    def type_of(self, expr: tirx.Expr) -> str:
        return vector_type(_TYPES[str(expr.ty.dtype)], self.lanes)

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
        if name == "tirx.call_pure_extern":
            assert expr.args[0].value == SCALE, f"no LLVM IR for {expr.args[0]}"
            return self.scale([self.value(argument) for argument in expr.args[1:]])
        operands = [self.value(arg) for arg in expr.args]
        types = [self.type_of(arg) for arg in expr.args]
        if name == "tirx.reinterpret":
            return self.emit(f"bitcast {types[0]} {operands[0]} to {self.type_of(expr)}")
        scalar = {"float": "f32"}[_TYPES[str(expr.ty.dtype)]]
        suffix = scalar if self.lanes == 1 else f"v{self.lanes}{scalar}"
        function = {"tirx.sqrt": "sqrt", "tirx.fabs": "fabs"}[name]
        return self.emit(f"call {types[0]} @llvm.{function}.{suffix}({types[0]} {operands[0]})")

    def scale(self, operands: list[str]) -> str:
        """SCALE, register by register."""
        size = register_lanes(self.lanes)
        whole, part = vector_type("float", self.lanes), vector_type("float", size)
        function = f"@llvm.x86.avx512.mask.scalef.ps.{32 * size}"
        # all lanes, and rounding as it is set
        rest = ["i16 -1", "i32 4"] if size == 16 else ["i8 -1"]
        kinds = [part, part, part, *(constant.split()[0] for constant in rest)]
        self.declarations.add(f"declare {part} {function}({', '.join(kinds)})")
        made = "poison"
        for first in range(0, self.lanes, size):
            lanes = range(first, first + size)
            picked = [self.emit(shuffle(whole, operand, "poison", lanes)) for operand in operands]
            typed = [f"{part} {value}" for value in [*picked, "zeroinitializer"]]
            result = self.emit(f"call {part} {function}({', '.join([*typed, *rest])})")
            wide = shuffle(part, result, "poison", [i % size for i in range(self.lanes)])
            chosen = [i + self.lanes * (i in lanes) for i in range(self.lanes)]
            made = self.emit(shuffle(whole, made, self.emit(wide), chosen))
        return made
