"""Products of pairs of int16 -> pmaddwd; arithmetic for targets without it."""

from __future__ import annotations

import functools
import re

from athanor.targets.llvm_text import shuffle, vector_type

INT16_FUNCTION = re.compile(r"athanor_dot_(int16|int8)_x(\d+)")
"""Names of the functions that `int16_function` writes, as kernels call them."""

_PMADDWD = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}
"""The instruction by the int32 sums that one register holds. It adds two products of int16 without
saturation; pmaddubsw, for bytes, saturates."""


@functools.cache
def int16_function(right: str, lanes: int, widest: int) -> str:
    """`athanor_dot_int16_xN(int32 acc, int32 a, int32 b)`, as LLVM IR.

    Or `athanor_dot_int8_xN(int32 acc, int32 a, int16 b)`, by the type `right` of the numbers of b.
    widest: int32 lanes of the largest register that the instruction takes; 0: there is none.
    """
    register = next((n for n in _PMADDWD if n <= widest and lanes % n == 0), 0)
    words, given = vector_type("i32", lanes), "i16" if right == "int8" else "i32"
    head = (
        f"define {words} @athanor_dot_{right}_x{lanes}"
        f"({words} %acc, {words} %a, {vector_type(given, lanes)} %given) alwaysinline {{"
    )
    lines = [head, *_widened(right, lanes)]
    if not register:
        for v in "ab":
            by = "16" if lanes == 1 else "splat (i32 16)"
            lines += [f"  %{v}s = shl {words} %{v}, {by}", f"  %{v}l = ashr {words} %{v}s, {by}"]
            lines += [f"  %{v}h = ashr {words} %{v}, {by}"]
        lines += [f"  %{p} = mul {words} %a{p}, %b{p}" for p in "lh"]
        lines += [f"  %s = add {words} %h, %l", f"  %r = add {words} %acc, %s"]
        return "\n".join([*lines, f"  ret {words} %r", "}\n"])
    part, pairs = vector_type("i32", register), vector_type("i16", 2 * register)
    intrinsic = f"@llvm.x86.{_PMADDWD[register]}"
    lines.insert(0, f"declare {part} {intrinsic}({pairs}, {pairs})")
    made = "poison"
    for number, first in enumerate(range(0, lanes, register)):
        for v in "ab":
            picked = shuffle(words, f"%{v}", "poison", range(first, first + register))
            lines += [f"  %{v}{number} = {picked}"]
            lines += [f"  %{v}{number}p = bitcast {part} %{v}{number} to {pairs}"]
        call = f"call {part} {intrinsic}({pairs} %b{number}p, {pairs} %a{number}p)"
        lines.append(f"  %r{number} = {call}")
        wide = shuffle(part, f"%r{number}", "poison", [i % register for i in range(lanes)])
        lines.append(f"  %w{number} = {wide}")
        chosen = [i + lanes * (first <= i < first + register) for i in range(lanes)]
        lines.append(f"  %m{number} = {shuffle(words, made, f'%w{number}', chosen)}")
        made = f"%m{number}"
    lines.append(f"  %r = add {words} %acc, {made}")
    return "\n".join([*lines, f"  ret {words} %r", "}\n"])


def _widened(right: str, lanes: int) -> list[str]:
    """Instructions that make %b, words of two int16, of %given."""
    words = vector_type("i32", lanes)
    if right == "int16":
        return [f"  %b = bitcast {words} %given to {words}"]
    bytes_, halves = vector_type("i8", 2 * lanes), vector_type("i16", 2 * lanes)
    return [
        f"  %bytes = bitcast {vector_type('i16', lanes)} %given to {bytes_}",
        f"  %halves = sext {bytes_} %bytes to {halves}",
        f"  %b = bitcast {halves} %halves to {words}",
    ]
