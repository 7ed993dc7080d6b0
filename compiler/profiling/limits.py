"""What the machine can do: its rate of multiply-adds, and of bytes from each level of memory.

Measured by kernels of our own, compiled and timed the way a model's kernels are, and kept in the
user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import athanor
from athanor.compiler.user_cache import user_cache
from athanor.compiler.write_aside import OutputError, write_aside
from athanor.targets import TargetSpec, find_target

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Level:
    """A cache, or memory."""

    name: str
    size_bytes: int | None
    """What it holds for all threads together; None for memory."""
    gigabytes_per_second: float
    """The faster of plain reading and plain copying, which counts both ways; 1e9 bytes."""


@dataclass(frozen=True)
class Limits:
    """What a number of threads can do on this machine, or what a GPU can."""

    threads: int
    """Of the processor; 0 of a GPU."""
    gflops: float
    """float32 multiply-adds, two operations each, in units of 1e9 a second."""
    levels: tuple[Level, ...]
    """From the fastest to memory."""
    device: str = ""
    """The GPU's name."""

    def level(self, size_bytes: float) -> Level:
        """The first level that holds a working set."""
        return next(x for x in self.levels if x.size_bytes is None or size_bytes <= x.size_bytes)

    def milliseconds(self, operations: float, size_bytes: float, calls: float = 1) -> float:
        """The time below which no kernel of so much work gets: the roofline's.

        size_bytes: of all calls together; each works on its part of it.
        """
        bandwidth = self.level(size_bytes / max(calls, 1)).gigabytes_per_second
        return max(operations / self.gflops, size_bytes / bandwidth) / 1e6


_LANES = {75: 64, 80: 64}
"""Float32 multiply-adds of a multiprocessor in one clock by compute capability, from the table
"Throughput of Native Arithmetic Instructions" of the CUDA C++ Programming Guide; of others 128."""


def device_limits(info: Mapping[str, Any]) -> Limits:
    """What a GPU's clocks and widths allow; info: that of Model.device_info.

    Float32 multiply-adds outside of tensor cores, and the bandwidth of memory: products on tensor
    cores and data in caches pass it.
    """
    lanes = _LANES.get(info["capability"], 128) * info["multiprocessors"]
    # two transfers in a clock, of so many bits each
    bandwidth = 2 * info["memory_clock_khz"] * info["memory_bus_bits"] / 8 / 1e6
    memory = Level("memory", None, bandwidth)
    return Limits(0, 2 * lanes * info["clock_khz"] / 1e6, (memory,), info["name"])


def machine_limits(threads: int, measure: bool = False) -> Limits:
    """The limits of this machine; measured now where they are not known, or on demand.

    threads: that share the work. measure: even where they are known.
    """
    target = find_target("native")
    folder = user_cache()
    path = None if folder is None else folder / f"limits-{_machine_key(target, threads)}.json"
    if path is not None and not measure:
        found = _read(path)
        if found is not None:
            return found
    limits = measure_limits(target, threads)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(path) as file:
                file.write(json.dumps(asdict(limits), indent=1).encode())
        except (OSError, OutputError):
            pass  # a cache that can't be written costs a measurement the next time
    return limits


def measure_limits(target: TargetSpec, threads: int) -> Limits:
    """Measure them: some seconds.

    A core's units and its own caches are measured on one thread and multiplied by the cores that
    the threads have: so a machine with other work to do, too, tells what it could. The last cache
    and memory are shared, and measured by all threads together.
    """
    from athanor.compiler.profiling.limit_kernels import Stream, rates

    cores = min(threads, _physical_cores())
    own = {"L1": target.l1_bytes, "L2": target.l2_bytes}
    gflops, bandwidths = rates(target, 1, [Stream(n, size * 3 // 4) for n, size in own.items()])
    levels = [
        Level(name, cores * size, cores * bandwidth)
        for (name, size), bandwidth in zip(own.items(), bandwidths, strict=True)
    ]
    # more than the caches before it hold, and as sure to be in it, or not to be
    inside = max(target.l3_bytes // 2, 2 * threads * target.l2_bytes)
    shared = {"L3": (target.l3_bytes, inside), "memory": (None, 4 * target.l3_bytes)}
    streams = [Stream(name, used // threads) for name, (_, used) in shared.items()]
    _, bandwidths = rates(target, threads, streams)
    for (name, (size, _)), bandwidth in zip(shared.items(), bandwidths, strict=True):
        levels.append(Level(name, size, bandwidth))
    return Limits(threads, cores * gflops, tuple(levels))


def _physical_cores() -> int:
    """Cores that this process may use, each counted once however many threads it runs."""
    cores = set()
    for number in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else number)
    return len(cores)


def _machine_key(target: TargetSpec, threads: int) -> str:
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    names = sorted({line for line in lines if line.startswith(("model name", "cpu family"))})
    text = f"{athanor.__version__} {names} {target} {threads}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> Limits | None:
    try:
        data = json.loads(path.read_text())
        levels: Sequence[dict[str, Any]] = data.pop("levels")
        return Limits(**data, levels=tuple(Level(**level) for level in levels))
    except (OSError, ValueError, TypeError, KeyError):
        return None
