"""Kernels for a GPU: which of a program's there are, their images, and the program around them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.sym import Analyzer

from athanor.compiler.image_cache import cached_images
from athanor.compiler.place_steps import choose_sides, place_tensors
from athanor.compiler.program import KernelCall, Program, Tensor
from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.targets.cubin import kernel_resources
from athanor.targets.cuda_codegen import cuda_source
from athanor.targets.cuda_images import DeviceImage
from athanor.targets.cuda_rules import replay_on_device, schedule_on_device
from athanor.targets.device_kernel import DeviceKernel, Scratch
from athanor.tuning.apply import TunedKernels

_STEM_LIMIT = 60


@dataclass
class DeviceCode:
    """The device's part of an artifact."""

    rules: dict[str, str] = field(default_factory=dict)
    """The rule that scheduled each kernel."""
    source: str = ""
    images: list[DeviceImage] = field(default_factory=list)

    def write_images(self, folder: Path) -> list[str]:
        """Files `image0`, `image1`, ... for the host program; the architectures in their order."""
        for number, image in enumerate(self.images):
            (folder / f"image{number}").write_bytes(image.data)
        return [image.architecture for image in self.images]


def place_on_device(
    program: Program, target: TargetSpec, tuned: TunedKernels | None = None
) -> DeviceCode:
    """Lower what the device can run, and split the program's steps between it and the host.

    tuned: what a database of tuning records knows; the rules' own decisions for all else.
    Afterwards `program.kernels` are those of the host alone.
    """
    assert target.gpu is not None, f"{target.name} has no device"
    code = DeviceCode()
    lowered: dict[str, DeviceKernel] = {}
    for number, (name, func) in enumerate(program.kernels.items()):
        # Numbered: a name must be no prefix of another one's, from which launches are numbered.
        symbol = f"{re.sub(r'[^A-Za-z0-9_]', '_', name)[:_STEM_LIMIT]}_{number}"
        made = _schedule(symbol, func, target, tuned)
        if made is not None:
            lowered[name], code.rules[name] = made
    choose_sides(program, lowered)
    calls = program.kernel_calls()
    on_device = {call.kernel for call in calls if call.on_device}
    if not on_device:
        raise CompileError(
            f"target {target.name!r}: no kernel of this model can run on a GPU; compile it for "
            "the CPU, which would run all of it anyway"
        )
    program.device.update((name, lowered[name]) for name in lowered if name in on_device)
    code.rules = {name: rule for name, rule in code.rules.items() if name in on_device}
    for call in calls:
        if call.on_device:
            call.scratch = _scratch(call, program.device[call.kernel])
    place_tensors(program)
    code.source = cuda_source(program.device.values(), target.gpu)
    return code


def _schedule(
    symbol: str, func: tirx.PrimFunc, target: TargetSpec, tuned: TunedKernels | None
) -> tuple[DeviceKernel, str] | None:
    """By a record that fits, else by the rules alone."""
    decisions = tuned.decisions(func) if tuned else None
    if tuned and decisions:
        try:
            kernel, points = replay_on_device(symbol, func, target, decisions)
            tuned.check_names(func, [point.name for point in points])
            return kernel, decisions.rule
        except Exception as error:  # TVM's errors share no class but this
            tuned.report_misfit(func, error)
    return schedule_on_device(symbol, func, target)


def make_images(code: DeviceCode, target: TargetSpec, cache: bool) -> None:
    """Compile the device code for every architecture."""
    assert target.gpu is not None, f"{target.name} has no device"
    code.images = cached_images(code.source, target.gpu, cache)


def host_program(program: Program) -> dict[str, tirx.PrimFunc]:
    """The kernels that the host calls."""
    called = {call.kernel for call in program.kernel_calls() if not call.on_device}
    return {name: func for name, func in program.kernels.items() if name in called}


def _scratch(call: KernelCall, kernel: DeviceKernel) -> list[Tensor]:
    """A kernel's own intermediates in this call's sizes."""
    values = {var.name: value for var, value in zip(kernel.dims, call.dims, strict=True)}
    return [
        Tensor(f"{call.label}_scratch{number}", scratch.dtype, (_size(scratch, values),))
        for number, scratch in enumerate(kernel.scratch)
    ]


def _size(scratch: Scratch, values: dict[str, Expr]) -> int | Expr:
    if isinstance(scratch.elements, int):
        return scratch.elements
    size = tvm_ffi.structural_map(
        scratch.elements, (tirx.Var, lambda var: values.get(var.name, var)), order="post"
    )
    size = Analyzer().simplify(size)
    return int(size) if isinstance(size, tirx.IntImm) else size


def describe_device(code: DeviceCode, target: TargetSpec, program: Program) -> dict:
    """The metadata of the device's part."""
    assert target.gpu is not None, f"{target.name} has no device"
    return {
        "images": [
            {
                "architecture": image.architecture,
                "bytes": len(image.data),
                "functions": {
                    name: asdict(used) for name, used in kernel_resources(image.data).items()
                },
            }
            for image in code.images
        ],
        "kernels": {
            name: {
                "rule": code.rules[name],
                "launches": [
                    {
                        "function": launch.function,
                        "extents": [str(extent) for extent in launch.extents],
                        "shared_bytes": launch.shared_bytes,
                    }
                    for launch in kernel.launches
                ],
            }
            for name, kernel in program.device.items()
        },
    }
