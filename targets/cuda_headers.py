"""The device functions of ours that kernels call: `targets/device/*.cuh` in front of them."""

from __future__ import annotations

from pathlib import Path

NAMESPACE = "athanor::"
HEADERS = ("warp.cuh", "tiles.cuh", "product.cuh")
"""In order: each uses those before it."""
BEGIN = "// Device functions of Athanor\n"
"""The line in front of them."""
_FIRST_KERNEL = 'extern "C" __global__'


def with_headers(source: str) -> str:
    """CUDA C++ as TVM prints it -> the same with the device functions, where a kernel calls any."""
    if NAMESPACE not in source:
        return source
    folder = Path(__file__).parent / "device"
    text = "".join((folder / name).read_text() for name in HEADERS)
    at = source.index(_FIRST_KERNEL)
    return f"{source[:at]}{BEGIN}{text}{source[at:]}"
