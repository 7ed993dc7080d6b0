"""Program for a device: which steps the host runs, whose memory each tensor has, and the copies.

Kernels run on the device. The host runs what decides how the program goes on: sizes that the run
computes, conditions and trip counts, strings. A kernel runs there too where the device has none
for it (loops that can't be parallel), or where it only makes such a decision of a few numbers.

A tensor that only the host touches is the host's; all others are the device's. Where a step wants
one from the other side, it gets a copy:

    size = count(x)                           size = count(x)            # on the device
    n = ReadDims(size)               =>       size_host = Copy(size)     # waits for the device
                                              n = ReadDims(size_host)
"""

from __future__ import annotations

from collections.abc import Iterable

from athanor.compiler.program import (
    Block,
    Branch,
    Copy,
    HostCall,
    KernelCall,
    Loop,
    Program,
    ReadDims,
    Step,
    Tensor,
    all_steps,
    inner_blocks,
    step_reads,
    step_writes,
)
from athanor.frontends.onnx.small_types import STRING

_FEW_BYTES = 1024
"""Tensors up to this size may be computed by the host for a decision; a copy takes 10 us anyway."""


def choose_sides(program: Program, device: Iterable[str]) -> None:
    """Set KernelCall.on_device. device: the kernels that the device could run."""
    able = set(device)
    steps = list(all_steps(program.steps))
    wanted: set[Tensor] = set()
    for step in steps:
        wanted |= {tensor.root()[0] for tensor in _decisions(step)}
    for step in reversed(steps):
        if not isinstance(step, KernelCall):
            continue
        tensors = [tensor.root()[0] for tensor in [*step.inputs, *step.outputs]]
        decides = any(tensor.root()[0] in wanted for tensor in step.outputs)
        if decides and all(_is_small(tensor) for tensor in tensors):
            wanted |= {tensor.root()[0] for tensor in step.inputs}
        else:
            step.on_device = step.kernel in able


def place_tensors(program: Program) -> None:
    """Set Tensor.on_host, and insert the copies; sides are chosen."""
    host: set[Tensor] = set()
    device: set[Tensor] = set()
    for step in all_steps(program.steps):
        mine = [*step_reads(step), *step_writes(step)]
        if _on_host(step):
            host |= {tensor.root()[0] for tensor in mine}
            continue
        decisions = [tensor.root()[0] for tensor in _decisions(step)]
        counters = [step.iteration, step.count] if isinstance(step, Loop) else []
        apart = {*decisions, *(tensor.root()[0] for tensor in counters)}
        host |= apart
        device |= {tensor.root()[0] for tensor in mine} - apart
    for step in all_steps(program.steps):
        for tensor in [*step_reads(step), *step_writes(step)]:
            root, _ = tensor.root()
            root.on_host = root.dtype == STRING or root in host - device
    for step in all_steps(program.steps):
        if isinstance(step, Loop):
            step.iteration.root()[0].on_host = step.count.root()[0].on_host = True
    for tensor in [*program.inputs, *program.outputs]:
        root, _ = tensor.root()
        root.on_host = root.on_host or root.dtype == STRING
    program.steps[:] = _with_copies(program.steps)


def why_not_captured(program: Program) -> str | None:
    """Why a CUDA graph can't replay a run; None where all of it is queued on the device."""
    for step in all_steps(program.steps):
        match step:
            case KernelCall() if not step.on_device:
                return f"the host computes '{step.label}'"
            case HostCall():
                return f"the host computes '{step.outputs[0].name}', which is of strings"
            case ReadDims():
                return f"the size {step.symbols[0].name} is told by the run"
            case Branch() | Loop():
                return "the host decides about a branch or a loop"
            case Copy() if not (_on_device(step.source) and _on_device(step.target)):
                return f"'{step.target.name}' is copied between host and device"
    for output in program.outputs:
        if not _on_device(output):
            return f"the output '{output.name}' is the host's"
    return None


def _on_device(tensor: Tensor) -> bool:
    root, _ = tensor.root()
    return not root.on_host and root.constant is None


def _on_host(step: Step) -> bool:
    """Whether the host reads and writes all of the step's tensors."""
    if isinstance(step, KernelCall):
        return not step.on_device
    return isinstance(step, (HostCall, ReadDims))


def _decisions(step: Step) -> list[Tensor]:
    """What the host reads of a step to know how to go on."""
    match step:
        case HostCall():
            return step.inputs
        case ReadDims():
            return [step.source]
        case Branch():
            return [step.condition]
        case Loop():
            bounds = [tensor for tensor in (step.trips, step.condition) if tensor is not None]
            return [*bounds, step.body.results[0]]
    return []


def _is_small(tensor: Tensor) -> bool:
    return tensor.static_bytes is not None and tensor.static_bytes <= _FEW_BYTES


def _with_copies(steps: list[Step]) -> list[Step]:
    """The steps with copies between the two sides."""
    placed: list[Step] = []
    for step in steps:
        before: list[Step] = []
        after: list[Step] = []
        for block in inner_blocks(step):
            block.steps[:] = _with_copies(block.steps)
        match step:
            case KernelCall():
                on_host = not step.on_device
                step.inputs[:] = [_on_side(t, on_host, before) for t in step.inputs]
                step.outputs[:] = [_from_side(t, on_host, after) for t in step.outputs]
            case HostCall():
                step.inputs[:] = [_on_side(t, True, before) for t in step.inputs]
                step.outputs[:] = [_from_side(t, True, after) for t in step.outputs]
            case ReadDims():
                step.source = _on_side(step.source, True, before)
            case Branch():
                step.condition = _on_side(step.condition, True, before)
            case Loop():
                if step.trips is not None:
                    step.trips = _on_side(step.trips, True, before)
                if step.condition is not None:
                    step.condition = _on_side(step.condition, True, before)
                _goes_on(step.body)
        placed += [*before, step, *after]
    return placed


def _goes_on(body: Block) -> None:
    body.results[0] = _on_side(body.results[0], True, body.steps)


def _on_side(tensor: Tensor, on_host: bool, copies: list[Step]) -> Tensor:
    """The tensor where a step reads it; a constant is on both sides."""
    root, _ = tensor.root()
    if root.constant is not None or root.on_host == on_host:
        return tensor
    there = _twin(tensor, on_host)
    copies.append(Copy(tensor, there))
    return there


def _from_side(tensor: Tensor, on_host: bool, copies: list[Step]) -> Tensor:
    """The tensor where a step writes it."""
    if tensor.root()[0].on_host == on_host:
        return tensor
    there = _twin(tensor, on_host)
    copies.append(Copy(there, tensor))
    return there


def _twin(tensor: Tensor, on_host: bool) -> Tensor:
    side = "host" if on_host else "device"
    return Tensor(f"{tensor.name}_on_{side}", tensor.dtype, tensor.shape, on_host=on_host)
