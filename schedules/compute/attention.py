"""Attention of one head after another, without a matrix of scores in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.schedules.blocks import constant
from athanor.schedules.compute.matmul import matmul_panel, tile_rows
from athanor.schedules.compute.strided import Strided
from athanor.schedules.written_loops import i64, serial, unrolled
from athanor.targets.target import TargetSpec

PARALLEL_MACS = 1 << 18
"""Multiply-adds below which one core is done before a second one has started."""
LOWEST = -3.4028234663852886e38
"""Floor of a row's maximum, so that a block whose scores are all -inf adds nothing to the row; a
row without any other score then divides 0 by 0, which is NaN as in softmax."""


@dataclass(frozen=True)
class ScoreStep:
    """What happens to the scores between their product and the softmax, in order.

    add: scores + operand. keep where: operand (bool) ? scores : number. keep unless: operand ?
    number : scores. multiply: scores * number.
    An operand's axes are (batch, head, key, query): queries last, for they are the lanes here.
    """

    kind: str
    number: float = 0.0
    operand: int = -1
    """Index among the operands."""
    place: Strided | None = None


@dataclass(frozen=True)
class Attention:
    """Sizes and operands of one attention; sizes may be symbolic but those of a head.

    query, key, value: axes (batch, head, row, column). A row of scores that is no number anywhere
    counts as no weight at all where `guarded`: the result is 0 rather than NaN.
    """

    batch: Any
    heads: Any
    queries: Any
    keys: Any
    size: int
    value_size: int
    query: Strided
    key: Strided
    value: Strided
    scale: float
    steps: tuple[ScoreStep, ...]
    guarded: bool


def key_rows(attention: Attention, target: TargetSpec) -> int:
    """Keys of a register tile."""
    keys, stride = constant(attention.keys), constant(attention.key.row_stride(2))
    return tile_rows(keys, matmul_panel(target), stride)


def attention_kernel(
    attention: Attention,
    symbols: Sequence[tirx.Var],
    buffers: Sequence[tuple[Any, str]],
    target: TargetSpec,
    block: int,
) -> tirx.PrimFunc:
    """(symbols..., Q, K, V, operands..., out): softmax(steps(Q K^T * scale)) V, float32.

    buffers: elements and type of Q, K, V and the operands, each flat. out: (batch, queries,
    heads, value_size), flat. block: keys whose scores are held at once, as of
    `attention_blocks.key_block`.

        for batch, head, block of queries in parallel:
            qt[size, lanes] = transpose(Q block) * scale
            for block of keys:
                p[keys, lanes] = steps(K @ qt)            # a register tile of keys x queries
                top, p, total = max(top, p), exp(p - top), total + sum(p)
                o[value_size, lanes] = o * exp(old top - top) + V^T @ p
            out block = transpose(o / total)

    Queries are the lanes throughout: neither K nor V is copied or transposed, maxima and sums run
    down the rows, and what is read with a stride is read one number at a time, to be multiplied
    with a whole vector. A block holds the queries of one panel of a matrix product, the last one
    half as many where that is enough.
    """

    def emit(given: Sequence[Any], out: Any) -> None:
        _Kernel(attention, given, out, target, block).emit()

    return attention_function(attention, symbols, buffers, emit)


def attention_function(
    attention: Attention,
    symbols: Sequence[tirx.Var],
    buffers: Sequence[tuple[Any, str]],
    emit: Callable[[Sequence[Any], Any], None],
    dtype: str = "float32",
) -> tirx.PrimFunc:
    """The function of these parameters, its body by `emit(buffers, out)`; dtype: of the result."""
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("attention")
            for symbol in symbols:
                I.arg(symbol.name, symbol)
            given = [
                I.arg(f"b{number}", I.buffer((extent,), dtype))
                for number, (extent, dtype) in enumerate(buffers)
            ]
            a = attention
            count = a.batch * a.queries * a.heads * a.value_size
            out = I.arg("out", I.buffer((count,), dtype))
            # 8 is TVM's kOpaque: what has no block can't be fused
            I.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
            emit(given, out)
    return frame.get()


def stepped(attention: Attention, operands: Sequence[Any], value: Any, place: Sequence[Any]) -> Any:
    """A score after all steps; place: (batch, head, key, query)."""
    for step in attention.steps:
        number = tirx.const(step.number, "float32")
        if step.place is None:
            value = value * number
            continue
        operand = operands[step.operand][step.place.address(*place)]
        if step.kind == "add":
            value = value + operand
        elif step.kind == "keep where":
            value = tirx.Select(operand, value, number)
        else:
            value = tirx.Select(operand, number, value)
    return value


def _ceil(extent: Any, step: int) -> Any:
    known = constant(extent)
    return tirx.floordiv(extent + (step - 1), i64(step)) if known is None else -(-known // step)


class _Kernel:
    def __init__(
        self, attention: Attention, given: Sequence[Any], out: Any, target: TargetSpec, block: int
    ) -> None:
        self.a, self.out, self.block = attention, out, block
        self.q, self.k, self.v, *self.operands = given
        self.lanes = target.lanes(32)
        self.panel = matmul_panel(target)
        keys = constant(attention.keys)
        self.key_rows = key_rows(attention, target)
        self.value_rows = tile_rows(attention.value_size, self.panel)
        self.one_block = keys is not None and keys <= block
        self.zero = tirx.const(0.0, "float32")

    def emit(self) -> None:
        """All tasks."""
        a, tasks = self.a, _ceil(self.a.queries, self.panel)
        sizes = [constant(s) for s in (a.batch, a.heads, a.queries, a.keys)]
        known_sizes = [size for size in sizes if size is not None]
        macs = math.prod(known_sizes) * (a.size + a.value_size)
        small = len(known_sizes) == len(sizes) and macs < PARALLEL_MACS
        loop = I.serial if small else I.parallel
        with loop(i64(0), i64(a.batch * a.heads * tasks)) as task:
            rounded = -(-self.block // self.key_rows) * self.key_rows
            height = -(-a.value_size // self.value_rows) * self.value_rows
            tile = max(self.key_rows, self.value_rows)
            self.qt, self.p, self.o, self.acc, self.top, self.total, self.alpha = (
                I.alloc_buffer((size * self.panel,), "float32", scope=scope)
                for size, scope in (
                    *((a.size, "global"), (rounded, "global"), (height, "global")),
                    *((tile, "local"), (1, "local"), (1, "local"), (1, "local")),
                )
            )
            first = tirx.floormod(task, i64(tasks)) * self.panel
            head = tirx.floormod(tirx.floordiv(task, i64(tasks)), i64(a.heads))
            batch = tirx.floordiv(task, i64(tasks * a.heads))
            self.place = batch, head, first
            known = constant(a.queries)
            narrow = self.panel // 2
            if known is not None and known <= narrow:
                self.emit_block(narrow)
            elif known is not None and (known % self.panel == 0 or known % self.panel > narrow):
                self.emit_block(self.panel)
            else:
                with I.If(a.queries - first > narrow):
                    with I.Then():
                        self.emit_block(self.panel)
                    with I.Else():
                        self.emit_block(narrow)

    def emit_block(self, width: int) -> None:
        """One block of `width` queries."""
        a = self.a
        self.width, self.vectors = width, width // self.lanes
        self.pack_query()
        self.fill(self.top, LOWEST)
        self.fill(self.total, 0.0)
        if self.one_block:
            self.scores(i64(0), a.keys)
            self.exponentials(a.keys)
            self.values(i64(0), a.keys, started=False)
        else:
            with self.each(a.value_size) as (row, lane):
                I.buffer_store(self.o, self.zero, [row * width + lane])
            with serial(_ceil(a.keys, self.block)) as number:
                start = number * self.block
                count = tirx.min(a.keys - start, i64(self.block))
                with self.each(1) as (_, lane):
                    I.buffer_store(self.alpha, self.top[lane], [lane])
                self.scores(start, count)
                with self.each(1) as (_, lane):
                    shrunk = tirx.exp(self.alpha[lane] - self.top[lane])
                    I.buffer_store(self.alpha, shrunk, [lane])
                    I.buffer_store(self.total, self.total[lane] * self.alpha[lane], [lane])
                self.exponentials(count)
                self.values(start, count, started=True)
        self.finish()

    def each(self, rows: Any) -> Any:
        """Loops over rows and the lanes of a block."""
        return _Each(self, rows)

    def fill(self, buffer: Any, value: float) -> None:
        """Every lane of one row."""
        with self.each(1) as (_, lane):
            I.buffer_store(buffer, tirx.const(value, "float32"), [lane])

    def pack_query(self) -> None:
        """qt[column, lane] = Q[row, column] * scale, zeros for rows past the end."""
        a, width = self.a, self.width
        batch, head, first = self.place
        whole = a.size // self.lanes * self.lanes if self.transposes(a.query) else 0
        for vector in range(self.vectors if whole else 0):
            row = first + vector * self.lanes
            with serial(whole // self.lanes) as number:
                column = number * self.lanes
                # no address past the end of Q where this vector has no rows at all
                place = a.query.address(batch, head, tirx.min(row, a.queries - 1), column)
                self.transpose(
                    tirx.address_of(self.q[place]),
                    a.query.row_stride(2),
                    tirx.max(tirx.min(a.queries - row, i64(self.lanes)), i64(0)),
                    tirx.address_of(self.qt[column * width + vector * self.lanes]),
                    width,
                    self.lanes,
                )
        if whole < a.size:
            with serial(a.size - whole) as rest, serial(width) as lane:
                row = tirx.min(first + lane, a.queries - 1)
                place = a.query.address(batch, head, row, rest + whole)
                I.buffer_store(self.qt, self.q[place], [(rest + whole) * width + lane])
        if a.scale != 1.0:
            scale = tirx.const(a.scale, "float32")
            with self.each(a.size) as (row, lane):
                place = row * width + lane
                I.buffer_store(self.qt, self.qt[place] * scale, [place])

    def transposes(self, place: Strided) -> bool:
        """Whether whole vectors of a row can be read."""
        return constant(place.row_stride(3)) == 1 and place.row_stride(2) is not None

    def transpose(self, *arguments: Any) -> None:
        """A call of the function of targets.transpose."""
        values = [value if not isinstance(value, int) else i64(value) for value in arguments]
        name = f"athanor_transpose_{self.lanes}"
        I.evaluate(tirx.call_extern("int32", name, *values))

    def tile(self, rows: int, depth: Any, unroll: int, left: Any, right: Any, start: Any) -> None:
        """acc[rows, lanes] = start + sum over depth of left(row, k) * right(k, lane)."""
        width = self.width
        with self.lanes_of(rows) as (row, lane):
            I.buffer_store(self.acc, start(row, lane), [row * width + lane])
        with serial(depth // unroll) as outer, unrolled(unroll) as inner:
            k = outer * unroll + inner
            with self.lanes_of(rows) as (row, lane):
                place = row * width + lane
                added = self.acc[place] + left(row, k) * right(k, lane)
                I.buffer_store(self.acc, added, [place])

    def lanes_of(self, rows: int) -> Any:
        """Unrolled loops over rows and vectors, and lanes of a vector."""
        return _Each(self, rows, unroll=True)

    def scores(self, start: Any, count: Any) -> None:
        """p[key, lane] of the keys from `start` on, after the steps; top includes them."""
        a, rows, width = self.a, self.key_rows, self.width
        batch, head, first = self.place
        known = constant(count)
        exact = known is not None and known % rows == 0
        queries = constant(a.queries)
        full = (queries is not None and queries % self.width == 0) or not self.steps_by_lane()
        with serial(_ceil(count, rows)) as tile:

            def key(row: Any) -> Any:
                place = start + tile * rows + row
                return place if exact else tirx.min(place, a.keys - 1)

            def left(row: Any, k: Any) -> Any:
                return self.k[a.key.address(batch, head, key(row), k)]

            def right(k: Any, lane: Any) -> Any:
                return self.qt[k * width + lane]

            unroll = next(step for step in (4, 2, 1) if a.size % step == 0)
            self.tile(rows, a.size, unroll, left, right, lambda _row, _lane: self.zero)

            def store_whole() -> None:
                with self.lanes_of(rows) as (row, lane):
                    value = self.acc[row * width + lane]
                    value = self.stepped(value, key(row), first + lane)
                    I.buffer_store(self.p, value, [(tile * rows + row) * width + lane])
                    I.buffer_store(self.acc, value, [row * width + lane])
                with self.lanes_of(rows) as (row, lane):
                    higher = tirx.max(self.top[lane], self.acc[row * width + lane])
                    I.buffer_store(self.top, higher, [lane])

            def store_partly() -> None:
                with self.lanes_of(rows) as (row, lane):
                    place = (tile * rows + row) * width + lane
                    I.buffer_store(self.p, self.acc[row * width + lane], [place])
                with serial(rows) as row, serial(tirx.min(a.queries - first, i64(width))) as lane:
                    place = (tile * rows + row) * width + lane
                    value = self.stepped(self.p[place], key(row), first + lane)
                    I.buffer_store(self.p, value, [place])
                with serial(rows) as row, self.lanes_of(1) as (_, lane):
                    place = (tile * rows + row) * width + lane
                    I.buffer_store(self.top, tirx.max(self.top[lane], self.p[place]), [lane])

            if full:
                store_whole()
            else:
                with I.If(a.queries - first >= width):
                    with I.Then():
                        store_whole()
                    with I.Else():
                        store_partly()

    def steps_by_lane(self) -> bool:
        """Whether a step reads another number for each query."""
        return any(step.place is not None and not step.place.is_fixed(3) for step in self.a.steps)

    def stepped(self, value: Any, key: Any, query: Any) -> Any:
        """A score after all steps."""
        batch, head, _ = self.place
        return stepped(self.a, self.operands, value, (batch, head, key, query))

    def exponentials(self, count: Any) -> None:
        """P = exp(p - top), added to total."""
        width = self.width
        with serial(count) as row, self.lanes_of(1) as (_, lane):
            place = row * width + lane
            I.buffer_store(self.p, tirx.exp(self.p[place] - self.top[lane]), [place])
            I.buffer_store(self.total, self.total[lane] + self.p[place], [lane])

    def values(self, start: Any, count: Any, started: bool) -> None:
        """O = o * alpha + V^T @ p, or V^T @ p unless `started`."""
        a, width = self.a, self.width
        batch, head, _ = self.place

        def tile(column: Any, rows: int) -> None:
            def left(row: Any, k: Any) -> Any:
                return self.v[a.value.address(batch, head, start + k, column + row)]

            def right(k: Any, lane: Any) -> Any:
                return self.p[k * width + lane]

            def before(row: Any, lane: Any) -> Any:
                if not started:
                    return self.zero
                return self.o[(column + row) * width + lane] * self.alpha[lane]

            self.tile(rows, count, 1, left, right, before)
            with self.lanes_of(rows) as (row, lane):
                place = (column + row) * width + lane
                I.buffer_store(self.o, self.acc[row * width + lane], [place])

        full, rest = divmod(a.value_size, self.value_rows)
        if full:
            with serial(full) as number:
                tile(number * self.value_rows, self.value_rows)
        if rest:
            tile(i64(full * self.value_rows), rest)

    def finish(self) -> None:
        """Out = o / total."""
        a, width = self.a, self.width
        batch, head, first = self.place
        one = tirx.const(1.0, "float32")
        with self.each(1) as (_, lane):
            I.buffer_store(self.alpha, one / self.total[lane], [lane])
        with self.each(a.value_size) as (row, lane):
            value = self.o[row * width + lane] * self.alpha[lane]
            if a.guarded:
                value = tirx.Select(self.total[lane] > self.zero, value, self.zero)
            I.buffer_store(self.o, value, [row * width + lane])
        step = a.heads * a.value_size

        def place(row: Any, column: Any) -> Any:
            return ((batch * a.queries + row) * a.heads + head) * a.value_size + column

        whole = a.value_size // self.lanes * self.lanes
        for vector in range(self.vectors if whole else 0):
            row = first + vector * self.lanes
            with serial(whole // self.lanes) as number:
                column = number * self.lanes
                self.transpose(
                    tirx.address_of(self.o[column * width + vector * self.lanes]),
                    width,
                    self.lanes,
                    tirx.address_of(self.out[place(tirx.min(row, a.queries - 1), column)]),
                    step,
                    tirx.max(tirx.min(a.queries - row, i64(self.lanes)), i64(0)),
                )
        if whole < a.value_size:
            rows = tirx.min(a.queries - first, i64(width))
            with serial(rows) as row, serial(a.value_size - whole) as rest:
                value = self.o[(rest + whole) * width + row]
                I.buffer_store(self.out, value, [place(first + row, rest + whole)])


class _Each:
    """Context: loops over rows, vectors and lanes; gives (row, index of the lane in the block)."""

    def __init__(self, kernel: _Kernel, rows: Any, unroll: bool = False) -> None:
        loop: Callable[[Any], Any] = unrolled if unroll else serial
        self.kernel = kernel
        self.row = loop(rows) if rows != 1 else nullcontext(i64(0))
        self.vector = unrolled(kernel.vectors)
        self.lane = I.vectorized(i64(0), i64(kernel.lanes))

    def __enter__(self) -> tuple[Any, Any]:
        row, vector, lane = self.row.__enter__(), self.vector.__enter__(), self.lane.__enter__()
        return row, vector * self.kernel.lanes + lane

    def __exit__(self, *error: Any) -> None:
        for loop in (self.lane, self.vector, self.row):
            loop.__exit__(*error)
