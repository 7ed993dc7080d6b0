"""The kernels of a model as tasks: what to measure each with, and how often a run calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm import tirx

from athanor.compiler.choices import Choices
from athanor.compiler.device import place_on_device
from athanor.compiler.driver import plan_program
from athanor.compiler.kernels import kernel_stem
from athanor.compiler.memory import MemoryPlan, align, plan_memory
from athanor.compiler.program import KernelCall, Program, Tensor
from athanor.compiler.sizes import Sizes
from athanor.compiler.weights import weight_offsets
from athanor.frontends.onnx.importer import ImportedModel
from athanor.targets import TargetSpec
from athanor.tuning.measure import CONSTANT, INPUT, OUTPUT, Argument
from athanor.tuning.workload import workload_key


@dataclass
class KernelTask:
    """One kernel of a model; equal kernels are one task."""

    key: str
    name: str
    """Its stem: what it computes."""
    func: tirx.PrimFunc
    """Before scheduling."""
    arguments: tuple[Argument, ...]
    dims: tuple[int, ...]
    evict_bytes: int
    """What a run of the model touches besides this kernel's buffers, as far as caches matter."""
    calls: int = 0
    """In one run."""

    @property
    def shapes(self) -> str:
        """Sizes of its buffers, for a reader: `1x4x56x56x16, 4x4x3x3x16x16 -> 1x4x56x56x16`."""
        texts = ["x".join(map(str, a.shape)) or "scalar" for a in self.arguments]
        outputs = sum(a.role == OUTPUT for a in self.arguments)
        return f"{', '.join(texts[:-outputs])} -> {', '.join(texts[-outputs:])}"


@dataclass(frozen=True)
class Call:
    """One call of a kernel in a run."""

    task: KernelTask
    nodes: tuple[str, ...]
    """The model's nodes that it computes."""


def plan_calls(
    imported: ImportedModel,
    target: TargetSpec,
    winograd: bool,
    precision: str,
    dims: Mapping[str, int],
    choices: Choices | None = None,
) -> list[Call]:
    """The calls of a model's run; see `plan_program` and `kernel_calls`."""
    program, plan = plan_program(imported, target, winograd, precision, choices)
    if target.gpu is not None:
        place_on_device(program, target)
        plan = plan_memory(program)
    return kernel_calls(program, plan, target, dims)


def kernel_calls(
    program: Program, plan: MemoryPlan, target: TargetSpec, dims: Mapping[str, int]
) -> list[Call]:
    """The calls of a run in order; equal kernels are one task.

    dims: sizes of symbolic dimensions; 1 where none is given. Kernels whose sizes only a run knows
    are left out; so are those that the host runs where the target is a GPU.
    """
    sizes = Sizes({**{symbol.name: 1 for symbol in program.symbols}, **dims})
    total = weight_offsets(program)[1] + plan.static_bytes
    total += sum(align(sizes.of(size)) for size in plan.slots)
    keys = {name: workload_key(func) for name, func in program.kernels.items()}
    tasks: dict[str, KernelTask] = {}
    calls = []
    for call in program.kernel_calls():
        if target.gpu is not None and not call.on_device:
            continue
        known = Sizes(sizes.values)
        arguments = tuple(
            [_argument(tensor, False, known) for tensor in call.inputs]
            + [_argument(tensor, True, known) for tensor in call.outputs]
        )
        values = tuple(known.of(dim) for dim in call.dims)
        if known.late or not call.outputs:
            continue
        key = keys[call.kernel]
        if key not in tasks:
            tasks[key] = KernelTask(
                key,
                kernel_stem(call.kernel),
                program.kernels[call.kernel],
                arguments,
                values,
                _evicted(total, call, known, target),
            )
        tasks[key].calls += 1
        calls.append(Call(tasks[key], tuple(call.nodes)))
    return calls


def tasks_of(calls: Sequence[Call]) -> dict[str, KernelTask]:
    """The tasks by key, in the order of their first calls."""
    return {call.task.key: call.task for call in calls}


def _argument(tensor: Tensor, is_output: bool, sizes: Sizes) -> Argument:
    shape = tuple(sizes.of(dim) for dim in tensor.shape)
    constant = tensor.root()[0].constant is not None
    return Argument(tensor.dtype, shape, OUTPUT if is_output else CONSTANT if constant else INPUT)


def _evicted(total: int, call: KernelCall, sizes: Sizes, target: TargetSpec) -> int:
    """Bytes of the model that are not this call's; more than the caches hold makes no difference.

    A run touches each weight once, but activations again and again: the whole arena counts once.
    A GPU's caches are known to the program that measures there.
    """
    own = sum(sizes.of(t.size) * t.itemsize_bits // 8 for t in (*call.inputs, *call.outputs))
    rest = max(0, total - own) // 64 * 64
    return rest if target.gpu else min(rest, 2 * target.l3_bytes // 64 * 64)
