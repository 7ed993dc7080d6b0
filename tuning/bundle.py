"""Tuning for a device that has neither Python nor TVM: candidates go there as one program.

A bundle is a tar file with that program and a script. It holds candidates of every kernel of a
model, the heuristic's first, and measures those of one kernel in turn. `collect` reads what the
device wrote; what was in the bundle is kept in the database's folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from athanor.compiler.write_aside import check_writable, write_aside
from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.tuning.apply import TunedKernels
from athanor.tuning.build import Builder
from athanor.tuning.context import make_context, target_identity
from athanor.tuning.database import RECORDS, Database
from athanor.tuning.job import model_tasks, tuning_target
from athanor.tuning.local import build_failures
from athanor.tuning.measure import DEVICE_LOST, Candidate, Failure, Measurement
from athanor.tuning.options import Options
from athanor.tuning.program import link_program, measure_libraries
from athanor.tuning.results import Head, ResultsError, read_head, read_measurements
from athanor.tuning.task_state import TURNS, TaskState
from athanor.tuning.tasks import KernelTask

PER_KERNEL = 16
"""Candidates of each kernel in a bundle where nothing else is asked for."""
_BUNDLES = "bundles"
"""Folder in the database's, of what was in each bundle that was written."""
_UNKNOWN_CPU = "a device that has not answered yet"
_SCRIPT = """#!/bin/sh
# Measures the kernels in this folder; needs nothing but @NEEDS@. A second run goes on where the
# first one ended. More options: ./measure --help
here=${0%/*}
case $0 in */*) ;; *) here=. ;; esac
if ! "$here/measure" --help >/dev/null 2>&1; then
  echo "can't run $here/measure: this bundle is for Linux on @FAMILY@; make it with the --target" \\
    "of this machine" >&2
  exit 1
fi
"$here/measure" @OPTIONS@ --output "$here/results.jsonl" "$@" &&
  echo "wrote $here/results.jsonl"
"""


@dataclass(frozen=True)
class BundleReport:
    """What a visit to a device brought, and what the next one takes along."""

    collected: int = 0
    """Candidates that were recorded."""
    device: str | None = None
    """The processor that measured them."""
    heuristic_secs: float = 0.0
    """One run of the model untuned, of the kernels that are measured."""
    best_secs: float = 0.0
    kernels: int = 0
    """In the bundle that was written."""
    candidates: int = 0


def tune_by_bundle(
    model: str | Path | bytes | onnx.ModelProto,
    target: str,
    *,
    database: str | Path,
    bundle: str | Path | None = None,
    collect: str | Path | None = None,
    trials: int | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    winograd: bool = True,
    threads: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
) -> BundleReport:
    """Record the results of a bundle, write the next one, or both; arguments as in `tune`.

    bundle: the tar file to write. collect: the results of an earlier one, whole or as far as it
    came. trials: candidates in a bundle; 16 of each kernel where it is None. threads: that kernels
    run with on the device; all its cores where it is None.

    Raises CompileError, also for results of another bundle, target or model.
    """
    if bundle is not None:
        check_writable(Path(bundle))
    spec = tuning_target(target, precision)
    records = Database(database, create=True)
    known = TunedKernels(database, spec, any_cpu=True, threads=threads)
    tasks = model_tasks(model, spec, shapes, dims, operators, winograd, precision, known)
    builder = Builder(spec, spec.cores)
    report = BundleReport()
    cpu, device_threads = _UNKNOWN_CPU, threads or 1
    try:
        if collect is not None:
            report, head = _collect(Path(collect), spec, records, tasks, builder, seed)
            cpu, device_threads = head.cpu, head.threads
        if bundle is None:
            return report
        context = make_context(spec, device_threads, cpu)
        with tempfile.TemporaryDirectory(prefix="athanor-bundle-") as folder:
            # A copy: to propose candidates, the search is told times that are not true.
            if records.path.exists():
                shutil.copyfile(records.path, Path(folder, RECORDS))
            scratch = Database(folder)
            states = [TaskState(t, builder, scratch, context, seed) for t in tasks.values()]
            candidates = _propose(states, trials)
        for task in tasks.values():
            records.add_workload(task.func, task.name)
        _write(Path(bundle), candidates, states, spec, records, Options(threads or 0, TURNS))
    finally:
        builder.close()
    kernels = len({candidate.workload for candidate in candidates})
    return BundleReport(
        report.collected,
        report.device,
        report.heuristic_secs,
        report.best_secs,
        kernels,
        len(candidates),
    )


