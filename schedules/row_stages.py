"""Row functions as a list of stages: what each computes of an element, given its row.

What `rows.match_rows` accepts, taken apart for a scheduler that writes the loops itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.tirx.buffer import is_buffer_var

from athanor.schedules import blocks, loops
from athanor.schedules.rows import RowShape

Block = s_tir.schedule.SBlockRV


@dataclass
class Stage:
    """One block: a value for each element of a row, one a row, or a reduction of the row."""

    buffers: list[tirx.Buffer]
    """What it writes: one, but for a reduction of pairs."""
    indices: list[tirx.Expr]
    """Where, in terms of `rows` and `elements`."""
    values: list[tirx.Expr]
    """What. For a reduction the new partial results; they read the old ones at `indices`."""
    starts: list[tirx.Expr]
    """The partial results of nothing; empty where this is no reduction."""
    rows: list[tirx.Var]
    elements: list[tirx.Var]
    """Iterators within the row, slowest first; none where there is one value a row."""
    extents: list[tirx.Expr]
    """Of `elements`."""

    @property
    def reduces(self) -> bool:
        """Whether it brings the elements of a row together."""
        return bool(self.starts)

    def is_own(self, load: ir.TensorLoad) -> bool:
        """Whether a load reads the stage's own partial result."""
        return any(load.source.same_as(buffer) for buffer in self.buffers)

    def loads(self) -> list[ir.TensorLoad]:
        """What is read, but for its own partial results."""
        found = [load for value in self.values for load in blocks.loads(value)]
        return [load for load in found if not self.is_own(load)]


@dataclass
class RowFunction:
    """Stages in order, over rows of one shape."""

    parameters: list[tirx.Buffer]
    """Operands and results of the function."""
    rows: list[tirx.Expr]
    """Extents of the axes that tell one row from another, slowest first."""
    columns: int
    """How many of them, the last ones, lie within the reduced axes in memory."""
    length: tirx.Expr
    """Elements of a row."""
    stages: list[Stage] = field(default_factory=list)

    def stage_of(self, buffer: tirx.Buffer) -> Stage | None:
        """The stage that computes a buffer; None for an operand of the function."""
        for stage in self.stages:
            if any(buffer.same_as(written) for written in stage.buffers):
                return stage
        return None


def row_function(sch: s_tir.Schedule, leaves: list[Block], shape: RowShape) -> RowFunction | None:
    """The stages of `leaves`, as `rows.match_rows` gives them.

    None where rows of different blocks have different lengths, an element reads another element
    of an earlier stage, or an address is itself read from memory.
    """
    function = RowFunction(
        parameters=[param for param in sch.mod["main"].params if is_buffer_var(param)],
        rows=[extent.astype("int64") for extent in (*shape.outer, *shape.inner)],
        columns=len(shape.inner),
        length=tirx.const(1, "int64"),
    )
    for block in leaves:
        stage = _stage(sch, block, shape)
        if stage is None or any(blocks.loads(i) for load in stage.loads() for i in load.indices):
            return None
        if stage.elements:
            length = product(stage.extents)
            if any(earlier.elements for earlier in function.stages):
                if not equal(length, function.length):
                    return None
            function.length = length
        elif stage.reduces:
            return None
        function.stages.append(stage)
    return function if _reads_own_elements(function) else None


