"""Measures on this machine, each candidate in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.tuning.measure import BUILD, Candidate, Failure, Measurement
from athanor.tuning.options import Options
from athanor.tuning.program import Program, check_candidate, link_program, measure_libraries
from athanor.tuning.results import read_head, read_measurements


class LocalMeasurer:
    """A Measurer. The candidates of one call become one program, which forks for each."""

    def __init__(self, target: TargetSpec, threads: int | None = None) -> None:
        """Raises CompileError where the target is a GPU that is not here."""
        self.target = target
        self.threads = 1 if target.gpu else threads or len(os.sched_getaffinity(0))
        self._folder = tempfile.TemporaryDirectory(prefix="athanor-measure-")
        self.cpu: str | None = self._device() if target.gpu else None

    def _device(self) -> str:
        """The GPU's name, as a program without candidates tells it."""
        folder = Path(self._folder.name, "probe")
        program = link_program([], folder, self._libraries, self.target)
        done = subprocess.run([program.path], capture_output=True, text=True, check=False)
        if done.returncode:
            self.close()
            raise CompileError(
                f"target {self.target.name}: {done.stderr.strip().removeprefix('measure: ')}; "
                "measure on another machine (--bundle)"
            )
        return read_head(done.stdout).cpu

    @functools.cached_property
    def _libraries(self) -> list[Path]:
        return measure_libraries(Path(self._folder.name), self.target)

    def measure(
        self,
        candidates: Sequence[Candidate],
        *,
        repeats: int = 20,
        limit_secs: float = math.inf,
        timeout_secs: float = 10.0,
        interleaved: bool = False,
    ) -> Iterator[Measurement]:
        """See Measurer."""
        options = Options(self.threads, repeats, limit_secs, timeout_secs, interleaved)
        yield from measure_linkable(candidates, lambda good: self._measure(good, options))

    def _measure(self, candidates: Sequence[Candidate], options: Options) -> Iterator[Measurement]:
        if not candidates:
            return
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            try:
                program = link_program(candidates, Path(folder), self._libraries, self.target)
            except CompileError as error:
                if len(candidates) == 1:
                    yield Measurement((), Failure(BUILD, str(error)))
                    return
            else:
                yield from run_program(program, options)
                return
        # One of them asks for what the program has not: each half by itself, to find which.
        half = len(candidates) // 2
        yield from self._measure(candidates[:half], options)
        yield from self._measure(candidates[half:], options)

    def close(self) -> None:
        """Remove the programs; twice is harmless."""
        self._folder.cleanup()


def measure_linkable(
    candidates: Sequence[Candidate], measure: Callable[[list[Candidate]], Iterator[Measurement]]
) -> Iterator[Measurement]:
    """Of each candidate in order: by `measure`, or what keeps it from being linked."""
    failures = build_failures(candidates)
    good = [c for c, failure in zip(candidates, failures, strict=True) if failure is None]
    measured = measure(good)
    for failure in failures:
        yield Measurement((), failure) if failure else next(measured)


def build_failures(candidates: Sequence[Candidate]) -> list[Failure | None]:
    """What keeps each candidate from being linked into a program, or None."""
    failures: list[Failure | None] = []
    for candidate in candidates:
        try:
            check_candidate(candidate)
            failures.append(None)
        except CompileError as error:
            failures.append(Failure(BUILD, str(error)))
    return failures


def run_program(program: Program, options: Options) -> Iterator[Measurement]:
    """Run it here, and its measurements as they come.

    No time limit: the program ends each kernel in time by itself, and may have to wait for another
    job's kernel.
    """
    process = subprocess.Popen(
        [str(program.path), *options.words()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the job, which ends its processes
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        head = process.stdout.readline()
        if head:
            read_head(head)
            yield from read_measurements(process.stdout)
        code = process.wait()
        said = process.stderr.read().strip()
        assert code == 0, f"the measuring program ended with {code}: {said}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
