"""compile(): import, optimize, schedule, lower, link; the whole flow on one screen."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from athanor.compiler.artifact import Artifact, Constant
from athanor.compiler.choices import Choices
from athanor.compiler.device import describe_device, host_program, make_images, place_on_device
from athanor.compiler.extract import extract_program
from athanor.compiler.host import Signature, print_host
from athanor.compiler.kernel_cache import kernel_cache
from athanor.compiler.kernels import compile_kernels, kernel_symbols
from athanor.compiler.link import compile_host, link_shared
from athanor.compiler.memory import MemoryPlan, plan_memory
from athanor.compiler.metadata import describe
from athanor.compiler.pipeline import run_graph_passes
from athanor.compiler.program import Program
from athanor.compiler.weights import weight_bytes, weight_offsets
from athanor.frontends.onnx.import_builder import Subgraph
from athanor.frontends.onnx.importer import ImportedModel, import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.frontends.onnx.sequence_value import KINDS, TENSOR
from athanor.frontends.onnx.small_types import CARRIED_TYPES
from athanor.frontends.onnx.type_check import blaming
from athanor.runtime.footer import append_payload, hash_pieces
from athanor.targets import TargetSpec, target_for_precision
from athanor.tuning.apply import TunedKernels

WEIGHTS_BESIDE_BYTES = 1_500_000_000
"""Above this, weights go to a file beside the library: tools that map or copy whole libraries
still meet their 2 GB limits in many places."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, and how much of it is done of how much."""


def compile(
    model: str | Path | bytes | onnx.ModelProto,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    database: str | Path | None = None,
    *,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    weights_beside: bool | None = None,
    keep_ir: bool = False,
    profile: bool = False,
    winograd: bool = True,
    precision: str = "fp32",
    cache: bool = True,
    on_progress: Progress | None = None,
) -> Artifact:
    """An ONNX model -> one self-contained shared library.

    model: path, bytes or ModelProto. target: a name of `athanor.targets.TARGETS`, `native`, or
    `cuda`, `cuda -arch=sm_80,sm_90a` for NVIDIA GPUs.
    shapes: sizes or names for the dimensions of inputs, {"ids": ["batch", 128]}.
    database: folder of tuning records, from `athanor tune`; one that does not fit is skipped with a
    DatabaseWarning. operators: converters for operators of your own,
    {(domain, operator, since_opset): converter}. weights_beside: weights in a file of their own,
    `<artifact>.weights`; by itself only past 1.5 GB. keep_ir: keep every kernel's TIR, LLVM IR and
    assembly in the metadata. profile: let `Model.profile` and `athanor profile` time the artifact's
    kernels; runs that are not profiled stay as they are. winograd: let convolutions run by
    Winograd's method where it is faster; its sums differ from the direct method's by 1e-6 to
    1e-5 of the largest output. precision: `bf16`, on GPUs `fp16` and `tf32` too, lets convolutions
    and matrix products (on processors those with constant weights) multiply numbers rounded to that
    type, and add up in float32. cache: keep
    compiled kernels in the user's cache folder, and take from there what was compiled before; the
    artifact is the same. on_progress: called with (stage, done, total).

    Raises CompileError, with every reason at once, where the model or an option can't be compiled.
    """
    spec = target_for_precision(target, precision)
    tuned = None
    if database is not None:
        tuned = TunedKernels(database, spec, any_cpu=target != "native")
    report = on_progress or _silent
    report("import", 0, 1)
    source = read_model(model)
    with _garbage_left(), blaming(source):
        imported = import_model(source, shapes, operators)
        return build_artifact(
            imported,
            spec,
            weights_beside=weights_beside,
            keep_ir=keep_ir,
            profile=profile,
            winograd=winograd,
            precision=precision,
            cache=cache,
            on_progress=report,
            tuned=tuned,
        )


