"""What a kernel has to do at least: arithmetic operations, and bytes to and from memory.

Both are counted from the loops before scheduling, where nothing is computed twice and nothing is
copied for speed's sake, so that they say what was asked for and not what a schedule makes of it.
Symbolic dimensions stay symbolic; the host program computes the numbers of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.tirx.buffer import is_buffer_var

from athanor.compiler.program import Copy, KernelCall, symbols_of
from athanor.schedules.blocks import NOMINAL
from athanor.schedules.compute.bf16 import DOT
from athanor.schedules.compute.int16 import DOT as INT16_DOT
from athanor.targets.codegen import symbolic_parameters

_ARITHMETIC = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.FloorDiv,
    tirx.FloorMod,
    tirx.Max,
    tirx.Min,
)

Count = int | ir.Expr
"""A number, or an int64 expression over the dimensions of a kernel or a program."""


@dataclass(frozen=True)
class Work:
    """What one step does."""

    operations: Count
    """A multiply-add is two; a function such as exp is one."""
    bytes: Count
    """Of the distinct elements that are read and written; of a table that is looked up, no more
    than there are look-ups."""


def step_work(step: KernelCall | Copy, kernels: dict[str, tirx.PrimFunc]) -> Work:
    """The work of a step over the symbols of its program."""
    if isinstance(step, Copy):
        size = step.target.size * (step.target.itemsize_bits // 8)
        return Work(0, _simplified(2 * size))
    func = kernels[step.kernel]
    work = kernel_work(func)
    scalars = [param for param in func.params if not is_buffer_var(param)]
    names = [*scalars, *symbolic_parameters(func)]
    values = dict(zip(names, step.dims, strict=True))

    def bind(count: Count) -> Count:
        if isinstance(count, int):
            return count
        bound = tvm_ffi.structural_map(count, (tirx.Var, lambda var: values.get(var, var)))
        return _simplified(bound)

    return Work(bind(work.operations), bind(work.bytes))


def kernel_work(func: tirx.PrimFunc) -> Work:
    """The work of an unscheduled kernel over its symbolic dimensions."""
    counter = _Counter(func)
    tvm_ffi.structural_visit(func.body, counter.visitors)
    size_bytes: Count = 0
    for param in counter.params:
        itemsize_bytes = max(8, tvm.DataType(str(param.dtype)).bits) // 8
        touched = counter.reads.get(param, 0) + counter.writes.get(param, 0)
        size_bytes = size_bytes + _lesser(_size(param), touched) * itemsize_bytes
    return Work(_simplified(counter.total()), _simplified(size_bytes))


class _Counter:
    """Counts what the statements under loops do, times the rounds of the loops."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self.params = [param for param in func.params if is_buffer_var(param)]
        self.known = list(symbolic_parameters(func))
        self.known += [param for param in func.params if not is_buffer_var(param)]
        self.operations: dict[tirx.Buffer, Count] = {}
        """Of the stores to each buffer."""
        self.reads: dict[tirx.Buffer, Count] = {}
        """Elements loaded from each buffer, but by stores to it, which add to what is there."""
        self.storing: tirx.Buffer | None = None
        self.writes: dict[tirx.Buffer, Count] = {}
        self.rounds: Count = 1
        self.nominal = (1, 1)
        self.visitors = [
            (tirx.For, self.loop),
            (s_tir.SBlock, self.block),
            (tirx.BufferStore, self.store),
            (ir.TensorLoad, self.load),
        ]

    def total(self) -> Count:
        """All operations; of a buffer that is rounded up to tiles, only what is read of it."""
        total: Count = 0
        for buffer, operations in self.operations.items():
            if not any(buffer.same_as(param) for param in self.params):
                size = _size(buffer)
                operations = _floordiv(operations * _lesser(size, self.reads.get(buffer, 0)), size)
            total = total + operations
        return total

    def loop(self, loop: tirx.For, visitor: tvm_ffi.StructuralVisitor) -> None:
        outer = self.rounds
        extent = loop.extent
        # an extent that data or an outer loop decides counts as one round: a lower bound
        if all(any(v.same_as(known) for known in self.known) for v in symbols_of(extent)):
            self.rounds = outer * extent
        visitor.visit(loop.body)
        self.rounds = outer

    def block(self, block: s_tir.SBlock, visitor: tvm_ffi.StructuralVisitor) -> None:
        outer = self.nominal
        if NOMINAL in block.annotations:
            asked, done = (int(number) for number in block.annotations[NOMINAL])
            self.nominal = asked, done
        visitor.visit(block.body)  # not what it says of its regions, nor its initial value
        self.nominal = outer

    def load(self, load: ir.TensorLoad, visitor: tvm_ffi.StructuralVisitor) -> None:
        if self.storing is None or not load.source.same_as(self.storing):
            self.reads[load.source] = self.reads.get(load.source, 0) + self.rounds
        visitor.default_visit(load)

    def store(self, store: tirx.BufferStore, visitor: tvm_ffi.StructuralVisitor) -> None:
        self.writes[store.buffer] = self.writes.get(store.buffer, 0) + self.rounds
        self.storing = store.buffer
        visitor.default_visit(store)
        self.storing = None
        asked, done = self.nominal
        operations = _floordiv(self.rounds * _arithmetic(store.value) * asked, done)
        self.operations[store.buffer] = self.operations.get(store.buffer, 0) + operations


def _arithmetic(value: tirx.Expr) -> int:
    """Operations of an expression: of a choice the dearer side, of a load's indices none."""
    count = 0

    def load(_load: ir.TensorLoad, _visitor: tvm_ffi.StructuralVisitor) -> None:
        return None

    def binary(value: tirx.expr.BinaryOpExpr, visitor: tvm_ffi.StructuralVisitor) -> None:
        nonlocal count
        count += 1
        visitor.default_visit(value)

    def call(call: ir.Call, visitor: tvm_ffi.StructuralVisitor) -> None:
        nonlocal count
        if getattr(call.op, "name", "").endswith("if_then_else"):
            count += max(_arithmetic(side) for side in list(call.args)[1:])
        elif getattr(call.op, "name", "") in (DOT, INT16_DOT):
            count += 3  # and a fourth, which adds it to the sum
        else:
            count += 1
            visitor.default_visit(call)

    def select(select: tirx.Select, _visitor: tvm_ffi.StructuralVisitor) -> None:
        nonlocal count
        count += max(_arithmetic(side) for side in (select.true_value, select.false_value))

    visitors = [
        (ir.TensorLoad, load),
        (ir.Call, call),
        (tirx.Select, select),
        (_ARITHMETIC, binary),
    ]
    tvm_ffi.structural_visit(value, visitors)
    return count


def _size(buffer: tirx.Buffer) -> Count:
    size: Count = 1
    for dim in buffer.shape:
        size = size * dim
    return size


def _floordiv(one: Count, other: Count) -> Count:
    if isinstance(one, int) and isinstance(other, int):
        return one // max(other, 1)
    # an empty buffer: TVM refuses to fold a division by 0
    return tirx.floordiv(_expr(one), tirx.max(_expr(other), tirx.const(1, "int64")))


def _lesser(one: Count, other: Count) -> Count:
    if isinstance(one, int) and isinstance(other, int):
        return min(one, other)
    return tirx.min(_expr(one), _expr(other))


def _expr(count: Count) -> ir.Expr:
    return tirx.const(count, "int64") if isinstance(count, int) else count.astype("int64")


def _simplified(count: Count) -> Count:
    if isinstance(count, int):
        return count
    value = sym.Analyzer().simplify(count)
    return int(value) if isinstance(value, tirx.IntImm) else value
