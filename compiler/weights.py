"""Constants of a program -> the bytes of the weights section."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from athanor.compiler.memory import align
from athanor.compiler.program import Program, Tensor


def weight_offsets(program: Program) -> tuple[dict[Tensor, int], int]:
    """Byte offset of every constant in the weights, in order of use, and the size of all."""
    offsets, end = {}, 0
    for tensor in program.constants():
        offsets[tensor] = end
        end = align(end + (tensor.static_bytes or 0))
    return offsets, end


def weight_bytes(program: Program) -> Iterator[memoryview | bytes]:
    """The weights section piece by piece, each constant padded to its successor's offset."""
    for tensor in program.constants():
        array = np.ascontiguousarray(tensor.constant)
        yield array.reshape(-1).view(np.uint8).data if array.size else b""
        yield bytes(align(array.nbytes) - array.nbytes)
