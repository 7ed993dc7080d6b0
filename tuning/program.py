"""Candidates -> one program that measures them, for this machine or another.

The program is runtime/measure/*.c with a generated table of the kernels that are linked in. It
needs no library where the C compiler can link statically, so it runs on any Linux of its
instruction set, and every way of measuring uses it: here, on a device, over TVM's RPC.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from athanor.compiler.link import c_compiler
from athanor.errors import CompileError
from athanor.runtime.dtypes import dlpack_type, named_dtype
from athanor.targets import TargetSpec
from athanor.tuning.measure import CONSTANT, INPUT, OUTPUT, Argument, Candidate, tolerance
from athanor.tuning.objects import renamed

_RUNTIME = Path(__file__).resolve().parent.parent / "runtime"
_ROLES = {INPUT: "MEASURE_INPUT", CONSTANT: "MEASURE_CONSTANT", OUTPUT: "MEASURE_OUTPUT"}
_FLAGS = ["-std=c11", "-w", *(f"-I{_RUNTIME / name}" for name in ("include", "src", "measure"))]
_MAX_ARGUMENTS = 64
"""MEASURE_MAX_ARGUMENTS."""


@dataclass(frozen=True)
class Program:
    """A measuring program; its results number the candidates from 0."""

    path: Path
    bundle: str
    """A hash of all that the program measures, which its results carry."""


def bundle_hash(candidates: Sequence[Candidate], target: TargetSpec) -> str:
    """Tells the results of these candidates from those of others. 32 hexadecimal digits."""
    digest = hashlib.sha256(f"{target}".encode())
    for c in candidates:
        text = repr((c.workload, c.decisions, c.symbol, c.arguments, c.dims, c.evict_bytes))
        digest.update(text.encode())
        digest.update(hashlib.sha256(c.object_code).digest())
        if c.reference:
            digest.update(hashlib.sha256(c.reference.object_code).digest())
            digest.update(str(c.reference.seed).encode())
    return digest.hexdigest()[:32]


def check_candidate(candidate: Candidate) -> None:
    """Raises CompileError where a kernel can't be linked into a program."""
    renamed(candidate.object_code, candidate.symbol, "kernel")
    if candidate.reference:
        renamed(candidate.reference.object_code, candidate.symbol, "kernel")
    if len(candidate.arguments) > _MAX_ARGUMENTS:
        raise CompileError(
            f"{candidate.symbol} has {len(candidate.arguments)} buffers; at most {_MAX_ARGUMENTS} "
            "can be measured"
        )


def link_program(
    candidates: Sequence[Candidate],
    folder: Path,
    libraries: Sequence[Path],
    target: TargetSpec,
    by_workload: bool = False,
) -> Program:
    """`folder`/measure; libraries: of `measure_libraries`. Raises CompileError.

    by_workload: candidates take turns with those of their workload, which follow one another, not
    with all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objects: dict[tuple[bytes, str], str] = {}  # an object and its symbol -> the kernel's name
    bundle = bundle_hash(candidates, target)
    source = _table(candidates, objects, bundle, target, by_workload)
    (folder / "table.c").write_text(source)
    paths = []
    for (code, symbol), name in objects.items():
        paths.append(f"{name}.o")
        (folder / paths[-1]).write_bytes(renamed(code, symbol, name))
    compiler = c_compiler(target)
    _run([*compiler, *_FLAGS, "-O0", "-c", "table.c", "-o", "table.o"], folder)
    flags = ["-Wl,--gc-sections", "-Wl,-z,noexecstack", "-Wl,--strip-all"]
    inputs = ["table.o", *paths, *map(str, libraries), "-lm", "-lpthread", "-ldl"]
    command = [*compiler, *flags, *inputs, "-o", "measure"]
    try:
        if target.gpu is not None:  # the driver is a library, loaded when the program runs
            raise CompileError("not linked statically")
        _run([*_static(command), "-static"], folder)
    except CompileError:
        _run(command, folder)
    for path in ("table.o", *paths):
        (folder / path).unlink()
    return Program(folder / "measure", bundle)


def measure_libraries(folder: Path, target: TargetSpec) -> list[Path]:
    """The measuring program without its table: the installed one, or compiled into `folder`."""
    if target.triple.split("-")[0] == os.uname().machine and not os.environ.get("CC"):
        return [_RUNTIME / "lib" / f"lib{name}.a" for name in ("athanor_measure", "athanor")]
    objects = []
    for source in sorted([*_RUNTIME.glob("measure/*.c"), *_RUNTIME.glob("src/*.c")]):
        objects.append(folder / f"{source.parent.name}-{source.stem}.o")
        command = [*_static(c_compiler(target)), *_FLAGS, "-O2", "-ffunction-sections"]
        _run([*command, "-c", str(source), "-o", str(objects[-1])], folder)
    return objects


def build_launcher(folder: Path, target: TargetSpec) -> Path:
    """The library that TVM's RPC server loads to run the program. Raises CompileError."""
    source = _RUNTIME / "measure" / "rpc" / "launcher.c"
    flags = ["-std=c11", "-O1", "-w", "-fPIC", "-shared", "-fvisibility=hidden"]
    command = [*c_compiler(target), *flags, str(source), "-o", "launcher.so", "-ldl"]
    _run(command, folder)
    return folder / "launcher.so"