def _stage(sch: s_tir.Schedule, block: Block, shape: RowShape) -> Stage | None:
    stmt = sch.get(block)
    kinds = blocks.iterator_kinds(sch, block)
    pairs = list(zip(stmt.iter_vars, kinds, strict=True))
    values: list[tuple[tirx.Var, tirx.Expr]] = []  # what becomes of each iterator
    wide: list[tuple[tirx.Var, tirx.Expr]] = []
    for iterator, kind in pairs:
        if blocks.constant(iterator.dom.extent) == 1:
            values.append((iterator.var, tirx.const(0, str(iterator.var.ty.dtype))))
        elif kind == "S":
            wide.append((iterator.var, iterator.dom.extent))
    rows, elements, extents = [], [], []
    for number, extent in enumerate(shape.outer):
        if not wide:
            return None
        var, mine = wide.pop(0)
        row = tirx.Var(f"row{number}", "int64")
        rows.append(row)
        if loops.equal(mine, extent):
            values.append((var, row.astype(str(var.ty.dtype))))
            continue
        size, groups = blocks.constant(mine), blocks.constant(extent)
        if number != len(shape.outer) - 1 or size is None or groups is None or size % groups:
            return None
        inner = tirx.Var(var.name, "int64")
        values.append((var, (row * (size // groups) + inner).astype(str(var.ty.dtype))))
        elements.append(inner)
        extents.append(tirx.const(size // groups, "int64"))
    kept = len(wide) - len(shape.inner)
    if kept < 0:
        return None
    inside = wide[:kept] + [
        (iterator.var, iterator.dom.extent)
        for iterator, kind in pairs
        if kind == "R" and blocks.constant(iterator.dom.extent) != 1
    ]
    if "R" in kinds and (kept or elements):
        return None  # a reduction to a vector
    for (var, mine), extent in zip(wide[kept:], shape.inner, strict=True):
        if not loops.equal(mine, extent):
            return None
        row = tirx.Var(var.name, "int64")
        values.append((var, row.astype(str(var.ty.dtype))))
        rows.append(row)
    for var, extent in inside:
        element = tirx.Var(var.name, "int64")
        values.append((var, element.astype(str(var.ty.dtype))))
        elements.append(element)
        extents.append(extent.astype("int64"))
    if "R" in kinds and not elements:
        element = tirx.Var("k", "int64")  # a row of one
        elements.append(element)
        extents.append(tirx.const(1, "int64"))
    return _read(stmt, values, rows, elements, extents)


def _read(
    stmt: s_tir.SBlock,
    values: list[tuple[tirx.Var, tirx.Expr]],
    rows: list[tirx.Var],
    elements: list[tirx.Var],
    extents: list[tirx.Expr],
) -> Stage | None:
    """The stage of a block whose iterators become `values`."""
    stores, bound = _stores(stmt.body)
    starts, _ = _stores(stmt.init) if stmt.init is not None else ([], [])
    if not stores or (stmt.init is not None and len(starts) != len(stores)):
        return None

    def placed(expr: tirx.Expr) -> tirx.Expr:
        for variable, value in reversed(bound):
            expr = replace_variables(expr, [(variable, value)])
        return replace_variables(expr, values)

    analyzer = sym.Analyzer()
    return Stage(
        buffers=[store.buffer for store in stores],
        indices=[analyzer.simplify(placed(index)) for index in stores[0].indices],
        values=[placed(store.value) for store in stores],
        starts=[start.value for start in starts],
        rows=rows,
        elements=elements,
        extents=extents,
    )


def _stores(stmt: tirx.Stmt) -> tuple[list[tirx.BufferStore], list[tuple[tirx.Var, tirx.Expr]]]:
    """Stores and the values bound before them; nothing where there are other statements."""
    parts = list(stmt.seq) if isinstance(stmt, tirx.SeqStmt) else [stmt]
    stores = [part for part in parts if isinstance(part, tirx.BufferStore)]
    bound = [(part.var, part.value) for part in parts if isinstance(part, tirx.Bind)]
    return (stores, bound) if len(stores) + len(bound) == len(parts) else ([], [])


def _reads_own_elements(function: RowFunction) -> bool:
    """Whether stages read of earlier ones nothing but the element that they compute."""
    for stage in function.stages:
        for load in stage.loads():
            source = function.stage_of(load.source)
            if source is None:
                continue
            if not source.elements or source.reduces:
                continue  # one value a row; rows are the same, as match_rows has seen
            if not _same_place(stage, source, list(load.indices)):
                return False
    return True


def _same_place(stage: Stage, source: Stage, indices: list[tirx.Expr]) -> bool:
    """Whether `indices` are where `source` writes its element of the same number."""
    if len(stage.rows) != len(source.rows) or len(stage.elements) != len(source.elements):
        return False
    pairs = list(zip(stage.rows, source.rows, strict=True))
    pairs += list(zip(stage.elements, source.elements, strict=True))
    if not all(equal(a, b) for a, b in zip(stage.extents, source.extents, strict=True)):
        return False
    theirs = [replace_variables(i, [(b, a) for a, b in pairs]) for i in source.indices]
    return all(equal(a, b) for a, b in zip(indices, theirs, strict=True))


def replace_variables(expr: tirx.Expr, values: list[tuple[tirx.Var, tirx.Expr]]) -> tirx.Expr:
    """The expression with other values for some variables."""

    def visit(var: tirx.Var) -> tirx.Expr:
        return next((value for other, value in values if var.same_as(other)), var)

    return tvm_ffi.structural_map(expr, (tirx.Var, visit), order="post")


def product(extents: list[tirx.Expr]) -> tirx.Expr:
    """How many there are together."""
    result: tirx.Expr = tirx.const(1, "int64")
    for extent in extents:
        result = result * extent.astype("int64")
    return result


def equal(one: tirx.Expr, other: tirx.Expr) -> bool:
    """Whether two expressions are known to have the same value."""
    return bool(sym.Analyzer().can_prove_equal(one, other))
