"""Loops over blocks and threads of a GPU in which threads share rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as I

from athanor.schedules import blocks
from athanor.schedules.combine import combined
from athanor.schedules.row_stages import RowFunction, Stage, product
from athanor.schedules.written_loops import i64

LOAD_BYTES = 16
"""What one thread loads at once at most."""
_ALL = 0xFFFFFFFF
"""Threads of a warp that take part in a shuffle."""
_WARP = 32


@dataclass(frozen=True)
class RowPlan:
    """How threads share rows."""

    threads: int
    """Of one row; a power of two."""
    rows: int
    """Of one block; a power of two. More than one only where a row's threads are of one warp, or
    where rows are columns."""
    vector: int
    """Neighbouring elements of a row that are one thread's."""
    chunks: int
    """Vectors of a row that a thread keeps in registers; 0: as many as there are, none kept."""
    across: bool = False
    """Rows are columns in memory: neighbouring threads have neighbouring rows."""
    parts: int = 1
    """Blocks that share the row's one reduction."""

    def load_lanes(self, dtype: str) -> int:
        """Elements of a type in one load."""
        return max(1, LOAD_BYTES * 8 // max(8, bits(dtype)))

    def row_count(self, function: RowFunction) -> tirx.Expr:
        """Rows of the function."""
        return product(function.rows)

    def of_parts(self) -> RowPlan:
        """The plan that brings parts together: a warp a row."""
        return replace(self, threads=_WARP, rows=8, vector=1, chunks=0, across=False, parts=1)


def bits(dtype: str) -> int:
    """Bits of one element in memory."""
    return 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()) or 8)


def lanes(first: Any, width: int) -> Any:
    """Neighbouring indices as one vector's.

    Not a vectorized loop: within a division TVM's simplifier would mix the lane with the rest, and
    what lies together would be read one by one.
    """
    return first if width == 1 else tirx.Ramp(first, i64(1), width)


def each(count: int) -> AbstractContextManager[Any]:
    """An unrolled loop."""
    return nullcontext(i64(0)) if count == 1 else I.unroll(i64(0), i64(count))