class _Gathering:
    """A Measurer that keeps what it should measure."""

    threads = 1
    cpu: str | None = None

    def __init__(self) -> None:
        self.candidates: dict[tuple[int, ...], Candidate] = {}

    def measure(self, candidates: Sequence[Candidate], **_options: Any) -> Iterator[Measurement]:
        """The heuristic takes a second, the others get lost."""
        for candidate in candidates:
            if candidate.decisions not in self.candidates:
                self.candidates[candidate.decisions] = candidate
            lost = Measurement((), Failure(DEVICE_LOST, "it is measured later"))
            yield lost if candidate.reference else Measurement((1.0,))

    def close(self) -> None:
        """Nothing is open."""


def _propose(states: Sequence[TaskState], trials: int | None) -> list[Candidate]:
    """Candidates of all kernels that have a choice.

    Of each kernel the heuristic's first, then what is fastest so far, then new ones.
    """
    # What one visit found is measured by a second one, even where nothing new is left.
    open_states = [s for s in states if s.is_open or (s.best_values and s.comparisons == 1)]
    each = PER_KERNEL if trials is None else max(2, trials // max(1, len(open_states)))
    found: list[Candidate] = []
    for state in open_states:
        gathering = _Gathering()
        state.measure_heuristic(gathering, lambda: None)
        state.compare(gathering, again=True)
        if state.is_open:
            left = max(1, each - len(gathering.candidates))
            state.round(gathering, left, lambda: None)
        found += gathering.candidates.values()
    return [c for c, bad in zip(found, build_failures(found), strict=True) if bad is None]


def _write(
    path: Path,
    candidates: Sequence[Candidate],
    states: Sequence[TaskState],
    target: TargetSpec,
    records: Database,
    options: Options,
) -> None:
    if not candidates:
        raise CompileError("there is nothing left to measure: every candidate has been")
    with tempfile.TemporaryDirectory(prefix="athanor-bundle-") as scratch:
        folder = Path(scratch)
        libraries = measure_libraries(folder, target)
        program = link_program(candidates, folder, libraries, target, by_workload=True)
        manifest = {
            "target": target_identity(target),
            "candidates": [[c.workload, list(c.decisions)] for c in candidates],
        }
        kept = records.folder / _BUNDLES / f"{program.bundle}.json"
        kept.parent.mkdir(exist_ok=True)
        with write_aside(kept) as file:
            file.write(json.dumps(manifest).encode())
        words = ["--interleaved", "--repeats", str(options.repeats)]
        words += ["--threads", str(options.threads)] if options.threads else []
        script = _SCRIPT.replace("@FAMILY@", target.triple.partition("-")[0])
        script = script.replace("@OPTIONS@", " ".join(words))
        script = script.replace("@NEEDS@", "the NVIDIA driver" if target.gpu else "a shell")
        files = {"measure": program.path.read_bytes(), "run.sh": script.encode()}
        with write_aside(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{path.stem}/{name}")
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))


def _collect(
    path: Path,
    target: TargetSpec,
    records: Database,
    tasks: Mapping[str, KernelTask],
    builder: Builder,
    seed: int,
) -> tuple[BundleReport, Head]:
    head, measurements = read_results(path)
    kept = records.folder / _BUNDLES / f"{head.bundle}.json"
    try:
        manifest = json.loads(kept.read_text())
    except FileNotFoundError:
        raise CompileError(
            f"{path} holds the results of bundle {head.bundle}, which was not written with the "
            f"database {records.folder}: give the --database that the bundle was made with"
        ) from None
    if manifest["target"] != target_identity(target):
        raise CompileError(
            f"{path} holds results for the target {manifest['target'].split()[0]}, not for "
            f"{target_identity(target).split()[0]}: give the --target (and --precision) that the "
            "bundle was made with"
        )
    results: dict[str, dict[tuple[int, ...], Measurement]] = {}
    for (workload, values), measurement in zip(manifest["candidates"], measurements, strict=False):
        results.setdefault(workload, {})[tuple(values)] = measurement
    if results and not results.keys() & tasks.keys():
        raise CompileError(
            f"{path} holds results of kernels that this model has not: give the model (and the "
            "--shape and --dim) that the bundle was made with"
        )
    context = make_context(target, head.threads, head.cpu)
    states = [TaskState(t, builder, records, context, seed) for t in tasks.values()]
    collected = sum(state.take(results.get(state.task.key, {})) for state in states)
    heuristic, best = (
        sum(getattr(s.progress, name) * s.task.calls for s in states if _is_timed(s))
        for name in ("heuristic_secs", "best_secs")
    )
    return BundleReport(collected, head.cpu, heuristic, best), head


def _is_timed(state: TaskState) -> bool:
    return state.is_measured and state.failure is None


def read_results(path: Path) -> tuple[Head, list[Measurement]]:
    """What a measuring program wrote to a file. Raises CompileError."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return read_head(file.readline()), list(read_measurements(file))
    except OSError as error:
        raise CompileError(f"can't read {path}: {error.strerror or os.strerror(1)}") from error
    except ResultsError as error:
        raise CompileError(f"{path}: {error}") from error
