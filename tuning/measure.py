"""What is measured, what comes out, and who measures: the contract of search and measurers.

Needs neither TVM nor the compiler, so that a measurer's processes start fast and may run elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

INPUT, CONSTANT, OUTPUT = "input", "constant", "output"
"""Roles of a kernel's buffers: values of the run, weights, results."""

BUILD, CRASH, TIMEOUT, WRONG_RESULT, DEVICE_LOST = (
    "build",
    "crash",
    "timeout",
    "wrong result",
    "device lost",
)
"""Kinds of failures. `device lost` says nothing of the candidate: it may be measured elsewhere."""


@dataclass(frozen=True)
class Argument:
    """One buffer of a kernel, dense and row-major."""

    dtype: str
    shape: tuple[int, ...]
    role: str
    """INPUT: just written by the kernel before; CONSTANT: read last in the run before; OUTPUT."""


@dataclass(frozen=True)
class Reference:
    """What a candidate's outputs are compared with: those of the heuristic's kernel.

    Both run on the same inputs, `input_arrays(arguments, seed)`. A float output passes where its
    largest difference is at most `tolerance(dtype)` of the reference's largest magnitude, NaN and
    infinities being in the same places; integers are equal.
    """

    object_code: bytes
    """Has the candidate's symbol and signature."""
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """A kernel to measure: `int symbol(void *buffer, ..., int64_t dim, ...)`, 0 on success.

    The object asks for `__TVMBackendParallelLaunch` and perhaps the two workspace functions, as
    targets/codegen.py says.
    """

    workload: str
    """Key of the task in the database."""
    decisions: tuple[int, ...]
    """Values of the rule's sampling instructions in order."""
    object_code: bytes
    """An ELF object file."""
    symbol: str
    arguments: tuple[Argument, ...]
    """In the kernel's order: outputs last."""
    dims: tuple[int, ...] = ()
    """Values of what follows the buffers: the symbolic dimensions."""
    evict_bytes: int = 0
    """How much other memory a run of the model touches between two calls of the kernel."""
    reference: Reference | None = None
    """None: the outputs are not compared; so is the heuristic's candidate itself."""


@dataclass(frozen=True)
class Failure:
    """Why there are no times."""

    kind: str
    """BUILD, CRASH, TIMEOUT, WRONG_RESULT or DEVICE_LOST."""
    sentence: str


@dataclass(frozen=True)
class Measurement:
    """Times of a candidate, or why there are none."""

    seconds: tuple[float, ...]
    """One call each, after a warm-up; empty where `error` is set."""
    error: Failure | None = None

    @property
    def median(self) -> float:
        """The median time in seconds; infinite where there is none."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else float("inf")


def is_lost(result: Measurement) -> bool:
    """Whether a measurement says nothing of its candidate."""
    return result.error is not None and result.error.kind == DEVICE_LOST


class Measurer(Protocol):
    """Runs candidates somewhere. Not for several threads at once."""

    threads: int
    """Threads that each candidate runs with."""
    cpu: str | None
    """What the processor that measures calls itself; None: it is this machine's."""

    def measure(
        self,
        candidates: Sequence[Candidate],
        *,
        repeats: int = 20,
        limit_secs: float = float("inf"),
        timeout_secs: float = 10.0,
        interleaved: bool = False,
    ) -> Iterator[Measurement]:
        """One measurement a candidate, in order, as soon as it is there.

        repeats: timed calls at most; slow kernels get fewer, at least 3. limit_secs: a call that
        takes longer ends the candidate's measurement, its times so far count. timeout_secs: of one
        candidate, loading included; then it is killed. interleaved: the candidates run in turn,
        call after call, so that what slows the machine slows all of them; all measurements then
        come at the end. Never raises for a candidate's fault.
        """
        ...

    def close(self) -> None:
        """End processes and connections; twice is harmless."""
        ...


class TimedMeasurer:
    """A Measurer that notes how long its caller waited for another one, and what got lost."""

    def __init__(self, measurer: Measurer) -> None:
        self.measurer = measurer
        self.threads, self.cpu = measurer.threads, measurer.cpu
        self.busy_secs = 0.0
        self.lost_calls = 0
        """The last calls of `measure` in a row that measured nothing, for no device did."""
        self.why_lost = ""

    def measure(self, candidates: Sequence[Candidate], **options: Any) -> Iterator[Measurement]:
        """See Measurer."""
        found = self.measurer.measure(candidates, **options)
        self.lost_calls += bool(candidates)
        while True:
            started = time.monotonic()
            result = next(found, None)
            self.busy_secs += time.monotonic() - started
            if result is None:
                return
            if result.error is not None and is_lost(result):
                self.why_lost = result.error.sentence
            else:
                self.lost_calls = 0
            yield result

    def close(self) -> None:
        """Close the other one."""
        self.measurer.close()


def tolerance(dtype: str) -> float:
    """Largest difference of two correct results, relative to the largest magnitude."""
    return {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 4e-2}.get(dtype, 0.0)
