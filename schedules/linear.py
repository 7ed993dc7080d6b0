"""Addresses along one running number in place of several iterators."""

from __future__ import annotations

import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Range

from athanor.schedules.row_stages import equal, replace_variables


def flat_address(shape: list[tirx.Expr], indices: list[tirx.Expr]) -> tirx.Expr:
    """Where an element lies in a dense row-major tensor."""
    address: tirx.Expr = tirx.const(0, "int64")
    for dim, index in zip(shape, indices, strict=True):
        address = address * dim.astype("int64") + index.astype("int64")
    return sym.Analyzer().simplify(address)


def split_number(
    number: tirx.Expr, variables: list[tirx.Var], extents: list[tirx.Expr]
) -> list[tuple[tirx.Var, tirx.Expr]]:
    """The iterators' values at a running number, slowest first."""
    values: list[tuple[tirx.Var, tirx.Expr]] = []
    for variable, extent in reversed(list(zip(variables, extents, strict=True))):
        first = variable.same_as(variables[0])
        values.append((variable, number if first else tirx.floormod(number, extent)))
        number = tirx.floordiv(number, extent)
    return values


def along(
    address: tirx.Expr, variables: list[tirx.Var], extents: list[tirx.Expr], number: tirx.Expr
) -> tuple[tirx.Expr, tirx.Expr | None]:
    """An address in terms of a running number instead of `variables`, and its step.

    Without a division where each iterator's step is the next one's step times its extent; the
    step is None where it takes divisions.
    """
    if not variables:
        return address, tirx.const(0, "int64")
    analyzer = sym.Analyzer()
    for variable, extent in zip(variables, extents, strict=True):
        analyzer.bind(variable, Range(tirx.const(0, "int64"), extent))
    steps = []
    for variable in variables:
        moved = replace_variables(address, [(variable, variable + 1)])
        steps.append(analyzer.simplify(moved - address))
    linear = not any(_mentions(step, variables) for step in steps)
    if linear:
        for index in range(len(steps) - 1):
            if not equal(steps[index], steps[index + 1] * extents[index + 1]):
                linear = False
    if linear:
        zero = [(variable, tirx.const(0, "int64")) for variable in variables]
        start = analyzer.simplify(replace_variables(address, zero))
        return start + steps[-1] * number, steps[-1]
    return replace_variables(address, split_number(number, variables, extents)), None


def _mentions(expr: tirx.Expr, variables: list[tirx.Var]) -> bool:
    found: list[bool] = []

    def visit(var: tirx.Var) -> None:
        found.append(any(var.same_as(other) for other in variables))

    tvm_ffi.structural_walk(expr, (tirx.Var, visit))
    return any(found)
