"""Kernels for a GPU that compute whole rows: threads share a row, and keep it in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.schedules import blocks
from athanor.schedules.combine import combined
from athanor.schedules.device_threads import RowPlan, RowThreads, each, lanes, put_together
from athanor.schedules.linear import along, flat_address, split_number
from athanor.schedules.row_stages import RowFunction, Stage, replace_variables
from athanor.schedules.rules.by_hand import SCHEDULED
from athanor.schedules.written_loops import i64


def row_kernel(func: tirx.PrimFunc, function: RowFunction, plan: RowPlan) -> tirx.PrimFunc:
    """`func` as loops over blocks and threads, its stages those of `function`.

        for rows in blockIdx.x; row in threadIdx.y; thread in threadIdx.x:
            for each stage:
                for vectors of the row that are the thread's: load, compute, keep, store
                bring partial results of a reduction together: shuffles, then shared memory

    What several stages read is loaded once where the row fits registers (`plan.chunks`), else
    each stage reads it again, and what is between two stages is computed again. Threads past the
    last row compute that one once more, and store nothing.
    """
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("rows")
            if plan.parts > 1:
                _in_parts(function, plan)
            else:
                with RowThreads(function, plan) as threads:
                    StageEmitter(function, plan, threads).emit()
    body = frame.get().body
    made = tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
    return made.with_attr({SCHEDULED: True})


def _in_parts(function: RowFunction, plan: RowPlan) -> None:
    """The row's one reduction in two launches: parts of it, then the parts and what follows."""
    first = function.stages[0]
    shape = [plan.parts * plan.row_count(function)]
    scratch = [I.alloc_buffer(shape, str(start.ty.dtype)) for start in first.starts]
    with RowThreads(function, plan) as threads:
        rows = StageEmitter(function, plan, threads)
        accumulators = rows.reduction(first)
        place = threads.part * plan.row_count(function) + threads.row
        with threads.storing(once=True):
            for buffer, accumulator in zip(scratch, accumulators, strict=True):
                I.buffer_store(buffer, accumulator[0], [place])
    last = plan.of_parts()
    with RowThreads(function, last) as threads:
        rows = StageEmitter(function, last, threads)
        rows.collect(first, scratch, plan.parts)
        for stage in function.stages:
            rows.finish(stage) if stage is first else rows.stage(stage)


@dataclass
class _Kept:
    """Elements of an operand or of a stage in registers."""

    buffer: tirx.Buffer
    address: tirx.Expr
    registers: Any
    loaded: bool = False


