"""How many rows are computed side by side, and where the next ones are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.tirx.buffer import is_buffer_var

from athanor.schedules import access, blocks
from athanor.schedules.decisions import decide
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV

TOGETHER = (1, 2, 4)
_COPIES = 4
"""Rows in the L1 cache for each that is computed: itself, the next one, the result, parameters."""
_FEWEST_TASKS = 8
"""Of all cores together; fewer would not end at the same time."""


@dataclass(frozen=True)
class NextRows:
    """The rows that the next iteration reads, asked for while this one's are read again."""

    names: list[str]
    """Of the operands."""
    length: int
    """Elements of a row; the next one lies behind it."""
    reader: Block
    """The second block that reads a row."""


def rows_together(
    sch: s_tir.Schedule, leaves: list[Block], outer: list[tirx.Expr], target: TargetSpec
) -> int:
    """Rows of which each block is computed in turn: sums wait for each other's rows, not their own.

    At the end of a row its partial sums are added one by one, which takes as long as 768 elements
    (layer norm in L2: 15 us for 133 rows one by one, 12 by twos). Rows that fill the L1 cache have
    no need of it, and those from the last cache or memory come sooner one by one (layer norm of
    2133 rows: 0.26 ms, 0.32 by twos).
    """
    count, length = _known(outer), _row_length(sch, leaves)
    if count is None or length is None or 4 * count * length > target.l2_bytes:
        return 1
    single = len([extent for extent in outer if blocks.constant(extent) != 1]) == 1 and all(
        _has_axis(sch, block, count) for block in leaves
    )
    fits = [
        rows
        for rows in TOGETHER
        if rows == 1 or ((count % rows == 0 or single) and count >= rows * _FEWEST_TASKS)
    ]
    most = target.l1_bytes // (_COPIES * length * 4)
    return decide(sch, "rows", fits, max(rows for rows in fits if rows <= max(1, most)))


def next_rows(sch: s_tir.Schedule, leaves: list[Block], target: TargetSpec) -> NextRows | None:
    """What is worth asking for; None where rows are read once, or too long or short for it.

    While the first cache gives a row again, the second would have nothing to do (instance norm of
    1600 elements in L2: 12.6 us, 9.2 with the next row on its way). What comes from memory has
    its own prefetching, which others would only delay.
    """
    first, length = leaves[0], _row_length(sch, leaves[:1])
    stmt = sch.get(first)
    steps = access.read_strides(stmt)
    if length is None or steps is None or not 32 <= length <= target.l1_bytes // 16:
        return None
    kinds = blocks.iterator_kinds(sch, first)
    outer = [
        step
        for iterator, step, kind in zip(stmt.iter_vars, steps, kinds, strict=True)
        if kind == "S" and blocks.constant(iterator.dom.extent) != 1
    ]
    if not outer or outer[-1] != length:
        return None
    operands = [param for param in sch.mod["main"].params if is_buffer_var(param)]
    reads = [
        load
        for load in blocks.loads(stmt.body)
        if any(load.source.same_as(operand) for operand in operands)
    ]
    large = [load for load in reads if len(load.indices) == max(len(r.indices) for r in reads)]
    sizes = [_known(list(load.source.shape)) for load in large]
    size_bytes = 4 * max((size for size in sizes if size is not None), default=0)
    if size_bytes > target.l3_bytes:
        return None
    # What stores its results has the way to the third cache busy with these.
    readers = leaves[1:] if size_bytes <= target.l2_bytes else leaves[1:-1]
    for block in readers:
        again = [load.source for load in blocks.loads(sch.get(block).body)]
        names = [load.source.name for load in large if any(load.source.same_as(b) for b in again)]
        if names:
            return NextRows(sorted(set(names)), length, block)
    return None


def _known(extents: list[tirx.Expr]) -> int | None:
    known = [blocks.constant(extent) for extent in extents]
    return None if None in known else math.prod(size for size in known if size)


def _row_length(sch: s_tir.Schedule, leaves: list[Block]) -> int | None:
    """Elements that the first reduction brings together."""
    for block in leaves:
        kinds = blocks.iterator_kinds(sch, block)
        if "R" in kinds:
            axes = zip(sch.get(block).iter_vars, kinds, strict=True)
            return _known([iterator.dom.extent for iterator, kind in axes if kind == "R"])
    return None


def _has_axis(sch: s_tir.Schedule, block: Block, extent: int) -> bool:
    """Whether rows are an iterator of the block, not groups of its elements."""
    return any(blocks.constant(i.dom.extent) == extent for i in sch.get(block).iter_vars)
