"""Prefetches name the elements that a later iteration reads, and each line once."""

import pytest
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule
from tvm.script import tirx as T
from tvm.sym import Analyzer

from athanor.targets.prefetch_ahead import AHEAD, PrefetchAhead


def rows(annotation):
    """Sums of 8 rows of 100 elements of two operands."""

    @T.prim_func(private=True)
    def main(
        a: T.Buffer((800,), "float32"),
        b: T.Buffer((800,), "float32"),
        c: T.Buffer((8,), "float32"),
    ):
        for row in T.serial(8, annotations={AHEAD: annotation}):
            for k in range(100):
                c[row] += a[row * 100 + k] * b[row * 100 + k]

    return main


def asked_for(func, row):
    """(operand, element) of every prefetch in an iteration."""
    body = PrefetchAhead()(IRModule({"main": func}))["main"].body
    lines, found = [], []

    def see_loop(loop):
        if loop.loop_var.name == "line":
            lines.append(int(loop.extent))
        assert AHEAD not in loop.annotations

    def see(call):
        if getattr(call.op, "name", "") == "tirx.address_of":
            found.append((call.args[0].source.name, call.args[0].indices[0]))

    tvm_ffi.structural_walk(body, (tirx.For, see_loop))
    tvm_ffi.structural_walk(body, (Call, see))
    places = set()
    for (name, index), count in zip(found, lines, strict=True):
        for line in range(count):
            values = {"row": row, "line": line}

            def number(var, values=values):
                return tirx.IntImm(str(var.ty.dtype), values[var.name])

            place = tvm_ffi.structural_map(index, (tirx.Var, number))
            places.add((name, int(Analyzer().simplify(place))))
    return places


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_lines_of_a_later_row(names):
    wanted = {(name, 3 * 100 + 200 + 16 * line) for name in names for line in range(7)}
    assert asked_for(rows([100, 200, *names]), row=3) == wanted


def test_an_operand_that_is_not_read_is_left_alone():
    assert asked_for(rows([100, 200, "other"]), row=3) == set()