@dataclass
class StageEmitter:
    """Emits the stages within the loops of `threads`."""

    function: RowFunction
    plan: RowPlan
    threads: RowThreads
    kept: list[_Kept] = field(default_factory=list)
    results: list[tuple[tirx.Buffer, Any]] = field(default_factory=list)
    """Registers of earlier stages: one number, or one an element."""
    number: tirx.Var = field(default_factory=lambda: tirx.Var("element", "int64"))
    """Stands for the element in addresses until they are used."""

    def emit(self) -> None:
        """All stages."""
        for stage in self.function.stages:
            self.stage(stage)

    def stage(self, stage: Stage) -> None:
        """One stage, what it stores included."""
        if stage.reduces:
            self.reduction(stage)
            self.finish(stage)
        elif stage.elements:
            self.elementwise(stage)
        else:
            result = self.local(stage.buffers[0])
            self.put(result, self.value(stage, stage.values[0], i64(0), i64(0)))
            self.results.append((stage.buffers[0], result))
            self.finish(stage)

    def finish(self, stage: Stage) -> None:
        """Store the one value a row of a stage, where it is a result of the function."""
        for buffer in stage.buffers:
            if not self.is_internal(buffer):
                with self.threads.storing(once=True):
                    place = self.address(stage, buffer, stage.indices, i64(0))
                    I.buffer_store(self.alias(buffer), self.result(buffer)[0], [place])

    def is_internal(self, buffer: tirx.Buffer) -> bool:
        """Whether only stages read a buffer."""
        return not any(buffer.same_as(param) for param in self.threads.parameters)

    def reduction(self, stage: Stage) -> list[Any]:
        """The registers that hold the row's result in each of its threads."""
        accumulators = [self.local(buffer) for buffer in stage.buffers]
        self.results += list(zip(stage.buffers, accumulators, strict=True))
        for accumulator, start in zip(accumulators, stage.starts, strict=True):
            self.put(accumulator, start)

        def add(chunk: Any, lane: Any) -> None:
            values = [self.value(stage, value, chunk, lane) for value in stage.values]
            put_together(accumulators, values)

        self.over_elements(stage, add)
        self.threads.bring_together(stage, accumulators)
        return accumulators

    def collect(self, stage: Stage, scratch: list[Any], parts: int) -> None:
        """The result of a reduction from those of its parts."""
        accumulators = [self.local(buffer) for buffer in stage.buffers]
        self.results += list(zip(stage.buffers, accumulators, strict=True))
        for accumulator, start in zip(accumulators, stage.starts, strict=True):
            self.put(accumulator, start)
        count = self.plan.row_count(self.function)
        with self.threads.over(parts) as part:
            place = part * count + self.threads.row
            ours = [accumulator[0] for accumulator in accumulators]
            values = combined(stage, ours, [buffer[place] for buffer in scratch])
            put_together(accumulators, values)
        self.threads.bring_together(stage, accumulators)

    def elementwise(self, stage: Stage) -> None:
        """A value for each element: kept where it is read again, stored where it is a result."""
        buffer = stage.buffers[0]
        read = any(
            load.source.same_as(buffer) for other in self.function.stages for load in other.loads()
        )
        stored = not self.is_internal(buffer)
        if not self.plan.chunks and not stored:
            return  # computed where it is read
        kept = bool(read and self.plan.chunks)
        size = max(1, self.plan.chunks) * self.plan.vector if kept else self.plan.vector
        registers = I.alloc_buffer((size,), str(buffer.dtype), scope="local")

        def compute(chunk: Any, lane: Any) -> None:
            value = self.value(stage, stage.values[0], chunk, lane)
            place = chunk * self.plan.vector + lane if kept else lane
            I.buffer_store(registers, value, [place])

        def store(chunk: Any) -> None:
            if stored:
                first = chunk * self.plan.vector if kept else i64(0)
                self.store(stage, registers, first, chunk)

        self.over_elements(stage, compute, store)
        if kept:
            self.results.append((buffer, registers))

    def store(self, stage: Stage, registers: Any, first: Any, chunk: Any) -> None:
        """A vector of a stage's elements to memory."""
        buffer, vector = stage.buffers[0], self.plan.vector
        address = self.element_address(stage, buffer, stage.indices)
        whole = self.is_vector(buffer, address)
        width = min(vector, self.plan.load_lanes(str(buffer.dtype))) if whole else 1
        with self.threads.storing():
            for start in range(0, vector, width):
                place = self.at(address, self.threads.element(chunk, start))
                value = registers[lanes(first + start, width)]
                I.buffer_store(self.alias(buffer), value, [lanes(place, width)])

    def over_elements(
        self,
        stage: Stage,
        element: Callable[[Any, Any], None],
        after: Callable[[Any], None] = lambda _chunk: None,
    ) -> None:
        """What a thread does: for each of its vectors, load, `element`s, `after`."""
        missing = [kept for kept in self.operands(stage) if not kept.loaded]

        def load(chunk: Any) -> None:
            for kept in missing:
                self.fill(kept, chunk)

        def body(chunk: Any) -> None:
            if not self.plan.chunks:
                load(chunk)
            with each(self.plan.vector) as lane:
                element(chunk, lane)
            after(chunk)

        if missing and self.plan.chunks:
            self.threads.over_chunks(load)  # apart: all loads are on their way before the first use
        self.threads.over_chunks(body)
        if self.plan.chunks:
            for kept in missing:
                kept.loaded = True

    def operands(self, stage: Stage) -> list[_Kept]:
        """What of memory a stage reads that is another number for each element, in registers."""
        if any(blocks.has_conditions(value) for value in stage.values):
            return []  # what must not be read is not read
        found: list[_Kept] = []
        for load in stage.loads():
            source = self.function.stage_of(load.source)
            if source is not None:
                if source.elements and not source.reduces and not self.plan.chunks:
                    found += self.operands(source)
                continue
            address, moves = self.moving_address(stage, load.source, list(load.indices))
            kept = self.find(load.source, address)
            if moves and kept is None:
                size = max(1, self.plan.chunks) * self.plan.vector
                registers = I.alloc_buffer((size,), str(load.source.dtype), scope="local")
                kept = _Kept(load.source, address, registers)
                self.kept.append(kept)
            if kept is not None and not any(kept is other for other in found):
                found.append(kept)
        return found

    def fill(self, kept: _Kept, chunk: Any) -> None:
        """One vector of an operand."""
        vector = self.plan.vector
        whole = self.is_vector(kept.buffer, kept.address)
        width = min(vector, self.plan.load_lanes(str(kept.buffer.dtype))) if whole else 1
        first = chunk * vector if self.plan.chunks else i64(0)
        for start in range(0, vector, width):
            place = self.at(kept.address, self.threads.element(chunk, start))
            value = self.alias(kept.buffer)[lanes(place, width)]
            I.buffer_store(kept.registers, value, [lanes(first + start, width)])

    def is_vector(self, buffer: tirx.Buffer, address: tirx.Expr) -> bool:
        """Whether the vectors of a row lie together, and on addresses that they divide."""
        vector = self.plan.vector
        if vector == 1 or str(buffer.dtype) == "bool":
            return False
        analyzer = sym.Analyzer()
        moved = replace_variables(address, [(self.number, self.number + 1)])
        if blocks.constant(analyzer.simplify(moved - address)) != 1:
            return False
        start = replace_variables(address, [(self.number, i64(0))])
        return blocks.constant(analyzer.simplify(tirx.floormod(start, i64(vector)))) == 0

    def value(self, stage: Stage, value: tirx.Expr, chunk: Any, lane: Any) -> tirx.Expr:
        """A stage's value for one element, of registers and memory."""
        element = self.threads.element(chunk, lane)
        places: list[tuple[tirx.Var, tirx.Expr]] = []
        if stage.elements:
            places += split_number(element, stage.elements, stage.extents)
        if stage.rows:
            places += split_number(self.threads.row, stage.rows, self.function.rows)

        def read(load: ir.TensorLoad) -> tirx.Expr:
            return self.operand(stage, load, chunk, lane)

        return replace_variables(
            tvm_ffi.structural_map(value, (ir.TensorLoad, read), order="post"), places
        )

    def operand(self, stage: Stage, load: ir.TensorLoad, chunk: Any, lane: Any) -> tirx.Expr:
        """What stands in for a load."""
        slot = chunk * self.plan.vector + lane if self.plan.chunks else lane
        source = self.function.stage_of(load.source)
        if source is not None:
            if source is stage or not source.elements or source.reduces:
                return self.result(load.source)[0]
            if self.plan.chunks:
                return self.result(load.source)[slot]
            return self.value(source, source.values[0], chunk, lane)
        address = self.element_address(stage, load.source, list(load.indices))
        kept = self.find(load.source, address)
        if kept is not None:
            return kept.registers[slot]
        return self.alias(load.source)[self.at(address, self.threads.element(chunk, lane))]

    def element_address(
        self, stage: Stage, buffer: tirx.Buffer, indices: list[tirx.Expr]
    ) -> tirx.Expr:
        """A flat address in terms of `number`."""
        return self.moving_address(stage, buffer, indices)[0]

    def moving_address(
        self, stage: Stage, buffer: tirx.Buffer, indices: list[tirx.Expr]
    ) -> tuple[tirx.Expr, bool]:
        """A flat address in terms of `number`, and whether it is another one for each."""
        flat = flat_address(list(buffer.shape), indices)
        flat, step = along(flat, stage.elements, stage.extents, self.number)
        flat, _ = along(flat, stage.rows, self.function.rows, self.threads.row)
        return sym.Analyzer().simplify(flat), step is None or blocks.constant(step) != 0

    def address(
        self, stage: Stage, buffer: tirx.Buffer, indices: list[tirx.Expr], element: tirx.Expr
    ) -> tirx.Expr:
        """A flat address of one element."""
        return self.at(self.element_address(stage, buffer, indices), element)

    def at(self, address: tirx.Expr, element: tirx.Expr) -> tirx.Expr:
        """An address in terms of `number`, for one element."""
        return replace_variables(address, [(self.number, element)])

    def find(self, buffer: tirx.Buffer, address: tirx.Expr) -> _Kept | None:
        """The registers that an operand's elements are in."""
        for kept in self.kept:
            same = kept.buffer.same_as(buffer)
            if same and tvm_ffi.structural_equal(kept.address, address):
                return kept
        return None

    def result(self, buffer: tirx.Buffer) -> Any:
        """The registers of what an earlier stage computed."""
        return next(registers for other, registers in self.results if buffer.same_as(other))

    def alias(self, buffer: tirx.Buffer) -> Any:
        """The operand as a flat tensor."""
        return self.threads.flat(buffer)

    def local(self, buffer: tirx.Buffer) -> Any:
        """A register for one value of a buffer's type."""
        return I.alloc_buffer((1,), str(buffer.dtype), scope="local")

    def put(self, buffer: Any, value: tirx.Expr) -> None:
        """Set such a register."""
        I.buffer_store(buffer, value, [i64(0)])
