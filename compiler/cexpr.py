"""Integer expressions over symbolic dimensions, as C."""

from __future__ import annotations

import re
from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr

_INFIX = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*"}
_FUNCTIONS = {
    tirx.FloorDiv: "athanor_floordiv",
    tirx.FloorMod: "athanor_floormod",
    tirx.Max: "athanor_max",
    tirx.Min: "athanor_min",
}
_COMPARE = {tirx.EQ: "==", tirx.NE: "!=", tirx.LT: "<", tirx.LE: "<=", tirx.GT: ">", tirx.GE: ">="}

_LOGIC = {tirx.And: "&&", tirx.Or: "||"}

PRELUDE = """\
static inline int64_t athanor_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t athanor_min(int64_t a, int64_t b) { return a < b ? a : b; }
/* by 0 it is 0, by -1 it wraps: a hostile shape must not stop the process */
static inline int64_t athanor_floordiv(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return (int64_t)(UINT64_C(0) - (uint64_t)a);
  int64_t q = a / b;
  return q * b == a || (a < 0) == (b < 0) ? q : q - 1;
}
static inline int64_t athanor_floormod(int64_t a, int64_t b) {
  return a - athanor_floordiv(a, b) * b;
}
"""


def c_expression(expr: int | Expr, name_of: Callable[[tirx.Var], str]) -> str:
    """C text of an int64 expression; `name_of` gives the C name of a symbol."""
    if isinstance(expr, int):
        return f"INT64_C({expr})"
    if isinstance(expr, tirx.IntImm):
        return f"INT64_C({int(expr)})"
    if isinstance(expr, tirx.Var):
        return name_of(expr)
    kind = type(expr)
    if isinstance(expr, tirx.Not):
        return f"(!{c_expression(expr.a, name_of)})"
    if kind in _INFIX or kind in _COMPARE or kind in _LOGIC:
        sign = _INFIX.get(kind) or _COMPARE.get(kind) or _LOGIC[kind]
        return f"({c_expression(expr.a, name_of)} {sign} {c_expression(expr.b, name_of)})"
    if kind in _FUNCTIONS:
        a, b = c_expression(expr.a, name_of), c_expression(expr.b, name_of)
        return f"{_FUNCTIONS[kind]}({a}, {b})"
    if isinstance(expr, tirx.Cast):
        return c_expression(expr.value, name_of)
    if isinstance(expr, tirx.Select):
        parts = (expr.condition, expr.true_value, expr.false_value)
        condition, true, false = (c_expression(part, name_of) for part in parts)
        return f"({condition} ? {true} : {false})"
    raise AssertionError(f"no C for {kind.__name__} in the dimension {expr}")


def c_string(text: str) -> str:
    """A C string literal; names may hold anything, so all but plain ASCII is escaped."""
    safe = (32 <= b < 127 and chr(b) not in '"\\?' for b in text.encode())
    pairs = zip(text.encode(), safe, strict=True)
    return '"' + "".join(chr(b) if plain else f"\\{b:03o}" for b, plain in pairs) + '"'


def c_identifier(name: str) -> str:
    """The name with an underscore for whatever C has not in names."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
