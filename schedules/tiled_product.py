"""Matrix products as blocks of threads compute them: what a prim_func's product block reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import Expr
from tvm.sym import Analyzer

from athanor.schedules import blocks
from athanor.schedules.blocks import constant
from athanor.schedules.compute.matmul import unflatten

Block = s_tir.schedule.SBlockRV
Axis = tuple[tirx.Var, Expr]
"""An iterator of the product block, and its extent."""


@dataclass(frozen=True)
class Operand:
    """A matrix of (side, depth), for each place in the batch one."""

    load: ir.TensorLoad
    """As the product block reads it."""
    depth_major: bool
    """Whether numbers along the depth lie next to each other; else those along the sides do."""
    stride: Expr
    """Numbers from one row of the other axis to the next."""
    vector: int
    """Numbers that one copy may take: at most 16 bytes, all inside or all outside."""


@dataclass(frozen=True)
class TiledProduct:
    """`sums[batch..., row, column] = sum over depth of a[row, depth] * b[column, depth]`."""

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    """Axes that together are the rows."""
    column: Axis
    depth: Expr
    dtype: str
    """Of the operands."""
    a_vector: int
    b_vector: int
    depth_major: tuple[bool, bool]
    """Of a and b."""
    call: Callable[[ProductCall], Expr]
    """The device function's call for one tile."""

    @property
    def num_rows(self) -> Expr:
        """Their extents' product."""
        return product([extent for _, extent in self.rows])

    @property
    def num_batches(self) -> Expr:
        """Their extents' product."""
        return product([extent for _, extent in self.batch])

    @property
    def extents(self) -> tuple[Expr, Expr, Expr, Expr]:
        """Of batch, rows, columns and depth."""
        return self.num_batches, self.num_rows, self.column[1], self.depth


@dataclass(frozen=True)
class ProductCall:
    """Where a block of threads finds its tile."""

    tile: str
    """Template arguments: number, tile, warp's tile, stages."""
    shared: Expr
    places: dict[tirx.Var, Expr]
    """The batch axes' values."""
    first_row: Expr
    rows: Expr
    first_column: Expr
    columns: Expr
    begin: Expr
    end: Expr
    """Of the depth, int32."""


def product(extents: Sequence[Expr]) -> Expr:
    """Of no extents 1."""
    return Analyzer().simplify(math.prod(extents, start=tirx.const(1, "int64")))


def find_product(sch: s_tir.Schedule, block: Block) -> TiledProduct | None:
    """What a block `c[..., i, j] += a[..., i, k] * b[..., j, k]` computes; None: something else.

    The operands' last two axes may be in either order, casts around their loads are ignored.
    """
    stmt = sch.get(block)
    if stmt.init is None or not isinstance(stmt.body, tirx.BufferStore):
        return None
    kinds = blocks.iterator_kinds(sch, block)
    loads = _factors(stmt.body)
    if loads is None or kinds.count("R") != 1 or set(kinds) - set("SR") or kinds[-1] != "R":
        return None
    *spatial, k = [iterator.var for iterator in stmt.iter_vars]
    extents = {i.var: i.dom.extent for i in stmt.iter_vars}
    if not spatial or not _stores_in_order(stmt.body, spatial):
        return None
    column = spatial[-1]
    sides = [_mentions(load, column) for load in loads]
    if sides == [True, False]:
        loads.reverse()
    elif sides != [False, True]:
        return None
    a, b = loads
    for rows in _row_axes(spatial[:-1], b):
        left, right = _operand(a, rows, k, extents), _operand(b, [column], k, extents)
        if left is None or right is None:
            continue
        batch = [var for var in spatial[:-1] if not any(var.same_as(row) for row in rows)]

        def call(at: ProductCall, left: Operand = left, rows: list[tirx.Var] = rows) -> Expr:
            return _call(at, left, right, rows, column, k, extents)  # pyright: ignore

        return TiledProduct(
            tuple((var, extents[var]) for var in batch),
            tuple((var, extents[var]) for var in rows),
            (column, extents[column]),
            extents[k],
            str(a.source.dtype),
            left.vector,
            right.vector,
            (left.depth_major, right.depth_major),
            call,
        )
    return None


def _factors(store: tirx.BufferStore) -> list[ir.TensorLoad] | None:
    """The two loads of `c += cast(x) * cast(y)`, of one type that there are kernels for."""
    value = store.value
    if not (isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)):
        return None
    sums, factors = value.a, [value.b.a, value.b.b]
    if not (isinstance(sums, ir.TensorLoad) and sums.source.same_as(store.buffer)):
        return None
    loads = [f.value if isinstance(f, tirx.Cast) else f for f in factors]
    if not all(isinstance(load, ir.TensorLoad) for load in loads):
        return None
    types = {str(load.source.dtype) for load in loads}
    known = types in ({"float32"}, {"float16"}, {"bfloat16"})
    wide = str(store.buffer.dtype) == "float32" or {str(store.buffer.dtype)} == types
    return loads if known and wide else None


