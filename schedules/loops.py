"""Questions about loops and small steps on them, shared by rules of whole rows."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx

from athanor.schedules import blocks

Block = s_tir.schedule.SBlockRV
Loop = s_tir.schedule.LoopRV


def match_prefix(sch: s_tir.Schedule, block: Block, outer: list[tirx.Expr]) -> list[Loop] | None:
    """The leading loops of `block` that run over `outer`, split where a group of channels is."""
    loops = list(sch.get_loops(block))
    found: list[Loop] = []
    for extent in outer:
        while loops and blocks.constant(sch.get(loops[0]).extent) == 1:
            found.append(loops.pop(0))
        if not loops:
            return None
        mine, wanted = blocks.constant(sch.get(loops[0]).extent), blocks.constant(extent)
        if equal(sch.get(loops[0]).extent, extent):
            found.append(loops.pop(0))
        elif mine is not None and wanted is not None and mine % wanted == 0:
            group, rest = sch.split(loops.pop(0), [wanted, None])
            found.append(group)
            loops.insert(0, rest)
        else:
            return None
    return found


def loop_kinds(sch: s_tir.Schedule, block: Block) -> str:
    """S or R for every loop around a block, by the iterators that it drives."""
    reduced: list[tirx.Var] = []
    for kind, value in zip(
        blocks.iterator_kinds(sch, block), blocks.iterator_values(sch, block), strict=True
    ):
        if kind == "R":
            tvm_ffi.structural_walk(value, (tirx.Var, lambda var: reduced.append(var)))
    variables = [sch.get(loop).loop_var for loop in sch.get_loops(block)]
    return "".join("R" if any(v.same_as(r) for r in reduced) else "S" for v in variables)


def has_predicate(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether a block runs under a condition."""
    return blocks.constant(blocks.predicate(sch, block)) != 1


def is_unit(sch: s_tir.Schedule, loop: Loop) -> bool:
    """Whether a loop has one iteration."""
    return blocks.constant(sch.get(loop).extent) == 1


def unit_loop(sch: s_tir.Schedule, block: Block) -> Loop:
    """A new loop of one iteration around a block."""
    loops = sch.get_loops(block)
    return sch.add_unit_loop(loops[0] if loops else block)


def fuse(sch: s_tir.Schedule, loops: list[Loop]) -> Loop:
    """The loops as one."""
    return loops[0] if len(loops) == 1 else sch.fuse(*loops)


def among(sch: s_tir.Schedule, loop: Loop, others: list[Loop]) -> bool:
    """Whether a loop is one of `others`."""
    return any(sch.get(loop).loop_var.same_as(sch.get(other).loop_var) for other in others)


def equal(one: tirx.Expr, other: tirx.Expr) -> bool:
    """Whether two extents are known to be the same."""
    a, b = blocks.constant(one), blocks.constant(other)
    return a == b if a is not None or b is not None else tvm_ffi.structural_equal(one, other)
