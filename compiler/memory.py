"""Where every intermediate of a program lies: offsets in one arena.

Tensors of static size get fixed offsets, placed largest first at the lowest offset where no tensor
that lives at the same time lies. Tensors whose size depends on symbols come behind them, in slots
that are reused by tensors of the same symbolic size; their offsets are computed at run time.

Steps are numbered in the order in which they are written, those of inner blocks in their place; the
two blocks of a branch so lie one after the other, and share memory. What a loop reads of the steps
before it lives to the loop's end. Tensors of late sizes are not planned: they get memory when they
are first written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm_ffi
from tvm.ir import Expr

from athanor.compiler.program import (
    Loop,
    Program,
    Step,
    Tensor,
    inner_blocks,
    step_reads,
    step_writes,
)

ALIGNMENT = 64
"""Bytes; one cache line, and the widest vector register."""


@dataclass
class MemoryPlan:
    """Offsets of a program's intermediates."""

    static_bytes: int = 0
    """Size of the arena's static part."""
    offsets: dict[Tensor, int] = field(default_factory=dict)
    """Byte offset in the static part, by owning tensor."""
    slots: list[Expr] = field(default_factory=list)
    """Size in bytes of each slot behind the static part."""
    slot_of: dict[Tensor, int] = field(default_factory=dict)
    """Slot number of each owning tensor of symbolic size."""
    outputs: dict[Tensor, int] = field(default_factory=dict)
    """Owning tensors that a kernel writes straight into an output's buffer, with its index."""
    host: MemoryPlan | None = None
    """In a program with a device: of the tensors on the host, in an arena of their own."""


@dataclass
class _Life:
    tensor: Tensor
    first: int
    last: int

    def meets(self, other: _Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(program: Program) -> MemoryPlan:
    """Offsets for every tensor that a step writes and that is no output and not of late size."""
    plan = MemoryPlan(outputs=_direct_outputs(program))
    lives = [
        life
        for life in _Lives(program).all()
        if life.tensor not in plan.outputs and not life.tensor.is_late
    ]
    on_host = [life for life in lives if life.tensor.on_host]
    _place(plan, [life for life in lives if not life.tensor.on_host])
    if program.device:
        plan.host = MemoryPlan()
        _place(plan.host, on_host)
    return plan


def _place(plan: MemoryPlan, lives: list[_Life]) -> None:
    _place_static(plan, [life for life in lives if life.tensor.static_bytes is not None])
    _place_symbolic(plan, [life for life in lives if life.tensor.static_bytes is None])


def align(size_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return (size_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _direct_outputs(program: Program) -> dict[Tensor, int]:
    """Outputs whose memory a step can write itself: whole, written once, not an input.

    Not so where memory changes hands: the states of a loop, and late results of inner blocks.
    """
    written = {
        tensor.root()[0]
        for step in program.steps
        for tensor in (step.scans if isinstance(step, Loop) else step_writes(step))
        if not (inner_blocks(step) and tensor.is_late)
    }
    found: dict[Tensor, int] = {}
    for index, output in enumerate(program.outputs):
        root, offset = output.root()
        same_size = tvm_ffi.structural_equal(_expr(root.size), _expr(output.size))
        if root in written and root not in found and offset == 0 and same_size:
            found[root] = index
    return found


def _expr(size: int | Expr) -> object:
    return size if isinstance(size, Expr) else int(size)


class _Lives:
    """First and last step of every owning tensor that steps write."""

    def __init__(self, program: Program) -> None:
        self.lives: dict[Tensor, _Life] = {}
        self.loops: list[Loop] = []
        self.number = 0
        self.walk(program.steps)
        for output in program.outputs:
            self.read(output)

    def all(self) -> list[_Life]:
        for loop in self.loops:
            for state, following in zip(loop.states, loop.following, strict=True):
                self.lives[following].last = self.lives[state].last
        return list(self.lives.values())

    def write(self, tensor: Tensor) -> None:
        root, _ = tensor.root()
        self.lives.setdefault(root, _Life(root, self.number, self.number)).last = self.number

    def read(self, tensor: Tensor) -> None:
        root, _ = tensor.root()
        if root in self.lives:
            self.lives[root].last = self.number

    def walk(self, steps: list[Step]) -> None:
        for step in steps:
            start = self.number
            if isinstance(step, Loop):
                self.touch(step)
            for block in inner_blocks(step):
                self.number += 1
                self.walk(block.steps)
                # where a block ends, its results go where the step's go
                self.touch(step)
            self.touch(step)
            if isinstance(step, Loop):
                self.hold(step, start)
            self.number += 1

    def touch(self, step: Step) -> None:
        for tensor in step_writes(step):
            self.write(tensor)
        for tensor in step_reads(step):
            self.read(tensor)

    def hold(self, loop: Loop, start: int) -> None:
        """What the loop's rounds share keeps its memory for all of them."""
        self.loops.append(loop)
        for life in self.lives.values():
            if life.first <= start <= life.last:
                life.last = self.number


def _place_static(plan: MemoryPlan, lives: list[_Life]) -> None:
    placed: list[tuple[int, int, _Life]] = []
    for life in sorted(lives, key=lambda life: -(life.tensor.static_bytes or 0)):
        size = align(life.tensor.static_bytes or 0)
        taken = sorted((start, end) for start, end, other in placed if other.meets(life))
        offset = 0
        for start, end in taken:
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, life))
        plan.offsets[life.tensor] = offset
        plan.static_bytes = max(plan.static_bytes, offset + size)


def _place_symbolic(plan: MemoryPlan, lives: list[_Life]) -> None:
    busy_until: list[int] = []
    for life in sorted(lives, key=lambda life: life.first):
        size = life.tensor.size * (life.tensor.itemsize_bits // 8)
        for slot, known in enumerate(plan.slots):
            if busy_until[slot] < life.first and tvm_ffi.structural_equal(known, size):
                break
        else:
            slot = len(plan.slots)
            plan.slots.append(size)
            busy_until.append(-1)
        busy_until[slot] = life.last
        plan.slot_of[life.tensor] = slot
