"""A prim_func as a device runs it: what the compiler has to know to launch it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr, IRModule


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    function: str
    arguments: tuple[int | Expr, ...]
    """An int is the number of a pointer, an expression a scalar."""
    types: tuple[str, ...]
    """Of the arguments; "handle" for pointers."""
    extents: tuple[int | Expr, ...]
    """Blocks along x, y, z; threads along x, y, z."""
    shared_bytes: int
    """Dynamic shared memory."""


@dataclass(frozen=True)
class Scratch:
    """Device memory that a kernel needs for its time."""

    dtype: str
    elements: int | Expr


@dataclass(frozen=True)
class DeviceKernel:
    """A prim_func as the device runs it.

    Its pointers are the buffers among the prim_func's parameters, then `scratch`.
    """

    functions: IRModule
    launches: tuple[Launch, ...]
    scratch: tuple[Scratch, ...]
    num_buffers: int
    dims: tuple[tirx.Var, ...]
    """The scalars that its caller gives: scalar parameters, then symbolic dimensions."""
