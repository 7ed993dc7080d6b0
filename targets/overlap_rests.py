"""The last tile of a line moved back to where it is whole."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer, detect_linear_equation

OVERLAP = "athanor.overlap"
"""Annotation of a loop over tiles: [elements of the line, of a tile], the second not the larger. So
a schedule rule asks for it where what a tile stores depends on nothing that any tile stores."""


@tvm.transform.module_pass(opt_level=0, name="OverlapRests")
class OverlapRests:
    """Let the last tile of a line begin early enough to be whole, instead of ending it short.

        for step in range(4):                                  # OVERLAP: [100, 32]
            for lane in range(32):
                if step * 32 + lane < 100:
                    y[step * 32 + lane] = f(step * 32 + lane)
    =>
        for step in range(4):
            for lane in range(32):
                y[min(step * 32, 68) + lane] = f(min(step * 32, 68) + lane)

    Some elements are computed twice, and to the same value. A rest of its own would be computed
    element by element, which takes as long as many tiles. A line is left as it is where it goes
    from one scratch buffer to another of the same size: they may become one (StorageRewrite), and
    the second time it would start from what the first time left. While blocks are still there,
    after scheduling: the scheduler wants bindings without a minimum.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                params = list(func.params)

                def overlap(loop: tirx.For, params: list[tirx.Var] = params) -> tirx.For:
                    return _overlapping(loop, params)

                body = tvm_ffi.structural_map(func.body, (tirx.For, overlap), order="post")
                mod[variable] = func.with_body(body)
        return mod


def _overlapping(loop: tirx.For, params: list[tirx.Var]) -> tirx.For:
    if OVERLAP not in loop.annotations or _may_be_in_place(loop, params):
        return loop
    length, tile = (int(size) for size in loop.annotations[OVERLAP])
    inner: list[tirx.For] = []

    def see(each: tirx.For) -> None:
        if not isinstance(each.extent, tirx.IntImm) or int(each.extent) > 1:
            inner.append(each)

    tvm_ffi.structural_walk(loop.body, (tirx.For, see))

    def moved(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        return _moved(realize, loop, inner, length, tile)

    body = tvm_ffi.structural_map(loop.body, (s_tir.SBlockRealize, moved))
    kept = {key: value for key, value in loop.annotations.items() if key != OVERLAP}
    kind, binding = loop.kind, loop.thread_binding
    return tirx.For(loop.loop_var, loop.min, loop.extent, kind, body, binding, kept)


def _may_be_in_place(loop: tirx.For, params: list[tirx.Var]) -> bool:
    """Whether what a block writes may get the memory of what it reads from before the loop."""
    found: list[bool] = []
    made_inside: list[tirx.Buffer] = []

    def note(block: s_tir.SBlock) -> None:
        made_inside.extend(region.source for region in block.writes)

    def see(block: s_tir.SBlock) -> None:
        written = [r.source for r in block.writes if not any(r.source.same_as(p) for p in params)]
        known = [*params, *made_inside]
        read = [r.source for r in block.reads if not any(r.source.same_as(k) for k in known)]
        found.extend(
            True
            for source in read
            for made in written
            if not source.same_as(made) and _elements(source) == _elements(made)
        )

    tvm_ffi.structural_walk(loop.body, (s_tir.SBlock, note))
    tvm_ffi.structural_walk(loop.body, (s_tir.SBlock, see))
    return bool(found)


def _elements(buffer: tirx.Buffer) -> int | None:
    sizes = [int(size) for size in buffer.shape if isinstance(size, tirx.IntImm)]
    return math.prod(sizes) if len(sizes) == len(buffer.shape) else None


def _moved(
    realize: s_tir.SBlockRealize, loop: tirx.For, loops: list[tirx.For], length: int, tile: int
) -> s_tir.SBlockRealize:
    """The block with whole tiles of the axis that has that length and is tiled by `loop`.

    loops: those inside of it.
    """
    analyzer = Analyzer()
    inner = [each.loop_var for each in loops]
    several = not _is(loop.extent, 1)
    predicate = realize.predicate
    values = []
    for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        values.append(value)
        terms = detect_linear_equation(value, inner)
        if not terms or not _is(axis.dom.extent, length):
            continue
        lanes = [variable for variable, factor in zip(inner, terms, strict=False) if int(factor)]
        begin = analyzer.simplify(terms[-1])
        outside = tirx.analysis.undefined_vars(begin)
        if not lanes or not outside or (several and not _uses(begin, [loop.loop_var])):
            continue  # another axis of the same length
        # Loops above may go on where the line has ended.
        conditions = [c for c in _conjuncts(predicate) if not _uses(c, [*lanes, *outside])]
        predicate = begin < length
        for condition in conditions:
            predicate = tirx.And(predicate, condition)
        begin = tirx.min(begin, tirx.IntImm("int64", length - tile))
        for variable, factor in zip(inner, terms[:-1], strict=True):
            begin = begin + variable * factor
        values[-1] = begin
    return s_tir.SBlockRealize(values, predicate, realize.block)


def _conjuncts(condition: tirx.Expr) -> list[tirx.Expr]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _uses(expr: ir.Expr, variables: list[tirx.Var]) -> bool:
    used = tirx.analysis.undefined_vars(expr)
    return any(one.same_as(variable) for one in used for variable in variables)


def _is(extent: ir.Expr, length: int) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent) == length
