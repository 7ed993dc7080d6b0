"""NVIDIA GPUs: `cuda`, and `cuda -arch=sm_80,sm_90a -host=x86-64-v3`."""

from __future__ import annotations

import re
from dataclasses import replace

from athanor.errors import CompileError
from athanor.targets.gpu import GPUSpec
from athanor.targets.target import KIB, TargetSpec

_SHARED_KIB = {
    75: 64,
    80: 163,
    86: 99,
    87: 163,
    88: 163,
    89: 99,
    90: 227,
    100: 227,
    103: 227,
    110: 227,
    120: 99,
    121: 99,
}
"""Shared memory of one block by compute capability, from the table "Technical Specifications per
Compute Capability" of the CUDA C++ Programming Guide."""

_MULTIPROCESSORS = {
    75: 72,
    80: 108,
    86: 84,
    87: 16,
    88: 16,
    89: 142,
    90: 132,
    100: 148,
    103: 148,
    110: 20,
    120: 188,
    121: 48,
}
"""Of the largest device of each compute capability, from NVIDIA's data sheets."""

_EVERYWHERE_KIB = 99
"""An image for sm_80 runs on 8.6 and 8.9 too, and the PTX on 12.0: no kernel may want more, unless
all images are bound to their architecture by a letter."""

_DEFAULT = ("sm_80", "sm_90")
"""Runs on every 8.x and 9.x device as it is, and on later ones through the PTX."""


def parse_cuda(name: str, hosts: dict[str, TargetSpec], host: str) -> TargetSpec:
    """The target that a name beginning with `cuda` means.

    -arch: compute capabilities, oldest first in the result. -host: the CPU target of the host
    program, one of `hosts`; by itself `host`. Raises CompileError for anything else.
    """
    words = name.split()
    options: dict[str, str] = {}
    for word in words[1:]:
        key, _, value = word.lstrip("-").partition("=")
        options[key] = value
    if words[0] != "cuda" or any(not re.fullmatch(r"--?\w+=\S+", word) for word in words[1:]):
        raise CompileError(f"target {name!r}: expected 'cuda' or 'cuda -arch=sm_80,sm_90a'")
    unknown = sorted(set(options) - {"arch", "host"})
    if unknown:
        raise CompileError(f"target {name!r}: no option -{unknown[0]}; there are -arch and -host")
    if options.get("host", host) not in hosts:
        raise CompileError(
            f"target {name!r}: unknown host {options['host']!r}; known: {', '.join(hosts)}"
        )
    asked = options["arch"].split(",") if "arch" in options else list(_DEFAULT)
    architectures = tuple(sorted(dict.fromkeys(asked), key=lambda arch: _capability(name, arch)))
    numbers = [_capability(name, arch) for arch in architectures]
    bound = all(arch[-1].isalpha() for arch in architectures)
    shared = [_SHARED_KIB[number] for number in numbers] + ([] if bound else [_EVERYWHERE_KIB])
    gpu = GPUSpec(
        architectures=architectures,
        portable=None if bound else f"compute_{numbers[-1]}",
        shared_bytes=min(shared) * KIB,
        multiprocessors=_MULTIPROCESSORS[numbers[-1]],
        tensor_cores=numbers[0] >= 80,
    )
    return replace(hosts[options.get("host", host)], name=name, gpu=gpu)


def _capability(name: str, arch: str) -> int:
    """80 of `sm_80`; the letter of `sm_90a` says that only that very architecture runs it."""
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    number = int(match[1]) if match else 0
    if number not in _SHARED_KIB:
        known = ", ".join(f"sm_{known}" for known in _SHARED_KIB)
        raise CompileError(f"target {name!r}: unknown architecture {arch!r}; known: {known}")
    return number
