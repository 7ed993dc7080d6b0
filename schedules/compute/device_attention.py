"""Attention on a GPU: blocks of queries meet blocks of keys, no matrix of scores in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as I

from athanor.schedules.blocks import constant
from athanor.schedules.compute.attention import LOWEST, Attention, attention_function
from athanor.schedules.written_loops import i64, serial, unrolled
from athanor.targets.gpu import GPUSpec

_SIDE = 16
"""Threads of a block along queries, and along keys or columns of values: eight warps, the threads
of one row of scores in half of one, so that shuffles bring them together."""
_ALL = 0xFFFFFFFF
_TILES = ((64, 64), (64, 32), (32, 32), (32, 16), (16, 16))
"""Queries and keys of a block, in the order of work for each number read from shared memory."""


def fits_device(size: int, value_size: int, gpu: GPUSpec) -> bool:
    """Whether some tile of an attention with heads of these sizes fits shared memory."""
    return _tile(size, value_size, gpu) is not None


def _tile(size: int, value_size: int, gpu: GPUSpec) -> tuple[int, int] | None:
    for queries, keys in _TILES:
        floats = size * (queries + 4) + size * (keys + 1) + keys * (value_size + queries + 4)
        if floats * 4 <= gpu.shared_bytes:
            return queries, keys
    return None


def device_attention_kernel(
    attention: Attention,
    symbols: Sequence[tirx.Var],
    buffers: Sequence[tuple[Any, str]],
    gpu: GPUSpec,
) -> tirx.PrimFunc:
    """(symbols..., Q, K, V, operands..., out), as `attention.attention_kernel` has it; float32.

        for batch, head, block of queries in blockIdx.x; 16 x 16 threads:
            Q block in shared memory, times scale
            for block of keys:
                K and V block in shared memory
                scores of the block in registers: steps(Q K^T)
                top, P, total = max(top, scores), exp(scores - top), total + sum(P)
                O = O * exp(old top - top) + P V, P by way of shared memory
            out = O / total

    The sums of a row are brought together at the end, its maxima in each block. Sizes of heads are
    such that `fits_device`; batch, heads, queries and keys may be symbolic.
    """

    def emit(given: Sequence[Any], out: Any) -> None:
        with ExitStack() as stack:
            _Kernel(attention, given, out, gpu, stack).emit()

    return attention_function(attention, symbols, buffers, emit)


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _ceil(extent: Any, step: int) -> Any:
    known = constant(extent)
    return -(-known // step) if known is not None else tirx.floordiv(extent + (step - 1), i64(step))


class _Kernel:
    def __init__(
        self, attention: Attention, given: Sequence[Any], out: Any, gpu: GPUSpec, stack: ExitStack
    ) -> None:
        self.a, self.out = attention, out
        self.q, self.k, self.v, *self.operands = given
        tile = _tile(attention.size, attention.value_size, gpu)
        assert tile is not None, "fits_device"
        self.block_queries, self.block_keys = tile
        self.rows = self.block_queries // _SIDE  # of one thread
        self.keys = self.block_keys // _SIDE
        self.columns = -(-attention.value_size // _SIDE)
        tasks = _ceil(attention.queries, self.block_queries)

        def bound(extent: Any, axis: str) -> Any:
            return stack.enter_context(I.thread_binding(i64(0), i64(extent), thread=axis))

        task = bound(attention.batch * attention.heads * tasks, "blockIdx.x")
        self.ty, self.tx = bound(_SIDE, "threadIdx.y"), bound(_SIDE, "threadIdx.x")
        self.first = tirx.floormod(task, i64(tasks)) * self.block_queries
        number = tirx.floordiv(task, i64(tasks))
        self.head = tirx.floormod(number, i64(attention.heads))
        self.batch = tirx.floordiv(number, i64(attention.heads))

    def emit(self) -> None:
        """What one block of threads does."""
        a, rows, keys = self.a, self.rows, self.keys
        self.q_width, self.k_width = self.block_queries + 4, self.block_keys + 1

        def shared(size: int) -> Any:
            return I.alloc_buffer((size,), "float32", scope="shared.dyn")

        def local(size: int) -> Any:
            return I.alloc_buffer((size,), "float32", scope="local")

        self.q_tile, self.k_tile = shared(a.size * self.q_width), shared(a.size * self.k_width)
        self.v_tile = shared(self.block_keys * a.value_size)
        self.p_tile = shared(self.block_keys * self.q_width)
        self.s, self.o = local(rows * keys), local(rows * self.columns)
        self.top, self.total, self.alpha = local(rows), local(rows), local(rows)
        self.left, self.right, self.other = local(rows), local(max(keys, self.columns)), local(1)
        self.load_transposed(
            self.q, a.query, self.q_tile, self.q_width, self.block_queries, self.first, a.queries
        )
        for buffer, size, value in (
            (self.top, rows, LOWEST),
            (self.total, rows, 0.0),
            (self.o, rows * self.columns, 0.0),
        ):
            with unrolled(size) as i:
                I.buffer_store(buffer, _f32(value), [i])
        with serial(_ceil(a.keys, self.block_keys)) as number:
            start = number * self.block_keys
            self.load_transposed(
                self.k, a.key, self.k_tile, self.k_width, self.block_keys, start, a.keys
            )
            self.load_values(start)
            self.scores(start)
            self.weights()
            self.values()
        self.finish()

    def elements(self, count: int) -> Any:
        """Numbers up to `count` that are this thread's; a guarded loop."""
        return _Numbers(count, self.ty * _SIDE + self.tx)

    def load_transposed(
        self, source: Any, place: Any, tile: Any, width: int, rows: int, start: Any, count: Any
    ) -> None:
        """tile[column, row] = source[start + row, column], of Q times scale.

        Past the end the last row again.
        """
        a = self.a
        with self.elements(rows * a.size) as number:
            row = tirx.floordiv(number, i64(a.size))
            column = tirx.floormod(number, i64(a.size))
            where = tirx.min(start + row, count - 1)
            value = source[place.address(self.batch, self.head, where, column)]
            if source is self.q and a.scale != 1.0:
                value = value * _f32(a.scale)
            I.buffer_store(tile, value, [column * width + row])

    def load_values(self, start: Any) -> None:
        """v_tile[key, column]: the last row again past the end, where weights are zero."""
        a = self.a
        with self.elements(self.block_keys * a.value_size) as number:
            key = tirx.floordiv(number, i64(a.value_size))
            column = tirx.floormod(number, i64(a.value_size))
            where = tirx.min(start + key, a.keys - 1)
            value = self.v[a.value.address(self.batch, self.head, where, column)]
            I.buffer_store(self.v_tile, value, [number])

    def scores(self, start: Any) -> None:
        """s[row, key] after the steps; -inf past the last key."""
        a, rows, keys = self.a, self.rows, self.keys
        with unrolled(rows * keys) as i:
            I.buffer_store(self.s, _f32(0.0), [i])
        with serial(a.size) as d:
            with I.vectorized(i64(0), i64(rows)) as i:
                value = self.q_tile[d * self.q_width + self.ty * rows + i]
                I.buffer_store(self.left, value, [i])
            with unrolled(keys) as j:
                value = self.k_tile[d * self.k_width + j * _SIDE + self.tx]
                I.buffer_store(self.right, value, [j])
            with unrolled(rows) as i, unrolled(keys) as j:
                place = i * keys + j
                I.buffer_store(self.s, self.s[place] + self.left[i] * self.right[j], [place])
        known = constant(a.keys)
        exact = known is not None and known % self.block_keys == 0
        with unrolled(rows) as i, unrolled(keys) as j:
            query = tirx.min(self.first + self.ty * rows + i, a.queries - 1)
            key = start + j * _SIDE + self.tx
            inside = key if exact else tirx.min(key, a.keys - 1)
            value = self.stepped(self.s[i * keys + j], inside, query)
            if not exact:
                value = tirx.Select(key < a.keys, value, _f32(float("-inf")))
            I.buffer_store(self.s, value, [i * keys + j])

    def stepped(self, value: Any, key: Any, query: Any) -> Any:
        """A score after all steps."""
        for step in self.a.steps:
            number = _f32(step.number)
            if step.place is None:
                value = value * number
                continue
            place = step.place.address(self.batch, self.head, key, query)
            operand = self.operands[step.operand][place]
            if step.kind == "add":
                value = value + operand
            elif step.kind == "keep where":
                value = tirx.Select(operand, value, number)
            else:
                value = tirx.Select(operand, number, value)
        return value

    def weights(self) -> None:
        """The new top, alpha, total; P = exp(s - top) to shared memory."""
        rows, keys = self.rows, self.keys
        with unrolled(rows) as i:
            I.buffer_store(self.alpha, self.top[i], [i])
            with unrolled(keys) as j:
                highest = tirx.max(self.top[i], self.s[i * keys + j])
                I.buffer_store(self.top, highest, [i])
            self.over_row(self.top, i, tirx.max)
            shrunk = tirx.exp(self.alpha[i] - self.top[i])
            I.buffer_store(self.alpha, shrunk, [i])
            I.buffer_store(self.total, self.total[i] * self.alpha[i], [i])
            with unrolled(keys) as j:
                weight = tirx.exp(self.s[i * keys + j] - self.top[i])
                I.buffer_store(self.s, weight, [i * keys + j])
                I.buffer_store(self.total, self.total[i] + self.s[i * keys + j], [i])
                place = (j * _SIDE + self.tx) * self.q_width + self.ty * rows + i
                I.buffer_store(self.p_tile, self.s[i * keys + j], [place])

    def over_row(self, buffer: Any, i: Any, combine: Any) -> None:
        """Bring a row's numbers of its 16 threads together, in each of them."""
        for distance in (8, 4, 2, 1):
            mask, lanes = tirx.const(_ALL, "uint32"), tirx.const(distance, "int32")
            call = tirx.call_extern("float32", "__shfl_xor_sync", mask, buffer[i], lanes)
            I.buffer_store(self.other, call, [i64(0)])
            I.buffer_store(buffer, combine(buffer[i], self.other[0]), [i])

    def values(self) -> None:
        """O = o * alpha + P V."""
        a, rows = self.a, self.rows
        with unrolled(rows) as i, unrolled(self.columns) as c:
            place = i * self.columns + c
            I.buffer_store(self.o, self.o[place] * self.alpha[i], [place])
        with serial(self.block_keys) as key:
            with I.vectorized(i64(0), i64(rows)) as i:
                value = self.p_tile[key * self.q_width + self.ty * rows + i]
                I.buffer_store(self.left, value, [i])
            with unrolled(self.columns) as c:
                column = tirx.min(c * _SIDE + self.tx, i64(a.value_size - 1))
                I.buffer_store(self.right, self.v_tile[key * a.value_size + column], [c])
            with unrolled(rows) as i, unrolled(self.columns) as c:
                place = i * self.columns + c
                added = self.o[place] + self.left[i] * self.right[c]
                I.buffer_store(self.o, added, [place])

    def finish(self) -> None:
        """Out = o / total."""
        a, rows = self.a, self.rows
        with unrolled(rows) as i:
            self.over_row(self.total, i, lambda one, other: one + other)
            I.buffer_store(self.alpha, _f32(1.0) / self.total[i], [i])
            query = self.first + self.ty * rows + i
            with unrolled(self.columns) as c:
                column = c * _SIDE + self.tx
                value = self.o[i * self.columns + c] * self.alpha[i]
                if a.guarded:
                    value = tirx.Select(self.total[i] > _f32(0.0), value, _f32(0.0))
                place = ((self.batch * a.queries + query) * a.heads + self.head) * a.value_size
                with I.If(tirx.all(query < a.queries, column < a.value_size)), I.Then():
                    I.buffer_store(self.out, value, [place + column])


class _Numbers:
    """Context: a loop over numbers up to `count` that are a thread's; gives the number."""

    def __init__(self, count: int, thread: Any) -> None:
        self.count, self.thread = count, thread
        self.stack = ExitStack()

    def __enter__(self) -> Any:
        step = _SIDE * _SIDE
        turn = self.stack.enter_context(serial(-(-self.count // step)))
        number = turn * step + self.thread
        if self.count % step:
            self.stack.enter_context(I.If(number < self.count))
            self.stack.enter_context(I.Then())
        return number

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)
