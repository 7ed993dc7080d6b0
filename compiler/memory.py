"""Where every intermediate of a program lies: offsets in one arena.

Tensors of static size get fixed offsets, placed largest first at the lowest offset where no tensor
that lives at the same time lies. Tensors whose size depends on symbols come behind them, in slots
that are reused by tensors of the same symbolic size; their offsets are computed at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm_ffi
from tvm.ir import Expr

from athanor.compiler.program import Program, Tensor, step_reads, step_writes

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


@dataclass
class _Life:
    tensor: Tensor
    first: int
    last: int

    def meets(self, other: _Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(program: Program) -> MemoryPlan:
    """Offsets for every tensor that a step writes and that is no output."""
    plan = MemoryPlan(outputs=_direct_outputs(program))
    lives = [life for life in _lives(program) if life.tensor not in plan.outputs]
    fixed = [life for life in lives if life.tensor.static_bytes is not None]
    _place_static(plan, fixed)
    _place_symbolic(plan, [life for life in lives if life.tensor.static_bytes is None])
    return plan


def align(size_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return (size_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _direct_outputs(program: Program) -> dict[Tensor, int]:
    """Outputs whose memory a kernel can write itself: whole, written once, not an input."""
    written = {tensor.root()[0] for step in program.steps for tensor in step_writes(step)}
    found: dict[Tensor, int] = {}
    for index, output in enumerate(program.outputs):
        root, offset = output.root()
        same_size = tvm_ffi.structural_equal(_expr(root.size), _expr(output.size))
        if root in written and root not in found and offset == 0 and same_size:
            found[root] = index
    return found


def _expr(size: int | Expr) -> object:
    return size if isinstance(size, Expr) else int(size)


def _lives(program: Program) -> list[_Life]:
    """First and last step of every owning tensor that steps write."""
    lives: dict[Tensor, _Life] = {}
    for number, step in enumerate(program.steps):
        for tensor in step_writes(step):
            root, _ = tensor.root()
            lives.setdefault(root, _Life(root, number, number)).last = number
        for tensor in step_reads(step):
            root, _ = tensor.root()
            if root in lives:
                lives[root].last = number
    for output in program.outputs:
        root, _ = output.root()
        if root in lives:
            lives[root].last = len(program.steps)
    return list(lives.values())


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
