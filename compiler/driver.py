"""compile(): import, optimize, schedule, lower, link; the whole flow on one screen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
from tvm import tirx

from athanor.compiler.artifact import Artifact
from athanor.compiler.host import Signature, print_host
from athanor.compiler.link import compile_host, link_shared
from athanor.compiler.memory import plan_memory
from athanor.compiler.metadata import describe
from athanor.compiler.pipeline import run_graph_passes
from athanor.compiler.program import Program, extract_program
from athanor.compiler.weights import weight_bytes
from athanor.frontends.onnx.importer import import_model
from athanor.runtime.footer import append_payload
from athanor.targets import TargetSpec, find_target
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

WEIGHTS_BESIDE_BYTES = 1_500_000_000
"""Above this, weights go to a file beside the library: tools that map or copy whole libraries
still meet their 2 GB limits in many places."""


def compile(
    model: str | Path | bytes | onnx.ModelProto,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    database: str | Path | None = None,
    *,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    weights_beside: bool | None = None,
) -> Artifact:
    """An ONNX model -> one self-contained shared library.

    model: path, bytes or ModelProto. target: a name of `athanor.targets.TARGETS`, or `native`.
    shapes: sizes or names for the dimensions of inputs, {"ids": ["batch", 128]}.
    database: folder of tuning records. operators: converters for operators of your own,
    {(domain, operator, since_opset): converter}. weights_beside: weights in a file of their own,
    `<artifact>.weights`; by itself only past 1.5 GB.

    Raises CompileError, with every reason at once, where the model or an option can't be compiled.
    """
    spec = find_target(target)
    imported = import_model(model, shapes, operators)
    program = extract_program(run_graph_passes(imported.mod, spec))
    plan = plan_memory(program)
    names = Signature(
        tuple(value.name for value in imported.inputs),
        tuple(value.name for value in imported.outputs),
    )
    folder = tempfile.TemporaryDirectory(prefix="athanor-")
    work = Path(folder.name)
    with ThreadPoolExecutor() as pool:
        host = pool.submit(compile_host, print_host(program, plan, names), work, spec)
        objects, rules = _compile_kernels(program, spec, work, pool)
        code = link_shared([host.result(), *objects], work, spec)
    path = work / "model.so"
    metadata = describe(imported, program, plan, spec, rules)
    if weights_beside is None:
        weights_beside = metadata["weights_bytes"] > WEIGHTS_BESIDE_BYTES
    append_payload(
        code,
        weight_bytes(program),
        metadata,
        triple=spec.triple,
        cpu_features=spec.cpu_features,
        output=path,
        weights_beside=weights_beside,
    )
    return Artifact(folder, path, metadata)


def _compile_kernels(
    program: Program, spec: TargetSpec, work: Path, pool: ThreadPoolExecutor
) -> tuple[list[Path], dict[str, str]]:
    """Object files of all kernels, and the rule that scheduled each."""
    rules: dict[str, str] = {}
    parts: list[dict[str, tirx.PrimFunc]] = [{} for _ in range(max(1, spec.cores))]
    for number, (name, func) in enumerate(program.kernels.items()):
        scheduled, rules[name] = schedule(func, spec)
        parts[number % len(parts)][name] = lower_kernel(name, scheduled.mod["main"], spec)

    def build(number: int) -> Path:
        return build_kernels(parts[number], spec).save(work / f"kernels{number}.o")

    return list(pool.map(build, [i for i, part in enumerate(parts) if part])), rules