class RowThreads:
    """Context: one launch, within it the thread's row and its elements of it."""

    def __init__(self, function: RowFunction, plan: RowPlan) -> None:
        self.function, self.plan = function, plan
        self.parameters = function.parameters
        self.count = plan.row_count(function)
        self.stack = ExitStack()
        self.part: Any = i64(0)
        self.flats: list[tuple[tirx.Buffer, Any]] = []

    def __enter__(self) -> RowThreads:
        plan, bound = self.plan, self.bound
        rows, count = plan.rows, blocks.constant(self.count)
        groups = tirx.floordiv(self.count + (rows - 1), i64(rows)) if count is None else None
        block = bound(-(-count // rows) if count is not None else groups, "blockIdx.x")
        if plan.parts > 1:
            self.part = bound(plan.parts, "blockIdx.y")
        if plan.across:
            self.thread = bound(plan.threads, "threadIdx.y")
            self.place = bound(rows, "threadIdx.x")
        else:
            self.place = bound(rows, "threadIdx.y") if rows > 1 else i64(0)
            self.thread = bound(plan.threads, "threadIdx.x")
        self.exact = rows == 1 or (count is not None and count % rows == 0)
        self.own_row = block * rows + self.place
        self.row = self.own_row if self.exact else tirx.min(self.own_row, self.count - 1)
        self.flatten()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def bound(self, extent: Any, axis: str) -> Any:
        """A loop over blocks or threads."""
        return self.stack.enter_context(I.thread_binding(i64(0), i64(extent), thread=axis))

    def flatten(self) -> None:
        """Declare the operands as tensors of one axis."""
        for buffer in self.parameters:
            size = product(list(buffer.shape))
            flat = I.decl_buffer((size,), str(buffer.dtype), data=buffer.data)
            self.flats.append((buffer, flat))

    def flat(self, buffer: tirx.Buffer) -> Any:
        """An operand as a tensor of one axis."""
        return next(flat for other, flat in self.flats if buffer.same_as(other))

    def element(self, chunk: Any, lane: Any) -> Any:
        """The number of a thread's element in its row."""
        vector = (chunk * self.plan.threads + self.thread) * self.plan.vector
        return vector + lane

    def storing(self, once: bool = False) -> AbstractContextManager[Any]:
        """Where results are stored: not past the last row; `once`: by one thread of a row."""
        conditions = [] if self.exact else [self.own_row < self.count]
        if once and self.plan.threads > 1:
            conditions.append(self.thread.equal(i64(0)))
        return when(tirx.all(*conditions) if conditions else None)

    def over(self, count: int) -> AbstractContextManager[Any]:
        """Numbers up to `count` that are the thread's."""
        stack = ExitStack()

        class Numbers:
            def __enter__(_self) -> Any:
                rounds = -(-count // self.plan.threads)
                turn = stack.enter_context(I.serial(i64(0), i64(rounds)))
                number = turn * self.plan.threads + self.thread
                stack.enter_context(when(number < count if count % self.plan.threads else None))
                return number

            def __exit__(_self, *error: Any) -> None:
                stack.__exit__(*error)

        return Numbers()

    def over_chunks(self, body: Callable[[Any], None]) -> None:
        """`body` for each vector of the row that is the thread's, and within the row."""
        plan, length = self.plan, self.function.length
        step, known = plan.threads * plan.vector, blocks.constant(length)
        if plan.parts > 1:
            assert known is not None, "parts are of a known row"
            count = -(-(-(-known // step)) // plan.parts)
            with I.serial(i64(0), i64(count)) as turn:
                chunk = self.part * count + turn
                even = known % (step * plan.parts) == 0
                with when(None if even else self.element(chunk, 0) < length):
                    body(chunk)
            return
        whole = known // step if known is not None else tirx.floordiv(length, i64(step))
        if known is None or whole:
            loop = I.unroll if plan.chunks else I.serial
            with loop(i64(0), i64(whole)) as chunk:
                body(chunk)
        if known is None or known % step:
            with when(self.element(i64(whole), 0) < length):
                body(i64(whole))

    def bring_together(self, stage: Stage, accumulators: list[Any]) -> None:
        """Partial results of a row's threads -> the result, in each of them."""
        threads = self.plan.threads
        if threads == 1:
            return
        if self.plan.across:
            self._through_shared(stage, accumulators, threads, self.plan.rows, self.thread)
            return
        distance = min(threads, _WARP) // 2
        while distance:
            theirs = [self._shuffled(accumulator, distance) for accumulator in accumulators]
            self._add(stage, accumulators, theirs)
            distance //= 2
        if threads > _WARP:
            warp = tirx.floordiv(self.thread, i64(_WARP))
            self._through_shared(stage, accumulators, threads // _WARP, 1, warp)

    def _shuffled(self, accumulator: Any, distance: int) -> Any:
        """What the thread at a distance has."""
        dtype = str(accumulator.dtype)
        carried = _carried(dtype)
        register = I.alloc_buffer((1,), carried, scope="local")
        value = accumulator[0] if carried == dtype else tirx.Cast(carried, accumulator[0])
        mask, lanes = tirx.const(_ALL, "uint32"), tirx.const(distance, "int32")
        call = tirx.call_extern(carried, "__shfl_xor_sync", mask, value, lanes)
        I.buffer_store(register, call, [i64(0)])
        return register[0] if carried == dtype else tirx.Cast(dtype, register[0])

    def _through_shared(
        self, stage: Stage, accumulators: list[Any], count: int, width: int, number: Any
    ) -> None:
        """Bring `count` numbers together, of each of `width` rows, that threads hold."""
        lane = self.place if width > 1 else i64(0)
        shared = [
            I.alloc_buffer((count * width,), str(accumulator.dtype), scope="shared")
            for accumulator in accumulators
        ]
        first = None
        if not self.plan.across:
            first = tirx.floormod(self.thread, i64(_WARP)).equal(i64(0))
        with when(first):
            for buffer, accumulator in zip(shared, accumulators, strict=True):
                I.buffer_store(buffer, accumulator[0], [number * width + lane])
        for buffer, accumulator in zip(shared, accumulators, strict=True):
            I.buffer_store(accumulator, buffer[lane], [i64(0)])
        with I.unroll(i64(1), i64(count)) as other:
            self._add(stage, accumulators, [buffer[other * width + lane] for buffer in shared])

    def _add(self, stage: Stage, accumulators: list[Any], theirs: list[Any]) -> None:
        put_together(
            accumulators, combined(stage, [accumulator[0] for accumulator in accumulators], theirs)
        )


def put_together(accumulators: list[Any], values: list[Any]) -> None:
    """Store new partial results, all at once: the values read what the stores change."""
    if len(values) == 1:
        I.buffer_store(accumulators[0], values[0], [i64(0)])
        return
    new = [I.alloc_buffer((1,), str(a.dtype), scope="local") for a in accumulators]
    for buffer, value in zip(new, values, strict=True):
        I.buffer_store(buffer, value, [i64(0)])
    for accumulator, buffer in zip(accumulators, new, strict=True):
        I.buffer_store(accumulator, buffer[0], [i64(0)])


def when(condition: Any | None) -> AbstractContextManager[Any]:
    """The statements within, under a condition."""
    if condition is None:
        return nullcontext()
    stack = ExitStack()

    class When:
        def __enter__(self) -> None:
            stack.enter_context(I.If(condition))
            stack.enter_context(I.Then())

        def __exit__(self, *error: Any) -> None:
            stack.__exit__(*error)

    return When()


def _carried(dtype: str) -> str:
    """The type in which a shuffle takes a number: it knows none of fewer than 32 bits."""
    if dtype in ("float16", "bfloat16"):
        return "float32"
    return "int32" if bits(dtype) < 32 else dtype
