"""Products of few rows with a right operand of the run, which is read once, where it lies."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.schedules.written_loops import i64, serial, unrolled, vector
from athanor.targets.target import TargetSpec

PARALLEL_MACS = 1 << 18
"""Multiply-adds below which one core is done before a second one has started."""
TASK_BYTES = 1 << 17
"""Of the right operand that a task reads at least."""
LINES = 8
"""Rows of the right operand that are added up at once: as many streams as a core prefetches."""

DOT_ROWS = 4
"""Rows up to which dot products take less time than to turn the right operand into panels."""
LINE_ROWS = 4
"""Rows whose sums are loaded and stored again for every 8 lines in less time than those take."""
COLUMN_VECTORS = 16
"""Of the tile that reads a right operand down its columns (`schedules.plain_tile`)."""


def worth_dots(rows: int, columns: int, target: TargetSpec) -> bool:
    """Whether `row_dots_kernel` is the best for a transposed right operand of that many rows.

    12 x 1 x 64 by 64 x 2048: 90 us rather than 277.
    """
    return rows <= DOT_ROWS and columns >= target.lanes(32)


def worth_lines(images: int, rows: int, depth: int, columns: int, target: TargetSpec) -> bool:
    """Whether `row_lines_kernel` is the best.

    Where L2 does not hold the right operand, and its lines are longer than a tile of columns is:
    12 x 1 x 1024 by 1024 x 1024 1.8 ms rather than 3.3.
    """
    wide = columns > COLUMN_VECTORS * target.lanes(32)
    return rows <= LINE_ROWS and wide and 4 * images * depth * columns > target.l2_bytes


def row_dots_kernel(
    images: int, rows: int, columns: int, depth: int, target: TargetSpec
) -> tirx.PrimFunc:
    """(a, b, y), flat float32: y[i, r, n] = sum over k of a[i, r, k] * b[i, n, k].

    columns: `lanes` at least.

        for image, some columns in parallel:
            for `lanes` columns, row:
                acc[lanes, lanes] = 0                              # registers
                for k in vectors: for column (unrolled): acc[column, :] += a[k] * b[column, k]
                y[columns] = sums of acc's rows, by a transpose    # see `sum_lanes`

    The last columns overlap those before them, so that none is left over.
    """
    lanes = target.lanes(32)
    assert columns >= lanes, "a tile is whole"
    tiles = -(-columns // lanes)
    together = max(1, min(tiles, TASK_BYTES // (4 * depth * lanes)))
    chunks = -(-tiles // together)
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("row_dots")
            sizes = images * rows * depth, images * columns * depth, images * rows * columns
            a, b, y = (
                I.arg(name, I.buffer((size,), "float32"))
                for name, size in zip("aby", sizes, strict=True)
            )
            I.func_attr(_BY_HAND)
            loop = I.parallel if images * rows * columns * depth >= PARALLEL_MACS else I.serial
            with loop(i64(0), i64(images * chunks)) as task:
                dots = LaneDots(depth, target)
                image = tirx.floordiv(task, i64(chunks))
                first = tirx.floormod(task, i64(chunks)) * together
                with serial(tirx.min(i64(tiles) - first, i64(together))) as tile, serial(rows) as r:
                    column = tirx.min((first + tile) * lanes, i64(columns - lanes))
                    row = image * rows + r

                    def left(k: Any, row: Any = row) -> Any:
                        return a[row * depth + k]

                    def right(n: Any, k: Any, start: Any = image * columns + column) -> Any:
                        return b[(start + n) * depth + k]

                    dots.add_up(left, right)
                    with I.vectorized(i64(0), i64(lanes)) as lane:
                        I.buffer_store(y, dots.sums(lane), [row * columns + column + lane])
    return frame.get()


class LaneDots:
    """As many dot products as a vector has lanes, with lanes along what is summed up."""

    def __init__(self, depth: int, target: TargetSpec) -> None:
        self.depth, self.lanes = depth, target.lanes(32)
        self.masked = target.masked_loads
        self.acc, self.turned = (
            I.alloc_buffer((self.lanes * self.lanes,), "float32", scope="local") for _ in range(2)
        )

    def add_up(self, left: Any, right: Any) -> None:
        """Dot products of left(k) and right(n, k) for every n below `lanes`."""
        lanes, acc = self.lanes, self.acc
        zero = tirx.const(0.0, "float32")
        whole = self.depth // lanes
        with unrolled(lanes) as n, vector(lanes) as lane:
            I.buffer_store(acc, zero, [n * lanes + lane])
        with serial(whole) as k, unrolled(lanes) as n, vector(lanes) as lane:
            place = n * lanes + lane
            added = left(k * lanes + lane) * right(n, k * lanes + lane)
            I.buffer_store(acc, acc[place] + added, [place])
        rest = self.depth - whole * lanes
        if rest and self.masked:
            with unrolled(lanes) as n, vector(lanes) as lane:
                place, k = n * lanes + lane, i64(whole * lanes) + lane

                def inside(value: Any, lane: Any = lane) -> Any:
                    return tirx.if_then_else(lane < rest, value, zero)

                added = acc[place] + inside(left(k)) * inside(right(n, k))
                I.buffer_store(acc, added, [place])
        elif rest:
            with unrolled(lanes) as n, unrolled(rest) as k:
                added = left(whole * lanes + k) * right(n, whole * lanes + k)
                I.buffer_store(acc, acc[n * lanes] + added, [n * lanes])
        step, count = i64(lanes), i64(lanes)
        addresses = tirx.address_of(acc[0]), tirx.address_of(self.turned[0])
        name = f"athanor_transpose_{lanes}"
        call = tirx.call_extern("int32", name, addresses[0], step, count, addresses[1], step, count)
        I.evaluate(call)

    def sums(self, lane: Any) -> Any:
        """Dot product number `lane`: pairs, pairs of pairs, ..., so that no chain is long."""
        parts = [self.turned[n * self.lanes + lane] for n in range(self.lanes)]
        while len(parts) > 1:
            parts = [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]


def row_lines_kernel(
    images: int, rows: int, depth: int, columns: int, target: TargetSpec
) -> tirx.PrimFunc:
    """(a, b, y), flat float32: y[i, r, n] = sum over k of a[i, r, k] * b[i, k, n].

        for image, a run of columns in parallel:
            for 8 lines of b:                                      # as they lie, from end to end
                for vector of columns, row:
                    y[row, :] += a[row, line] * b[line, :] for every line

    For a b that no cache holds: memory is read line after line, y stays in the L1 cache.
    """
    lanes = target.lanes(32)
    chunk = columns
    parallel = images * rows * columns * depth >= PARALLEL_MACS
    if parallel and images < 8:
        chunk = max(-(-columns // 8 // lanes) * lanes, 512)
    chunks = -(-columns // chunk)
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("row_lines")
            sizes = images * rows * depth, images * depth * columns, images * rows * columns
            a, b, y = (
                I.arg(name, I.buffer((size,), "float32"))
                for name, size in zip("aby", sizes, strict=True)
            )
            I.func_attr(_BY_HAND)
            with (I.parallel if parallel else I.serial)(i64(0), i64(images * chunks)) as task:
                image = tirx.floordiv(task, i64(chunks))
                first = tirx.floormod(task, i64(chunks)) * chunk
                count = tirx.min(i64(columns) - first, i64(chunk))

                def step(column: Any, k: Any, lines: int, r: Any, started: bool) -> None:
                    row = image * rows + r
                    place = row * columns + first + column
                    total = y[place] if started else tirx.const(0.0, "float32")
                    for line in range(lines):
                        right = b[(image * depth + k + line) * columns + first + column]
                        total = total + a[row * depth + k + line] * right
                    I.buffer_store(y, total, [place])

                def block(k: Any, lines: int, started: bool) -> None:
                    with serial(tirx.floordiv(count, i64(lanes))) as number, serial(rows) as r:
                        with vector(lanes) as lane:
                            step(number * lanes + lane, k, lines, r, started)
                    whole = tirx.floordiv(count, i64(lanes)) * lanes
                    with serial(count - whole) as rest, serial(rows) as r:
                        step(whole + rest, k, lines, r, started)

                head = depth % LINES or LINES
                block(i64(0), min(head, depth), started=False)
                if depth > head:
                    with serial((depth - head) // LINES) as number:
                        block(number * LINES + head, LINES, started=True)
    return frame.get()


# 8 is TVM's kOpaque: what has no block can't be fused
_BY_HAND = {"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8}
