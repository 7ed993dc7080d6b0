"""What a measured time depends on besides the kernel: target, processor, threads, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm

import athanor
from athanor.targets import TargetSpec


@dataclass(frozen=True)
class Context:
    """Where and with what a record was made."""

    target: str
    """Name, triple, processor and features that code was generated for, in one string."""
    cpu: str
    """The processor, or GPU, that measured, as it calls itself."""
    threads: int
    tvm: str
    athanor: str

    def as_dict(self) -> dict[str, Any]:
        """The types of JSON."""
        return asdict(self)


def make_context(target: TargetSpec, threads: int, cpu: str | None = None) -> Context:
    """The context of measurements of code for `target`; cpu: None is this machine's."""
    return Context(
        target_identity(target),
        cpu_model() if cpu is None else cpu,
        threads,
        ".".join(tvm.__version__.split(".")[:2]),
        athanor.__version__,
    )


def target_identity(target: TargetSpec) -> str:
    """What two targets have in common whose code is the same."""
    if target.gpu is not None:
        return f"cuda:{','.join(target.gpu.architectures)}:{target.gpu.precision}"
    return " ".join([target.name, target.triple, target.mcpu, *target.mattr])


def cpu_model() -> str:
    """This machine's processor, as /proc/cpuinfo has it; a board's name where that has none.

    The rule of processor_name in runtime/measure/results.c, so that records fit wherever they are
    made.
    """
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
        return Path("/proc/device-tree/model").read_text().rstrip("\0\n")
    except OSError:
        return platform.machine()


def misfit(record: Mapping[str, Any], context: Context, any_cpu: bool = False) -> str | None:
    """Why a record's context does not fit, or None. Threads and Athanor's version may differ.

    What a rule asks for is compared when its decisions are replayed.
    """
    for field in ("target", "tvm") if any_cpu else ("target", "cpu", "tvm"):
        if record.get(field) != getattr(context, field):
            return f"it is of {field} {record.get(field)!r}, not of {getattr(context, field)!r}"
    return None