def _static(command: Sequence[str]) -> list[str]:
    """Zig links musl statically, and the GNU library not."""
    return [word.replace("-linux-gnu.2.28", "-linux-musl") for word in command]


def _table(
    candidates: Sequence[Candidate],
    objects: dict[tuple[bytes, str], str],
    bundle: str,
    target: TargetSpec,
    by_workload: bool,
) -> str:
    """The C source of the table; fills `objects`."""
    declared: list[str] = []
    signatures: dict[tuple[Argument, ...], str] = {}
    calls: dict[tuple[str, tuple[int, ...]], str] = {}
    references: dict[str, int] = {}
    groups: dict[str, int] = {}
    rows = []

    def call(code: bytes, candidate: Candidate) -> str:
        kernel = objects.setdefault((code, candidate.symbol), f"kernel_{len(objects)}")
        count, dims = len(candidate.arguments), candidate.dims
        if (kernel, dims) not in calls:
            name = calls[kernel, dims] = f"call_{len(calls)}"
            types = ", ".join(["void *"] * count + ["int64_t"] * len(dims)) or "void"
            values = [f"b[{i}]" for i in range(count)] + [f"INT64_C({dim})" for dim in dims]
            declared.append(f"extern int {kernel}({types});")
            declared.append(f"static int {name}(void *const *b) {{")
            declared.append(f"  return {kernel}({', '.join(values)});\n}}")
        return calls[kernel, dims]

    for candidate in candidates:
        arguments = candidate.arguments
        if arguments not in signatures:
            signatures[arguments] = f"arguments_{len(signatures)}"
            declared.append(f"static const MeasureArgument {signatures[arguments]}[] = {{")
            declared += [_argument(argument) for argument in arguments] or ["  {0},"]
            declared.append("};")
        reference, number = candidate.reference, -1
        if reference:
            number = references.setdefault(call(reference.object_code, candidate), len(references))
        group = groups.setdefault(candidate.workload, len(groups)) if by_workload else 0
        rows.append(
            f"  {{{call(candidate.object_code, candidate)}, {group}, {number}, "
            f"{reference.seed if reference else 0}u, {candidate.evict_bytes}u, "
            f"{len(arguments)}, {signatures[arguments]}}},"
        )
    return "\n".join(
        [
            '#include "measure.h"\n',
            f'const char measure_bundle[] = "{bundle}";',
            f'const char measure_cpu_features[] = "{" ".join(target.cpu_features)}";',
            *declared,
            f"const MeasureCall measure_references[] = {{{', '.join(references) or '0'}}};",
            f"const int32_t measure_num_candidates = {len(candidates)};",
            "const MeasureCandidate measure_candidates[] = {",
            *(rows or ["  {0},"]),
            "};",
            *_device(target),
        ]
    )


def _device(target: TargetSpec) -> list[str]:
    """Where the kernels run. What serves a GPU is linked only where the table names it."""
    architectures = target.gpu.architectures if target.gpu else ()
    place = "&measure_cuda" if target.gpu else "0"
    return [
        f"const uint32_t measure_num_images = {len(architectures)};",
        "const AthanorImage measure_images[] = {",
        *(f'  {{"{name}"}},' for name in architectures or ("",)),
        "};",
        f"const MeasureDevice *const measure_device = {place};\n",
    ]


def _argument(argument: Argument) -> str:
    code, bits = dlpack_type(np.dtype(named_dtype(argument.dtype)))
    count = math.prod(argument.shape)
    limit = tolerance(argument.dtype)
    return f"  {{{code}, {bits}, {_ROLES[argument.role]}, UINT64_C({count}), {limit!r}}},"


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(
            f"can't build a measuring program ({' '.join(command)[:300]}):\n"
            f"{done.stderr.strip()[-2000:]}"
        )
