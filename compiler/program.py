"""The program of one run as plain data: tensors, and steps in order.

After legalization and fusion, `main` is a straight list of kernel calls and reshapes. As plain data
memory planning and printing need no Relax: reshapes are aliases, equal kernels have become one, and
control flow is steps that hold blocks of steps.

A size that only the run knows is a *late* dimension. A ReadDims step reads it from an int64 tensor
that a kernel wrote; tensors of such sizes get memory when they are first written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Expr

from athanor.frontends.onnx.known import is_late
from athanor.targets.device_kernel import DeviceKernel


@dataclass(eq=False)
class Tensor:
    """A value of the program.

    A view (`source` set) shares the memory of its source, `offset_bytes` in; all other tensors
    own theirs.
    """

    name: str
    dtype: str
    shape: tuple[int | Expr, ...]
    source: Tensor | None = None
    offset_bytes: int = 0
    constant: np.ndarray | None = None
    input_index: int | None = None
    on_host: bool = False
    """Of a tensor that owns its memory, in a program with a device: that it is the host's."""

    def root(self) -> tuple[Tensor, int]:
        """The tensor that owns the memory, and the byte offset of this one in it."""
        tensor, offset = self, 0
        while tensor.source is not None:
            tensor, offset = tensor.source, offset + tensor.offset_bytes
        return tensor, offset

    @property
    def size(self) -> int | Expr:
        """Number of elements."""
        count: int | Expr = 1
        for dim in self.shape:
            count = count * dim
        return count

    @property
    def itemsize_bits(self) -> int:
        """Bits of one element; sub-byte elements take a byte each."""
        return max(8, tvm.DataType(self.dtype).bits)

    @property
    def static_bytes(self) -> int | None:
        """Size in bytes, None where it depends on a symbol."""
        size = self.size
        return size * self.itemsize_bits // 8 if isinstance(size, int) else None

    @property
    def is_late(self) -> bool:
        """Whether the size is known only while the program runs."""
        return any(is_late(var) for dim in self.shape for var in symbols_of(dim))


def symbols_of(value: int | Expr) -> list[tirx.Var]:
    """The symbols that a dimension or condition depends on."""
    return list(tirx.analysis.undefined_vars(value)) if isinstance(value, Expr) else []


@dataclass(eq=False)
class KernelCall:
    """`kernel(*inputs, *outputs, *dims)`."""

    kernel: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    dims: list[Expr]
    label: str
    """Name of the graph's value that it computes; of a fused kernel, the last."""
    nodes: list[str] = field(default_factory=list)
    """The model's nodes that it computes: operator and name."""
    scratch: list[Tensor] = field(default_factory=list)
    """Memory for the kernel's own intermediates, behind its outputs."""
    on_device: bool = False
    """Whether a device runs it; the kernel then is one of Program.device."""

    @property
    def buffers(self) -> list[Tensor]:
        """What its pointers point to, in order."""
        return [*self.inputs, *self.outputs, *self.scratch]


@dataclass(eq=False)
class Copy:
    """Copy all bytes of `source` to `target`, which has the same size."""

    source: Tensor
    target: Tensor
    nodes: list[str] = field(default_factory=list)
    """As those of a KernelCall."""


@dataclass(eq=False)
class HostCall:
    """`function(run, *tensors)`, a C function of athanor_strings.h; tensors with their sizes."""

    function: str
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(eq=False)
class ReadDims:
    """Late dimensions, from the elements of an int64 tensor."""

    source: Tensor
    symbols: list[tirx.Var]


@dataclass(eq=False)
class Check:
    """The run ends with an error, `sentence`, unless `condition` holds."""

    condition: Expr
    sentence: str


@dataclass(eq=False)
class Block:
    """Steps that run together, and what they hand on."""

    steps: list[Step] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Branch:
    """One of two blocks runs; its results become `outputs`."""

    condition: Tensor
    then: Block
    otherwise: Block
    outputs: list[Tensor]


@dataclass(eq=False)
class Loop:
    """`body` runs again and again, at most `trips` times, as long as its condition is true.

    `states` are what the body reads of its last round; before the first they are copied from
    `initial`, and after the last they hold the final values. The body's results are the condition,
    the next states, which go to `following` (the two change places after each round), and one
    element of each of `scans`, the stacked outputs. `iteration` is the round's number and `count`
    the number of rounds, both int64 scalars.
    """

    trips: Tensor | None
    condition: Tensor | None
    initial: list[Tensor]
    states: list[Tensor]
    following: list[Tensor]
    iteration: Tensor
    body: Block
    scans: list[Tensor]
    count: Tensor


Step = KernelCall | Copy | HostCall | ReadDims | Check | Branch | Loop


@dataclass(eq=False)
class Program:
    """All that the host program does in one run."""

    symbols: list[tirx.Var]
    inputs: list[Tensor]
    outputs: list[Tensor]
    steps: list[Step]
    kernels: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    """Unscheduled prim_func of each kernel that `steps` call."""
    device: dict[str, DeviceKernel] = field(default_factory=dict)
    """The kernels that a device runs; one may be called on the host, too."""

    def constants(self) -> list[Tensor]:
        """Every constant that a step or an output reads, in order of first use."""
        read = [tensor for step in all_steps(self.steps) for tensor in step_reads(step)]
        found: dict[Tensor, None] = {}
        for tensor in [*read, *self.outputs]:
            root, _ = tensor.root()
            if root.constant is not None:
                found.setdefault(root)
        return list(found)

    def timed_steps(self) -> list[KernelCall | Copy]:
        """The steps that a profile is about, inner ones included; their numbers are its keys."""
        return [step for step in all_steps(self.steps) if isinstance(step, (KernelCall, Copy))]

    def kernel_calls(self) -> list[KernelCall]:
        """Every kernel call, those of inner blocks included."""
        return [step for step in all_steps(self.steps) if isinstance(step, KernelCall)]


def inner_blocks(step: Step) -> list[Block]:
    """The blocks inside a step."""
    if isinstance(step, Branch):
        return [step.then, step.otherwise]
    return [step.body] if isinstance(step, Loop) else []


def all_steps(steps: list[Step]) -> Iterator[Step]:
    """Steps with those of their inner blocks, each before its inner ones."""
    for step in steps:
        yield step
        for block in inner_blocks(step):
            yield from all_steps(block.steps)


def step_reads(step: Step) -> list[Tensor]:
    """The tensors that a step itself reads; results of an inner block count as read by it."""
    match step:
        case KernelCall() | HostCall():
            return step.inputs
        case Copy() | ReadDims():
            return [step.source]
        case Branch():
            return [step.condition, *step.then.results, *step.otherwise.results]
        case Loop():
            bounds = [tensor for tensor in (step.trips, step.condition) if tensor is not None]
            return [*bounds, *step.initial, *step.body.results]
    return []


def step_writes(step: Step) -> list[Tensor]:
    """The tensors that a step itself writes."""
    match step:
        case KernelCall():
            return [*step.outputs, *step.scratch]
        case HostCall() | Branch():
            return step.outputs
        case Copy():
            return [step.target]
        case Loop():
            return [*step.states, *step.following, step.iteration, *step.scans, step.count]
    return []
