"""What an artifact says of itself, as JSON."""

from __future__ import annotations

from typing import Any

import tvm

import athanor
from athanor.compiler.kernels import CompiledKernels
from athanor.compiler.memory import MemoryPlan
from athanor.compiler.program import Copy, KernelCall, Program
from athanor.compiler.weights import weight_offsets
from athanor.frontends.onnx.importer import ImportedModel
from athanor.frontends.onnx.sequence_value import TENSOR
from athanor.frontends.onnx.shapes import TensorSpec
from athanor.targets import TargetSpec


def describe(
    imported: ImportedModel,
    program: Program,
    plan: MemoryPlan,
    target: TargetSpec,
    kernels: CompiledKernels,
    profile: bool = False,
    precision: str = "fp32",
) -> dict[str, Any]:
    """The metadata of an artifact; no time and no path, so that equal inputs give equal files."""
    calls: dict[str, list[str]] = {name: [] for name in kernels.symbols}
    for step in program.kernel_calls():
        if not step.on_device:
            calls[step.kernel].append(step.label)
    metadata = {
        "athanor": athanor.__version__,
        "tvm": tvm.__version__,
        "llvm": str(tvm.target.codegen.llvm_version_major()),
        "model_sha256": imported.source_sha256,
        "opsets": dict(imported.opsets),
        "target": {
            "name": target.name,
            "triple": target.triple,
            "mcpu": target.mcpu,
            "cpu_features": list(target.cpu_features),
        },
        "precision": precision,
        "inputs": [_value(value) for value in imported.inputs],
        "outputs": [
            _value(value, imported.columns.get(value.name, ())) for value in imported.outputs
        ],
        "symbols": list(imported.symbols),
        "arena_bytes": plan.static_bytes,
        "arena_is_symbolic": bool(plan.slots),
        "weights_bytes": weight_offsets(program)[1],
        "kernels": [
            {
                "name": name,
                "symbol": kernels.symbols[name],
                "rule": kernels.rules[name],
                "calls": labels,
            }
            for name, labels in calls.items()
        ],
    }
    if profile:
        metadata["profile"] = {"steps": [_step(step) for step in program.timed_steps()]}
    if kernels.texts:
        metadata["ir"] = kernels.texts
    return metadata


def _step(step: KernelCall | Copy) -> dict[str, Any]:
    """What a profile says of a step besides its times."""
    kernel, value = (
        ("copy", step.target.name) if isinstance(step, Copy) else (step.kernel, step.label)
    )
    return {"kernel": kernel, "value": value, "nodes": step.nodes}


def _value(value: TensorSpec, columns: tuple[int | str, ...] = ()) -> dict[str, Any]:
    shape = None if value.shape is None else list(value.shape)
    kind = {} if value.kind == TENSOR else {"kind": value.kind}
    named = {"columns": list(columns)} if columns else {}
    return {"name": value.name, **kind, "dtype": value.dtype, "shape": shape, **named}
