"""The device functions of ours that kernels call: `targets/device/*.cuh` in front of them."""

from __future__ import annotations

import re
from pathlib import Path

NAMESPACE = "athanor::"
HEADERS = ("warp.cuh", "tiles.cuh", "warpgroup.cuh", "product.cuh", "attention.cuh")
"""In order: each uses those before it."""
BEGIN = "// Device functions of Athanor\n"
"""The line in front of them."""
_FIRST_KERNEL = 'extern "C" __global__'


_SHARED = re.compile(r"extern __shared__ [^;]*?(\w+)\[\];")


def with_headers(source: str) -> str:
    """CUDA C++ as TVM prints it -> the same with the device functions, where a kernel calls any."""
    if NAMESPACE not in source:
        return source
    source = _named_apart(source)
    folder = Path(__file__).parent / "device"
    text = "".join((folder / name).read_text() for name in HEADERS)
    at = source.index(_FIRST_KERNEL)
    return f"{source[:at]}{BEGIN}{text}{source[at:]}"


def _named_apart(source: str) -> str:
    """Each kernel's shared memory under a name of its own: its type is not the same in all."""
    kernels = source.split(_FIRST_KERNEL)
    for number, kernel in enumerate(kernels):
        for name in set(_SHARED.findall(kernel)) - {"buf_dyn_shmem"}:  # of bytes in all
            kernels[number] = re.sub(rf"\b{name}\b", f"{name}_{number}", kernels[number])
    return _FIRST_KERNEL.join(kernels)
