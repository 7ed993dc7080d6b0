"""Operands fetched into the cache in the order in which they lie, before they are read."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule

from athanor.targets.prefetch_weights import LINE_BYTES, first_load, prefetch

AHEAD = "athanor.prefetch.ahead"
"""Annotation of a loop: [elements, distance, names of operands]. Each iteration asks for so many
elements of these, of which the first lies `distance` behind the first that the iteration reads."""


@tvm.transform.module_pass(opt_level=0, name="PrefetchAhead")
class PrefetchAhead:
    """Let each iteration of a loop begin by asking for what a later one reads, line by line.

        for row in range(133):                                 # AHEAD: [768, 768, x]
            ...x[row * 768 + ...]...
    =>
        for row in range(133):
            for line in range(48):
                prefetch(x[row * 768 + 768 + line * 16])
            ...

    Rules ask for it where a loop reads what it has just read, and the way to the next cache would
    lie idle; and where it reads several rows by turns, which memory delivers at half its speed.
    After FlattenBuffer. Behind the operand the addresses may be of anybody; a prefetch of those
    does nothing.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, (tirx.For, _prefetching), order="post")
                mod[variable] = func.with_body(body)
        return mod


def _prefetching(loop: tirx.For) -> tirx.For:
    if AHEAD not in loop.annotations:
        return loop
    elements, distance, *names = loop.annotations[AHEAD]
    kept = {key: value for key, value in loop.annotations.items() if key != AHEAD}
    reads = [first_load(loop.body, str(name)) for name in names]
    found = [
        _prefetches(loop, read, int(elements), int(distance))
        for read in reads
        if read is not None and len(read.indices) == 1
    ]
    body = tirx.SeqStmt([*found, loop.body]) if found else loop.body
    kind, binding = loop.kind, loop.thread_binding
    return tirx.For(loop.loop_var, loop.min, loop.extent, kind, body, binding, kept)


def _prefetches(loop: tirx.For, read: ir.TensorLoad, elements: int, distance: int) -> tirx.Stmt:
    inner: list[tirx.For] = []
    tvm_ffi.structural_walk(loop.body, (tirx.For, inner.append))
    begin = {each.loop_var: each.min for each in inner}
    start = tvm_ffi.structural_map(read.indices[0], (tirx.Var, lambda var: begin.get(var, var)))
    per_line = LINE_BYTES // tvm.DataType(str(read.source.dtype)).itemsize
    line = tirx.Var("line", str(start.ty.dtype))
    zero = tirx.const(0, str(start.ty.dtype))
    lines = tirx.const(-(-elements // per_line), str(start.ty.dtype))
    call = prefetch(read.source, start + distance + line * per_line, level=3)
    return tirx.For(line, zero, lines, tirx.ForKind.SERIAL, call)
