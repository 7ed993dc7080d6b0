"""Attention of a few queries, as when a model writes one token after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as I

from athanor.schedules.blocks import constant
from athanor.schedules.compute.attention import (
    LOWEST,
    PARALLEL_MACS,
    Attention,
    attention_function,
    stepped,
)
from athanor.schedules.compute.few_rows import LaneDots
from athanor.schedules.written_loops import i64, serial, unrolled, vector
from athanor.targets.target import TargetSpec

MOST_QUERIES = 4
"""`attention_kernel` has queries as lanes and takes as long for one as for a vector of them; here
each reads all keys and values again, from the L2 cache."""
KEY_BLOCK = 1024
"""Most keys whose scores are held at once: 4 KiB."""
CHAINS = 8
"""Sums of values that are added to in turn: two pipes times four cycles of latency."""


def has_few_queries(attention: Attention, target: TargetSpec) -> bool:
    """Whether `attention_rows_kernel` takes it, and is the best.

    Keys and values lie with what is summed up, or stored, together.
    """
    queries = constant(attention.queries)
    together = all(
        constant(view.row_stride(3)) == 1 and view.row_stride(2) is not None
        for view in (attention.query, attention.key, attention.value)
    )
    few = queries is not None and queries <= MOST_QUERIES
    return few and together and attention.value_size >= target.lanes(32)


def attention_rows_kernel(
    attention: Attention,
    symbols: Sequence[tirx.Var],
    buffers: Sequence[tuple[Any, str]],
    target: TargetSpec,
) -> tirx.PrimFunc:
    """As `attention.attention_kernel`, for queries that would leave its lanes empty.

        for batch, head, query in parallel:
            for block of keys:
                for `lanes` keys: p[keys] = steps(dot products of their rows with the query)
                top, p, total = max(top, p), exp(p - top), total + sum(p)
                o[value_size] = o * exp(old top - top) + sum over keys of p[key] * V[key, :]
            out row = o / total

    Keys are the lanes of the softmax, columns those of both products: K and V are read once, from
    end to end, as they lie.
    """

    def emit(given: Sequence[Any], out: Any) -> None:
        _Rows(attention, given, out, target).emit()

    return attention_function(attention, symbols, buffers, emit)


class _Rows:
    def __init__(
        self, attention: Attention, given: Sequence[Any], out: Any, target: TargetSpec
    ) -> None:
        self.a, self.out, self.target = attention, out, target
        self.q, self.k, self.v, *self.operands = given
        self.lanes = target.lanes(32)
        keys = constant(attention.keys)
        self.one_block = keys is not None and keys <= KEY_BLOCK
        self.block = keys if keys is not None and keys <= KEY_BLOCK else KEY_BLOCK
        size, lanes = attention.value_size, self.lanes
        # The last vector of a row overlaps the one before it, so that no column is left over.
        self.columns = [min(c, size - lanes) for c in range(0, size, lanes)]
        self.chains = max(1, CHAINS // len(self.columns))

    def emit(self) -> None:
        """All tasks."""
        a = self.a
        sizes = [constant(s) for s in (a.batch, a.heads, a.queries, a.keys)]
        known = [size for size in sizes if size is not None]
        small = (
            len(known) == len(sizes) and math.prod(known) * (a.size + a.value_size) < PARALLEL_MACS
        )
        queries, heads = i64(a.queries), i64(a.heads)
        loop = I.serial if small else I.parallel
        with loop(i64(0), i64(a.batch * a.heads * a.queries)) as task:
            head = tirx.floormod(tirx.floordiv(task, queries), heads)
            batch = tirx.floordiv(task, queries * heads)
            self.place = batch, head, tirx.floormod(task, queries)
            self.emit_row()

    def emit_row(self) -> None:
        """One query of one head."""
        a, lanes = self.a, self.lanes
        zero, lowest = tirx.const(0.0, "float32"), tirx.const(LOWEST, "float32")
        rounded = -(-self.block // lanes) * lanes
        width = len(self.columns) * lanes
        self.row, self.p, self.o, self.peak, self.sum, self.top, self.total, self.acc = (
            I.alloc_buffer((size,), "float32", scope=scope)
            for size, scope in (
                *((a.size, "global"), (rounded, "global"), (width, "global")),
                *((lanes, "local"), (lanes, "local"), (1, "local"), (1, "local")),
                (width * self.chains, "local"),
            )
        )
        self.dots = LaneDots(a.size, self.target)
        batch, head, query = self.place
        scale = tirx.const(a.scale, "float32")
        with serial(a.size) as column:
            value = self.q[a.query.address(batch, head, query, column)]
            I.buffer_store(self.row, value * scale, [column])
        I.buffer_store(self.top, lowest, [0])
        I.buffer_store(self.total, zero, [0])
        if self.one_block:
            self.emit_block(i64(0), i64(a.keys), started=False)
        else:
            self.each_column(lambda place, _column: I.buffer_store(self.o, zero, [place]))
            with serial(tirx.floordiv(a.keys + (KEY_BLOCK - 1), i64(KEY_BLOCK))) as number:
                start = number * KEY_BLOCK
                count = tirx.min(a.keys - start, i64(KEY_BLOCK))
                self.emit_block(start, count, started=True)
        self.finish()

    def emit_block(self, start: Any, count: Any, started: bool) -> None:
        """Scores, exponentials and values of the keys from `start` on."""
        self.scores(start, count)
        self.exponentials(count, started)
        self.values(start, count, started)

    def scores(self, start: Any, count: Any) -> None:
        """p[key] after the steps, -inf behind the last key."""
        a, lanes = self.a, self.lanes
        batch, head, query = self.place
        with serial(tirx.floordiv(count + (lanes - 1), i64(lanes))) as tile:

            def right(n: Any, k: Any) -> Any:
                key = tirx.min(start + tile * lanes + n, a.keys - 1)
                return self.k[a.key.address(batch, head, key, k)]

            self.dots.add_up(lambda k: self.row[k], right)
            with vector(lanes) as lane:
                I.buffer_store(self.p, self.dots.sums(lane), [tile * lanes + lane])
        whole = tirx.floordiv(count, i64(lanes))

        def step(key: Any) -> None:
            place = batch, head, start + key, query
            I.buffer_store(self.p, stepped(a, self.operands, self.p[key], place), [key])

        if a.steps:
            with serial(whole) as number, vector(lanes) as lane:
                step(number * lanes + lane)
            with serial(count - whole * lanes) as rest:
                step(whole * lanes + rest)
        with serial(tirx.floormod(-count, i64(lanes))) as rest:
            I.buffer_store(self.p, tirx.const(-math.inf, "float32"), [count + rest])

    def exponentials(self, count: Any, started: bool) -> None:
        """P = exp(p - top), added to total; o shrinks where top grows."""
        lanes = self.lanes
        tiles = tirx.floordiv(count + (lanes - 1), i64(lanes))
        with vector(lanes) as lane:
            I.buffer_store(self.peak, self.top[0], [lane])
            I.buffer_store(self.sum, tirx.const(0.0, "float32"), [lane])
        with serial(tiles) as tile, vector(lanes) as lane:
            higher = tirx.max(self.peak[lane], self.p[tile * lanes + lane])
            I.buffer_store(self.peak, higher, [lane])
        with unrolled(lanes - 1) as lane:
            I.buffer_store(self.peak, tirx.max(self.peak[0], self.peak[lane + 1]), [0])
        with serial(tiles) as tile, vector(lanes) as lane:
            place = tile * lanes + lane
            I.buffer_store(self.p, tirx.exp(self.p[place] - self.peak[0]), [place])
            I.buffer_store(self.sum, self.sum[lane] + self.p[place], [lane])
        if started:
            shrunk = tirx.exp(self.top[0] - self.peak[0])
            I.buffer_store(self.top, shrunk, [0])
            I.buffer_store(self.total, self.total[0] * self.top[0], [0])
            self.each_column(
                lambda place, _column: I.buffer_store(self.o, self.o[place] * self.top[0], [place])
            )
            I.buffer_store(self.top, self.peak[0], [0])
        with unrolled(lanes) as lane:
            I.buffer_store(self.total, self.total[0] + self.sum[lane], [0])

    def values(self, start: Any, count: Any, started: bool) -> None:
        """O += p @ V, or O = p @ V unless `started`."""
        a, chains, lanes = self.a, self.chains, self.lanes
        batch, head, _ = self.place
        width = len(self.columns) * lanes

        def add(chain: int, key: Any) -> None:
            for number, column in enumerate(self.columns):
                with vector(lanes) as lane:
                    place = chain * width + number * lanes + lane
                    value = self.v[a.value.address(batch, head, start + key, column + lane)]
                    I.buffer_store(self.acc, self.acc[place] + self.p[key] * value, [place])

        with unrolled(chains * len(self.columns)) as number, vector(lanes) as lane:
            I.buffer_store(self.acc, tirx.const(0.0, "float32"), [number * lanes + lane])
        whole = tirx.floordiv(count, i64(chains))
        with serial(whole) as number:
            for chain in range(chains):
                add(chain, number * chains + chain)
        if chains > 1:
            with serial(count - whole * chains) as rest:
                add(0, whole * chains + rest)

        def store(place: Any, _column: Any) -> None:
            total = self.o[place] if started else tirx.const(0.0, "float32")
            for chain in range(chains):
                total = total + self.acc[chain * width + place]
            I.buffer_store(self.o, total, [place])

        self.each_column(store)

    def each_column(self, body: Any) -> None:
        """body(place in o, column of the row) for all vectors of a row of values."""
        for number, column in enumerate(self.columns):
            with vector(self.lanes) as lane:
                body(number * self.lanes + lane, column + lane)

    def finish(self) -> None:
        """Out = o / total."""
        a = self.a
        batch, head, query = self.place
        row = ((batch * a.queries + query) * a.heads + head) * a.value_size
        zero, total = tirx.const(0.0, "float32"), self.total[0]

        def store(place: Any, column: Any) -> None:
            value = self.o[place] / total
            if a.guarded:
                value = tirx.Select(total > zero, value, zero)
            I.buffer_store(self.out, value, [row + column])

        self.each_column(store)
