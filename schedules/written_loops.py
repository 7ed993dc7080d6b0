"""Numbers and loops of kernels that are written out by hand."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as I


def i64(value: Any) -> Any:
    """A number as TIR's 64-bit one."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def serial(extent: Any) -> Any:
    """A loop."""
    return I.serial(i64(0), i64(extent))


def unrolled(extent: int) -> Any:
    """A loop of which every turn is written out."""
    return I.unroll(i64(0), i64(extent))


def vector(extent: int) -> Any:
    """A loop over lanes."""
    return I.vectorized(i64(0), i64(extent))