def _stores_in_order(store: tirx.BufferStore, spatial: Sequence[tirx.Var]) -> bool:
    return len(store.indices) == len(spatial) and all(
        index.same_as(var) for index, var in zip(store.indices, spatial, strict=True)
    )


def _mentions(load: ir.TensorLoad, var: tirx.Var) -> bool:
    found: list[tirx.Var] = []
    for index in load.indices:
        tvm_ffi.structural_walk(index, (tirx.Var, lambda seen: found.append(seen)))
    return any(seen.same_as(var) for seen in found)


def _row_axes(outer: list[tirx.Var], b: ir.TensorLoad) -> list[list[tirx.Var]]:
    """What may be the rows, best first: the last axes that b does not read, else the last alone."""
    first = len(outer)
    while first and not _mentions(b, outer[first - 1]):
        first -= 1
    choices = [outer[first:], outer[-1:] if first < len(outer) else [], []]
    return [rows for number, rows in enumerate(choices) if rows not in choices[:number]]


def _operand(
    load: ir.TensorLoad, sides: list[tirx.Var], k: tirx.Var, extents: dict[tirx.Var, Expr]
) -> Operand | None:
    """The load as a matrix; None where the sides are no one axis, or neither axis is dense."""
    shape, indices = list(load.source.shape), list(load.indices)
    at_k = _axis(indices, k)
    at_sides = [_axis(indices, var) for var in sides]
    if at_k is None or None in at_sides:
        return None
    first = [place for place in at_sides if place is not None]
    if first != list(range(first[0], first[0] + len(first)) if first else []):
        return None
    for var, place in zip(sides[1:], first[1:], strict=True):
        if not Analyzer().can_prove_equal(extents[var], shape[place]):
            return None  # rows with gaps
    if sum(_uses(indices, var) for var in (*sides, k)) != len(sides) + 1:
        return None
    last = len(shape) - 1
    depth_stride, side_stride = _stride(shape, at_k), _stride(shape, first[-1] if first else at_k)
    if at_k == last:
        depth_major, stride, dense = True, side_stride, extents[k]
    elif first and first[-1] == last:
        depth_major, stride, dense = False, depth_stride, product([extents[v] for v in sides])
        if len(sides) > 1:
            return None
    else:
        return None
    bits = 32 if str(load.source.dtype) == "float32" else 16
    return Operand(load, depth_major, stride, vector_of(bits, dense, shape[-1]))


def vector_of(bits: int, *extents: Expr) -> int:
    """Numbers of one copy: up to 16 bytes, a divisor of all extents; 1 where one is symbolic."""
    width = 128 // bits
    for extent in extents:
        width = math.gcd(width, constant(extent) or 1)
    return width


def _axis(indices: list[Expr], var: tirx.Var) -> int | None:
    return next((place for place, index in enumerate(indices) if index.same_as(var)), None)


def _uses(indices: list[Expr], var: tirx.Var) -> int:
    found: list[tirx.Var] = []
    for index in indices:
        tvm_ffi.structural_walk(index, (tirx.Var, lambda seen: found.append(seen)))
    return sum(seen.same_as(var) for seen in found)


def _stride(shape: list[Expr], axis: int) -> Expr:
    return product(shape[axis + 1 :])


def _call(
    at: ProductCall,
    a: Operand,
    b: Operand,
    rows: list[tirx.Var],
    column: tirx.Var,
    k: tirx.Var,
    extents: dict[tirx.Var, Expr],
) -> Expr:
    zero = tirx.const(0, "int64")
    row_places = unflatten(at.first_row, [extents[var] for var in rows]) if rows else []
    left = at.places | dict(zip(rows, row_places, strict=True)) | {k: zero}
    right = at.places | {column: at.first_column, k: zero}
    flags = ", ".join(
        f"{'true' if operand.depth_major else 'false'}, {operand.vector}" for operand in (a, b)
    )
    return tirx.call_extern(
        "int32",
        f"athanor::product<{at.tile}, {flags}>",
        at.shared,
        address(a.load, left),
        a.stride.astype("int64"),
        at.rows,
        address(b.load, right),
        b.stride.astype("int64"),
        at.columns,
        at.begin,
        at.end,
    )


def address(load: ir.TensorLoad, values: dict[tirx.Var, Expr]) -> Expr:
    """The address of what `load` reads for these values of its variables."""
    indices = [substitute(index, values) for index in load.indices]
    return tirx.address_of(tirx.BufferLoad(load.source, indices))


def substitute(value: Expr, values: dict[tirx.Var, Expr]) -> Expr:
    """The expression with other values for some variables."""

    def replace(var: tirx.Var) -> Expr:
        for known, new in values.items():
            if known.same_as(var):
                return new.astype(str(var.ty.dtype))
        return var

    return tvm_ffi.structural_map(value, (tirx.Var, replace), order="post")
