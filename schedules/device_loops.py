"""TensorIR of kernels that are written rather than scheduled: loops over blocks and threads."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Range

from athanor.schedules.rules.by_hand import SCHEDULED


def int64(value: int | Expr) -> Expr:
    """As the type that indices have here."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value.astype("int64")


def bound(var: tirx.Var, extent: int | Expr, axis: str, body: tirx.Stmt) -> tirx.Stmt:
    """`body` for every block or thread along `axis`, `blockIdx.x`, ...; `var` is its number."""
    iterator = tirx.IterVar(Range(0, int64(extent)), tirx.Var(axis, "int64"), 1, axis)
    return tirx.For(
        var, int64(0), int64(extent), tirx.ForKind.THREAD_BINDING, body, thread_binding=iterator
    )


def loop(
    var: tirx.Var, extent: int, body: tirx.Stmt, kind: tirx.ForKind = tirx.ForKind.SERIAL
) -> tirx.Stmt:
    """`body` so often."""
    return tirx.For(var, int64(0), int64(extent), kind, body)


def kernel(
    func: tirx.PrimFunc, nests: Sequence[tirx.Stmt], buffers: Sequence[tirx.Buffer]
) -> tirx.PrimFunc:
    """A function of the parameters of `func` with these nests, a launch each, and own buffers."""
    body = nests[0] if len(nests) == 1 else tirx.SeqStmt(list(nests))
    root = s_tir.SBlock([], [], [], "root", body, alloc_buffers=list(buffers))
    made = tirx.PrimFunc(
        func.params, s_tir.SBlockRealize([], True, root), func.ret_type, func.attrs
    )
    return made.with_attr(SCHEDULED, True)
