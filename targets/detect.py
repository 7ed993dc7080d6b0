"""This machine -> target."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

from athanor.targets.aarch64 import AARCH64
from athanor.targets.target import TargetSpec
from athanor.targets.x86_64 import X86_64_V2, X86_64_V3, X86_64_V4

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}


def detect_target() -> TargetSpec:
    """The best target for the machine that runs this, with its cache sizes and core count.

    Raises LookupError on a processor family that no target serves.
    """
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        features = cpu_features()
        levels = (X86_64_V4, X86_64_V3, X86_64_V2)
        spec = next((level for level in levels if features.issuperset(level.cpu_features)), None)
        if spec is None:
            missing = ", ".join(sorted(set(X86_64_V2.cpu_features) - features))
            raise LookupError(f"this processor lacks {missing}, which x86-64-v2 needs")
    elif machine in ("aarch64", "arm64"):
        spec = AARCH64
    else:
        raise LookupError(f"no target serves the processor family {machine!r}")
    caches = _cache_bytes()
    if spec is X86_64_V4 and _is_zen4():
        spec = replace(spec, fma_pipes=1)
    return spec.with_caches(
        caches.get(1, spec.l1_bytes),
        caches.get(2, spec.l2_bytes),
        caches.get(3, spec.l3_bytes),
        os.cpu_count() or 1,
    )


def _is_zen4() -> bool:
    """AMD's family 25 with AVX-512: two pipes of 256 bits together take one 512-bit operation."""
    fields = _first_processor()
    return fields.get("vendor_id") == "AuthenticAMD" and fields.get("cpu family") == "25"


def cpu_features() -> set[str]:
    """Feature names of the first processor as /proc/cpuinfo lists them."""
    fields = _first_processor()
    return set(fields.get("flags", fields.get("Features", "")).split())


def _first_processor() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _CPUINFO.read_text().splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _cache_bytes() -> dict[int, int]:
    """Data cache size by level, in bytes; empty where the system does not tell."""
    sizes = {}
    for index in sorted(_CACHES.glob("index*")):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            sizes[int((index / "level").read_text())] = int(text[:-1]) * _UNITS[text[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return sizes