@contextmanager
def _garbage_left() -> Iterator[None]:
    """No search for cycles of garbage meanwhile: it walks over all of the graph again and again.

    A seventh of the time of a compilation whose kernels are in the cache (BERT-base).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def plan_program(
    imported: ImportedModel,
    target: TargetSpec,
    winograd: bool = True,
    precision: str = "fp32",
    choices: Choices | None = None,
) -> tuple[Program, MemoryPlan]:
    """All of a compilation before scheduling: the calls of a run, and where their tensors lie.

    choices: what a tuner chose; the points that the graph has are added to it.
    """
    options = winograd, precision == "bf16", choices
    subgraphs = [
        Subgraph(run_graph_passes(graph.mod, target, *options), graph.requirements)
        for graph in imported.subgraphs
    ]
    mod = run_graph_passes(imported.mod, target, *options)
    program = extract_program(mod, subgraphs, imported.requirements)
    return program, plan_memory(program)


def build_artifact(
    imported: ImportedModel,
    target: TargetSpec,
    *,
    weights_beside: bool | None = None,
    keep_ir: bool = False,
    profile: bool = False,
    winograd: bool = True,
    precision: str = "fp32",
    cache: bool = True,
    on_progress: Progress | None = None,
    tuned: TunedKernels | None = None,
) -> Artifact:
    """An imported model, or a Relax module of your own in its place -> artifact."""
    report = on_progress or _silent
    report("optimize", 0, 1)
    choices = tuned.choices() if tuned else Choices()
    program, plan = plan_program(imported, target, winograd, precision, choices)
    if tuned:
        tuned.report_choices(choices)
    device = None
    if target.gpu:
        device = place_on_device(program, target, tuned)
        plan = plan_memory(program)
    values = (*imported.inputs, *imported.outputs)
    names = Signature(
        tuple(name for value in imported.inputs for name in value.part_names),
        tuple(name for value in imported.outputs for name in value.part_names),
        imported.requirements,
        {value.name: value.dtype for value in values if value.dtype in CARRIED_TYPES},
        {
            name: (KINDS.index(value.kind), part)
            for value in values
            if value.kind != TENSOR
            for part, name in enumerate(value.part_names)
        },
    )
    folder = tempfile.TemporaryDirectory(prefix="athanor-")
    work = Path(folder.name)
    kept = kernel_cache(target, cache)
    on_host = host_program(program)
    symbols = kernel_symbols(on_host, kept, tuned)
    images = []
    if device is not None:
        report("compile for the device", 0, 1)
        make_images(device, target, cache)
        images = device.write_images(work)
    with ThreadPoolExecutor() as pool:
        weights_hash = pool.submit(lambda: hash_pieces(weight_bytes(program)))
        source = print_host(program, plan, names, profile, symbols, images)
        host = pool.submit(compile_host, source, work, target)
        kernels = compile_kernels(
            on_host, symbols, target, work, pool, kept, keep_ir, report, tuned
        )
        report("link", 0, 1)
        code = link_shared([host.result(), *kernels.objects], work, target)
    metadata = describe(imported, program, plan, target, kernels, profile, precision)
    if device is not None:
        metadata["device"] = describe_device(device, target, program)
        if keep_ir:
            metadata.setdefault("ir", {})["cuda"] = device.source
    beside = weights_beside
    if beside is None:
        beside = bool(metadata["weights_bytes"] > WEIGHTS_BESIDE_BYTES)
    append_payload(
        code,
        weight_bytes(program),
        metadata,
        triple=target.triple,
        cpu_features=target.cpu_features,
        output=work / "model.so",
        weights_beside=beside,
        weights_hash=weights_hash.result(),
    )
    report("done", 1, 1)
    offsets, _ = weight_offsets(program)
    constants = [
        Constant(offset, tensor.dtype, tensor.constant.size)
        for tensor, offset in offsets.items()
        if tensor.constant is not None
    ]
    return Artifact(folder, work / "model.so", metadata, constants)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""
