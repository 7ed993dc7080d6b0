"""How a block walks memory: the stride of every buffer access along every loop."""

from __future__ import annotations

from dataclasses import dataclass

import tvm_ffi
from tvm import ir, s_tir, sym, tirx

from athanor.schedules import blocks


@dataclass(frozen=True)
class Axis:
    """One iterator of a block, with what moving along it does to each access."""

    extent: int | None
    """Length; None where it is symbolic."""
    strides: tuple[int | None, ...]
    """Elements per step: the store first, then each load. None: not a constant number."""
    pinned: bool
    """Whether the iterator is used other than in an address: a condition, a value."""


def block_axes(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> list[Axis]:
    """The axes of a spatial block, outermost first."""
    stmt = sch.get(block)
    store = stmt.body
    variables = [iterator.var for iterator in stmt.iter_vars]
    analyzer = sym.Analyzer()
    for iterator in stmt.iter_vars:
        analyzer.bind(iterator.var, iterator.dom)
    addresses = [(store.buffer, list(store.indices))]
    addresses += [(load.source, list(load.indices)) for load in blocks.loads(store)]
    flat = [_flat_address(buffer, indices) for buffer, indices in addresses]
    free = _variables_outside_addresses(store.value)
    axes = []
    for variable, iterator in zip(variables, stmt.iter_vars, strict=True):
        strides = tuple(_stride(address, variable, analyzer) for address in flat)
        pinned = any(variable.same_as(other) for other in free)
        axes.append(Axis(blocks.constant(iterator.dom.extent), strides, pinned))
    return axes


def read_strides(stmt: s_tir.SBlock) -> list[int | None] | None:
    """Elements per step of every iterator, for the load of a reduction that most of them move.

    None if the block reads nothing but its own result.
    """
    written = [write.source for write in stmt.writes]
    variables = [iterator.var for iterator in stmt.iter_vars]
    analyzer = sym.Analyzer()
    for iterator in stmt.iter_vars:
        analyzer.bind(iterator.var, iterator.dom)
    best: list[int | None] | None = None
    for load in blocks.loads(stmt.body):
        if any(load.source.same_as(buffer) for buffer in written):
            continue
        address = _flat_address(load.source, list(load.indices))
        steps = [_stride(address, variable, analyzer) for variable in variables]
        if best is None or steps.count(0) < best.count(0):
            best = steps
    return best


def collapse(axes: list[Axis]) -> list[list[int]]:
    """Indices of adjacent axes that every access walks as if they were one, outermost first."""
    groups: list[list[int]] = []
    for index, inner in enumerate(axes):
        outer = axes[index - 1] if groups else None
        if outer is not None and _fusable(outer, inner):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def uses(index: tirx.Expr, variable: tirx.Var) -> bool:
    """Whether an expression mentions a variable."""
    found: list[tirx.Var] = []
    tvm_ffi.structural_walk(index, (tirx.Var, lambda var: found.append(var)))
    return any(var.same_as(variable) for var in found)


def _fusable(outer: Axis, inner: Axis) -> bool:
    if inner.extent is None or outer.pinned or inner.pinned:
        return False
    if inner.extent == 1 or outer.extent == 1:
        return True
    return all(
        a is not None and b is not None and a == b * inner.extent
        for a, b in zip(outer.strides, inner.strides, strict=True)
    )


def _flat_address(buffer: tirx.Buffer, indices: list[tirx.Expr]) -> tirx.Expr:
    address = tirx.const(0, "int64")
    for dim, index in zip(buffer.shape, indices, strict=True):
        address = address * dim.astype("int64") + index.astype("int64")
    return address


def _stride(address: tirx.Expr, variable: tirx.Var, analyzer: sym.Analyzer) -> int | None:
    moved = tvm_ffi.structural_map(
        address, (tirx.Var, lambda var: var + 1 if var.same_as(variable) else var)
    )
    return blocks.constant(analyzer.simplify(moved - address))


def _variables_outside_addresses(value: tirx.Expr) -> list[tirx.Var]:
    """Variables of an expression that are not within the indices of a load."""
    found: list[tirx.Var] = []

    def skip(_load: ir.TensorLoad, _visitor: tvm_ffi.StructuralVisitor) -> None:
        return None

    def keep(variable: tirx.Var, _visitor: tvm_ffi.StructuralVisitor) -> None:
        found.append(variable)

    tvm_ffi.structural_visit(value, [(ir.TensorLoad, skip), (tirx.Var, keep)])
    return found
