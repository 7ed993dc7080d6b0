"""Measures on this machine, in a process of its own: what crashes or hangs costs that process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.tuning.harness import compile_harness, link_harness
from athanor.tuning.measure import BUILD, CRASH, TIMEOUT, Candidate, Failure, Measurement

_BUDGET_NS = 100_000_000
"""Time for a candidate's timed calls, once there are three of them."""
_START_SECS = 30.0
"""Time for a process to start."""


class LocalMeasurer:
    """A Measurer of one worker process, which is started when it is needed."""

    def __init__(self, target: TargetSpec, threads: int | None = None) -> None:
        self.target = target
        self.threads = threads or len(os.sched_getaffinity(0))
        self._folder = tempfile.TemporaryDirectory(prefix="athanor-measure-")
        self._process: subprocess.Popen[bytes] | None = None

    def measure(
        self,
        candidates: Sequence[Candidate],
        *,
        repeats: int = 20,
        limit_secs: float = float("inf"),
        timeout_secs: float = 10.0,
        interleaved: bool = False,
    ) -> Iterator[Measurement]:
        """See Measurer."""
        if interleaved:
            yield from self._interleaved(candidates, repeats, timeout_secs)
            return
        for candidate in candidates:
            control = _control(candidate, repeats, limit_secs)
            yield self._one(candidate, control, timeout_secs)

    def _interleaved(
        self, candidates: Sequence[Candidate], repeats: int, timeout_secs: float
    ) -> list[Measurement]:
        seconds: list[tuple[float, ...]] = [()] * len(candidates)
        failures: list[Failure | None] = [None] * len(candidates)
        started = time.monotonic()
        for turn in range(repeats):
            if turn >= 3 and time.monotonic() - started > timeout_secs * len(candidates):
                break
            for index, candidate in enumerate(candidates):
                if failures[index] is None:
                    one = self._one(candidate, _control(candidate, 1, float("inf")), timeout_secs)
                    seconds[index] += one.seconds
                    failures[index] = one.error
        return [
            Measurement(() if failure else times, failure)
            for times, failure in zip(seconds, failures, strict=True)
        ]

    def _one(
        self, candidate: Candidate, control: dict[str, int], timeout_secs: float
    ) -> Measurement:
        try:
            path = self._artifact(candidate, candidate.object_code)
            reference = candidate.reference
            expected = reference and self._artifact(candidate, reference.object_code)
        except CompileError as error:
            return Measurement((), Failure(BUILD, str(error)))
        request = {
            "measure": str(path),
            "expected": expected and str(expected),
            "arguments": [[a.dtype, a.shape, a.role] for a in candidate.arguments],
            "seed": reference.seed if reference else 0,
            "threads": self.threads,
            "control": control,
        }
        answer = self._ask(request, timeout_secs)
        if isinstance(answer, Failure):
            return Measurement((), answer)
        if "seconds" in answer:
            return Measurement(tuple(answer["seconds"]))
        return Measurement((), Failure(answer["kind"], answer["sentence"]))

    def _artifact(self, candidate: Candidate, object_code: bytes) -> Path:
        signature = repr((candidate.symbol, candidate.arguments, candidate.dims))
        task = Path(self._folder.name) / hashlib.sha256(signature.encode()).hexdigest()[:20]
        harness = task / "host.o"
        if not harness.exists():
            compile_harness(
                candidate.symbol, candidate.arguments, candidate.dims, task, self.target
            )
        path = task / f"{hashlib.sha256(object_code).hexdigest()[:20]}.so"
        if not path.exists():
            kernel = path.with_suffix(".o")
            kernel.write_bytes(object_code)
            link_harness(kernel, harness, self.target, path)
            kernel.unlink()
        return path

    def _ask(self, request: dict[str, Any], timeout_secs: float) -> dict[str, Any] | Failure:
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout.fileno(), timeout_secs)
        except BrokenPipeError:
            line = b""
        except TimeoutError:
            self._stop()
            return Failure(TIMEOUT, f"no result within {timeout_secs:.0f} s")
        if line:
            return json.loads(line)
        code = process.wait()
        self._stop()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Failure(CRASH, f"the process that ran it ended: {how}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "athanor.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the job, which ends its workers
        )
        assert process.stdout is not None
        if not _read_line(process.stdout.fileno(), _START_SECS):
            raise AssertionError("the measuring process ended before it began; see its message")
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()

    def close(self) -> None:
        """End the process; twice is harmless."""
        self._stop()
        self._folder.cleanup()


def _control(candidate: Candidate, repeats: int, limit_secs: float) -> dict[str, int]:
    return {
        "warmups": 1,
        "repeats": repeats,
        "evict_bytes": candidate.evict_bytes,
        "limit_ns": int(min(limit_secs, 1e9) * 1e9),
        "budget_ns": _BUDGET_NS,
    }


def _read_line(descriptor: int, timeout_secs: float) -> bytes:
    """A line with its end, or b"" at the end of the stream. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_secs
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(descriptor, 65536)
            if not piece:
                return b""
            line += piece
    return line
