"""Attention of 16-bit numbers on a GPU's tensor cores, no matrix of scores in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm import sym, tirx
from tvm.script.ir_builder import tirx as I

from athanor.schedules.blocks import constant
from athanor.schedules.compute.attention import LOWEST, Attention, attention_function
from athanor.schedules.compute.strided import Strided
from athanor.schedules.product_tiles import NUMBERS
from athanor.schedules.written_loops import i64, unrolled
from athanor.targets.gpu import GPUSpec

WARP_KEYS = 64
"""Keys whose scores a warp has at once (targets/device/attention.cuh)."""
_WIDEST = 256
"""Values of a head: 128 sums in each thread's registers."""
_WIDEST_PAIR = 64
"""The same where a warp has 32 queries."""
_FILLED_WARPS = 8
"""Warps that keep a multiprocessor busy."""
_SHAPES = ((2, 4), (1, 4), (1, 2), (1, 1))
"""Tiles of 16 queries of a warp, and warps along the queries: the more, the less often keys are
read."""

Choose = Callable[[str, Sequence[int], int], int]
"""(name, candidates, preferred) -> the one to take."""


@dataclass(frozen=True)
class AttentionTile:
    """How one block of threads computes its queries."""

    tiles: int
    warps: int
    groups: int
    """Groups of warps that each take other keys."""
    stages: int

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.tiles * self.warps * 16

    @property
    def keys(self) -> int:
        """Of all groups at once."""
        return self.groups * WARP_KEYS

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.warps * self.groups * 32

    def query_bytes(self, size: int) -> int:
        """Of the queries in shared memory."""
        return -(-size // 64) * self.queries * 128

    def shared_bytes(self, size: int, value_size: int) -> int:
        """Of queries and keys, or of the results, which take their place."""
        stage = (-(-size // 64) + -(-value_size // 64)) * self.keys * 128
        sums = self.groups * self.queries * result_width(value_size) * 4
        return max(self.query_bytes(size) + self.stages * stage, sums)


def result_width(value_size: int) -> int:
    """Floats from one row of the results in shared memory to the next."""
    return -(-value_size // 16) * 16 + 8


def fits_tensor_cores(size: int, value_size: int, gpu: GPUSpec) -> bool:
    """Whether heads of these sizes fit registers and shared memory."""
    smallest = AttentionTile(1, 1, 1, 1)
    inside = smallest.shared_bytes(size, value_size) <= gpu.shared_bytes
    return gpu.tensor_cores and value_size <= _WIDEST and inside


def is_row_major(view: Strided) -> bool:
    """Whether rows lie in equal steps, and each as a whole."""
    return constant(view.row_stride(3)) in (0, 1) and view.row_stride(2) is not None


def choose_attention_tile(attention: Attention, gpu: GPUSpec, choose: Choose) -> AttentionTile:
    """Few queries: small blocks, and warps that share the keys; many: large ones."""
    a = attention
    sizes = [constant(size) for size in (a.batch, a.heads, a.queries, a.keys)]
    batch, heads, queries, keys = (s or n for s, n in zip(sizes, (1, 12, 256, 256), strict=True))

    def blocks(tiles: int, warps: int) -> int:
        return batch * heads * -(-queries // (tiles * warps * 16))

    shapes = [
        (tiles, warps)
        for tiles, warps in _SHAPES
        if (tiles == 1 or a.value_size <= _WIDEST_PAIR)
        and AttentionTile(tiles, warps, 1, 1).shared_bytes(a.size, a.value_size) <= gpu.shared_bytes
    ]
    filling = [
        (tiles, warps)
        for tiles, warps in shapes
        if blocks(tiles, warps) >= 2 * gpu.multiprocessors
        and tiles * warps * 16 <= max(16, queries)
    ]
    preferred = filling[0] if filling else shapes[-1]
    rows = [tiles * warps for tiles, warps in shapes]
    chosen = choose("attention_queries", sorted(rows), preferred[0] * preferred[1])
    tiles, warps = shapes[rows.index(chosen)]

    def fits(groups: int, stages: int) -> bool:
        shared = AttentionTile(tiles, warps, groups, stages).shared_bytes(a.size, a.value_size)
        return groups * warps <= 8 and shared <= gpu.shared_bytes

    candidates = [groups for groups in (1, 2, 4, 8) if fits(groups, 1)]
    wanted = max(1, gpu.multiprocessors * _FILLED_WARPS // max(1, blocks(tiles, warps) * warps))
    most = min(wanted, -(-keys // WARP_KEYS))
    groups = choose(
        "attention_groups", candidates, max(n for n in candidates if n <= most or n == 1)
    )
    depths = [stages for stages in (1, 2) if fits(groups, stages)]
    several = keys > groups * WARP_KEYS
    stages = choose("attention_stages", depths, depths[-1] if several else 1)
    return AttentionTile(tiles, warps, groups, stages)


def tensor_attention_kernel(
    attention: Attention,
    symbols: Sequence[tirx.Var],
    buffers: Sequence[tuple[Any, str]],
    gpu: GPUSpec,
    choose: Choose = lambda _name, _candidates, preferred: preferred,
) -> tirx.PrimFunc:
    """(symbols..., Q, K, V, operands..., out), as `attention.attention_kernel` has it.

    Q, K, V and out are float16 or bfloat16, of views that `is_row_major`; sums, scores and
    weights float32, but that weights are rounded before they meet V.

        for batch, head, block of queries in blockIdx.x; warps x 32 threads:
            Q block in shared memory
            for block of keys, copied while the one before is at work:
                scores of a warp's 16 or 32 queries and 64 keys: steps(Q K^T), by mma
                top, P, total = max(top, scores), exp(scores - top), total + sum(P)
                O = O * exp(old top - top) + P V, P from the registers it is in
            out = O / total, of the groups of warps that had other keys

    Sizes of heads are such that `fits_tensor_cores`; all others may be symbolic.
    """
    tile = choose_attention_tile(attention, gpu, choose)

    def emit(given: Sequence[Any], out: Any) -> None:
        with ExitStack() as stack:
            _Kernel(attention, given, out, tile, stack).emit()

    return attention_function(attention, symbols, buffers, emit, dtype=buffers[0][1])


def _ceil(extent: Any, step: int) -> Any:
    known = constant(extent)
    return i64(-(-known // step)) if known is not None else (extent + (step - 1)) // i64(step)


class _Kernel:
    def __init__(
        self,
        attention: Attention,
        given: Sequence[Any],
        out: Any,
        tile: AttentionTile,
        stack: ExitStack,
    ) -> None:
        self.a, self.out, self.tile = attention, out, tile
        self.q, self.k, self.v, *self.operands = given
        tasks = _ceil(attention.queries, tile.queries)

        def bound(extent: Any, axis: str) -> Any:
            return stack.enter_context(I.thread_binding(i64(0), i64(extent), thread=axis))

        task = bound(attention.batch * attention.heads * tasks, "blockIdx.x")
        self.thread = bound(tile.threads, "threadIdx.x")
        self.first = tirx.floormod(task, tasks) * tile.queries
        number = tirx.floordiv(task, tasks)
        self.head = tirx.floormod(number, i64(attention.heads))
        self.batch = tirx.floordiv(number, i64(attention.heads))
        warp = tirx.floordiv(self.thread, i64(32))
        self.lane = tirx.floormod(self.thread, i64(32))
        self.row = tirx.floormod(warp, i64(tile.warps)) * (tile.tiles * 16)
        self.group = tirx.floordiv(warp, i64(tile.warps))

    def emit(self) -> None:
        """What one block of threads does."""
        a, tile = self.a, self.tile
        columns = -(-a.value_size // 16) * 16
        size = tile.shared_bytes(a.size, a.value_size)
        # Swizzled rows are 128 bytes, eight of them one after another.
        self.shared = I.alloc_buffer((size // 4,), "float32", scope="shared.dyn", align=1024)
        self.s = I.alloc_buffer((tile.tiles * 32,), "float32", scope="local")
        self.o = I.alloc_buffer((tile.tiles * columns // 2,), "float32", scope="local")
        self.top = I.alloc_buffer((tile.tiles * 2,), "float32", scope="local")
        self.total = I.alloc_buffer((tile.tiles * 2,), "float32", scope="local")
        for buffer, value in ((self.top, LOWEST), (self.total, 0.0), (self.o, 0.0)):
            with unrolled(int(buffer.shape[0])) as i:
                I.buffer_store(buffer, tirx.const(value, "float32"), [i])
        views = ((a.query, self.q), (a.key, self.k), (a.value, self.v))
        vectors = [
            _vector(view, length)
            for (view, _), length in zip(views, (a.size, a.size, a.value_size), strict=True)
        ]
        block = f"{a.size}, {a.value_size}, {tile.queries}, {tile.keys}, {tile.stages}"
        copied = f"{block}, {tile.threads}, {', '.join(map(str, vectors))}"
        computed = f"athanor::{NUMBERS[str(self.out.dtype)]}, {block}, {tile.tiles}"
        keys = [
            argument
            for view, buffer in views[1:]
            for argument in (self.address(buffer, view, 0), view.row_stride(2))
        ]
        query = [self.address(self.q, a.query, self.first), a.query.row_stride(2)]
        rows = tirx.min(a.queries - self.first, i64(tile.queries)).astype("int32")
        shared = tirx.buffer_data(self.shared)
        s, o, top, total = map(self.pointer, (self.s, self.o, self.top, self.total))
        row, group = self.row.astype("int32"), self.group.astype("int32")
        self.call(f"attention_begin<{copied}>", shared, *query, rows, *keys, a.keys)
        with I.serial(i64(0), _ceil(a.keys, tile.keys)) as number:
            self.call(f"attention_next<{copied}>", shared, *keys, number, a.keys)
            key = group * WARP_KEYS
            self.call(f"attention_scores<{computed}>", s, shared, number, row, key)
            self.step_scores(number * tile.keys + self.group * WARP_KEYS)
            self.call(f"attention_weights<{a.value_size}, {tile.tiles}>", s, top, total, o)
            self.call(f"attention_values<{computed}>", o, s, shared, number, key)
        guarded = "true" if a.guarded else "false"
        shape = f"{tile.queries}, {tile.groups}, {tile.tiles}, {tile.threads}, {guarded}"
        self.call(f"attention_end<{a.value_size}, {shape}>", shared, o, top, total, row, group)
        self.store()

    def call(self, function: str, *arguments: Any) -> None:
        """A device function of ours."""
        values = [i64(argument) for argument in arguments]
        I.evaluate(tirx.call_extern("int32", f"athanor::{function}", *values))

    def pointer(self, buffer: Any) -> Any:
        """The first of a thread's own numbers."""
        return tirx.address_of(buffer[i64(0)])

    def address(self, buffer: Any, view: Strided, row: Any) -> Any:
        """Where a row of this block's head begins."""
        return tirx.address_of(buffer[view.address(self.batch, self.head, row, 0)])

    def step_scores(self, start: Any) -> None:
        """The scores after scale and steps; -inf past the last key."""
        a = self.a
        known = constant(a.keys)
        exact = known is not None and known % self.tile.keys == 0
        if exact and not a.steps and a.scale == 1.0:
            return
        with unrolled(self.tile.tiles) as t, unrolled(8) as j, unrolled(4) as i:
            place = t * 32 + j * 4 + i
            row = self.first + self.row + t * 16 + tirx.floordiv(i, i64(2)) * 8
            query = tirx.min(row + tirx.floordiv(self.lane, i64(4)), a.queries - 1)
            column = tirx.floormod(self.lane, i64(4)) * 2 + tirx.floormod(i, i64(2))
            key = start + j * 8 + column
            value = self.s[place]
            if a.scale != 1.0:
                value = value * tirx.const(a.scale, "float32")
            value = self.stepped(value, key if exact else tirx.min(key, a.keys - 1), query)
            if not exact:
                value = tirx.Select(key < a.keys, value, tirx.const(float("-inf"), "float32"))
            I.buffer_store(self.s, value, [place])

    def stepped(self, value: Any, key: Any, query: Any) -> Any:
        """A score after all steps."""
        for step in self.a.steps:
            number = tirx.const(step.number, "float32")
            if step.place is None:
                value = value * number
                continue
            place = step.place.address(self.batch, self.head, key, query)
            operand = self.operands[step.operand][place]
            if step.kind == "add":
                value = value + operand.astype("float32")
            elif step.kind == "keep where":
                value = tirx.Select(operand, value, number)
            else:
                value = tirx.Select(operand, number, value)
        return value

    def store(self) -> None:
        """The results from shared memory, neighbouring threads side by side."""
        a, tile = self.a, self.tile
        vector = math.gcd(4, a.value_size)
        pieces = a.value_size // vector
        count = tile.queries * pieces
        with I.serial(i64(0), i64(-(-count // tile.threads))) as turn:
            at = turn * tile.threads + self.thread
            row, column = tirx.floordiv(at, i64(pieces)), tirx.floormod(at, i64(pieces)) * vector
            query = self.first + row
            inside = query < a.queries
            if count % tile.threads:
                inside = tirx.all(at < count, inside)
            place = ((self.batch * a.queries + query) * a.heads + self.head) * a.value_size + column
            with I.If(inside), I.Then(), I.vectorized(i64(0), i64(vector)) as lane:
                value = self.shared[row * result_width(a.value_size) + column + lane]
                I.buffer_store(self.out, value.astype(str(self.out.dtype)), [place + lane])


def _vector(view: Strided, length: int) -> int:
    """Numbers of one copy, 16 bytes at most: what divides a row and all that leads to it."""
    width = math.gcd(8, length)
    strides = [stride for axis in view.axes[:3] for _, stride in axis]
    analyzer = sym.Analyzer()
    for number in (view.offset, *strides):
        known = constant(number)
        if known is not None:
            width = math.gcd(width, known)
        else:
            span = analyzer.modular_set(number)
            width = math.gcd(width, int(span.coeff), int(span.base))
    return max(1, width)
