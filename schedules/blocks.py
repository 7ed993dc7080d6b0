"""Questions about blocks and loops; the one home of unstable TVM names."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.tirx.buffer import is_buffer_var

KIND = "athanor.op"
"""Block annotation that says what a block computes: "conv2d", "matmul", ... (te attrs)."""

NOMINAL = "athanor.nominal"
"""Block annotation: how many operations the model asks for where the block's loops do how many, a
pair. What is without it does what is asked for: no zeros, no transforms."""


def find_kind(sch: s_tir.Schedule, *kinds: str) -> tuple[s_tir.schedule.SBlockRV, str] | None:
    """The first block whose KIND annotation is one of `kinds`, and which."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        kind = sch.get(block).annotations.get(KIND)
        if kind is not None and str(kind) in kinds:
            return block, str(kind)
    return None


_realize = tvm.get_global_func("s_tir.schedule.GetSBlockRealize")
_EXPENSIVE = ("exp", "log", "tanh", "sigmoid", "erf", "pow", "sin", "cos", "tan", "sqrt")
_INLINE_COST_LIMIT = 1000


def open_schedule(func: tirx.PrimFunc, enable_check: bool = True) -> s_tir.Schedule:
    """A schedule of `func` whose failing primitives raise without rendering the whole IR.

    Without `enable_check`, `parallel`, `vectorize` and `decompose_reduction` leave it to the rule
    that they are right: after `merge` the scheduler no longer sees that they are.
    """
    return s_tir.Schedule(
        func, debug_mask="none", error_render_level="none", enable_check=enable_check
    )


def constant(value: tirx.Expr | int) -> int | None:
    """The value as an int; None where it is symbolic."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, tirx.IntImm) else None


def leaf_blocks(sch: s_tir.Schedule) -> list[s_tir.schedule.SBlockRV] | None:
    """The blocks of a function in order, where each has a perfect loop nest of its own.

    None for anything else: no root block, loops shared by blocks, blocks in blocks, a block whose
    iterators are not bound one to one to its loops.
    """
    body = sch.mod["main"].body
    if not isinstance(body, s_tir.SBlockRealize) or body.block.iter_vars:
        return None
    blocks = list(sch.get_child_blocks(sch.get_sblock(body.block.name_hint)))
    nests = body.block.body
    count = len(nests.seq) if isinstance(nests, tirx.SeqStmt) else 1
    if count != len(blocks) or not all(_has_plain_nest(sch, block) for block in blocks):
        return None
    return blocks


def _has_plain_nest(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    realize = _realize(sch, block)
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    if not loops and all(constant(i.dom.extent) == 1 for i in realize.block.iter_vars):
        return constant(realize.predicate) == 1  # a scalar
    if len(loops) != len(realize.iter_values) or constant(realize.predicate) != 1:
        return False
    if sch.get_child_blocks(block) or any(constant(loop.min) != 0 for loop in loops):
        return False
    pairs = zip(loops, realize.iter_values, realize.block.iter_vars, strict=True)
    return all(
        value.same_as(loop.loop_var) and constant(iterator.dom.min) == 0
        for loop, value, iterator in pairs
    )


def iterator_kinds(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> str:
    """One letter an iterator: S spatial, R reduction, O anything else; for example "SSR"."""
    letters = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    return "".join(letters.get(i.iter_type, "O") for i in sch.get(block).iter_vars)


def iterator_values(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> list[tirx.Expr]:
    """What each iterator of a block is bound to, in terms of its loops."""
    return list(_realize(sch, block).iter_values)


def predicate(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> tirx.Expr:
    """The condition under which a block runs (`T.where`)."""
    return _realize(sch, block).predicate


def is_spatial(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Whether a block computes each element on its own and stores it once."""
    stmt = sch.get(block)
    return (
        set(iterator_kinds(sch, block)) <= {"S"}
        and isinstance(stmt.body, tirx.BufferStore)
        and len(stmt.writes) == 1
    )


def extents(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> list[int | None]:
    """Extents of a block's loops; None for a symbolic one."""
    return [constant(sch.get(loop).extent) for loop in sch.get_loops(block)]


def expression_cost(stmt: tirx.Stmt) -> int:
    """Arithmetic per element, in units of one plain operation; a transcendental counts 20."""
    cost = 0

    def visit_load(_load: ir.TensorLoad, _visitor: tvm_ffi.StructuralVisitor) -> None:
        return None

    def visit_call(call: ir.Call, visitor: tvm_ffi.StructuralVisitor) -> None:
        nonlocal cost
        name = getattr(call.op, "name", "").rsplit(".", 1)[-1]
        cost += 20 if any(word in name for word in _EXPENSIVE) else 1
        visitor.default_visit(call)

    def visit_binary(value: tirx.expr.BinaryOpExpr, visitor: tvm_ffi.StructuralVisitor) -> None:
        nonlocal cost
        cost += 1
        visitor.default_visit(value)

    binary = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)
    visitors = [(ir.TensorLoad, visit_load), (ir.Call, visit_call), (binary, visit_binary)]
    tvm_ffi.structural_visit(stmt, visitors)
    return cost


def loads(stmt: tirx.Stmt | tirx.Expr) -> list[ir.TensorLoad]:
    """Every buffer read in a statement's text, in order; indices included."""
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(stmt, (ir.TensorLoad, lambda load: found.append(load)))
    return found


def has_conditions(stmt: tirx.Stmt) -> bool:
    """Whether a value is guarded, as padding is: `if_then_else(inside, data[...], 0)`."""
    found: list[ir.Call] = []
    tvm_ffi.structural_walk(stmt, (ir.Call, lambda call: found.append(call)))
    return any(getattr(call.op, "name", "").endswith("if_then_else") for call in found)


def inline_spatial(
    sch: s_tir.Schedule, leaves: list[s_tir.schedule.SBlockRV]
) -> list[s_tir.schedule.SBlockRV]:
    """Inline every spatial block into its readers where that is possible; the blocks left.

    An inlined expression is repeated at each read of it, so a long chain whose every link reads
    the one before twice would double at every link: a block that has grown past
    `_INLINE_COST_LIMIT` stays as it is.
    """
    left = []
    for block in leaves:
        if is_spatial(sch, block) and expression_cost(sch.get(block).body) < _INLINE_COST_LIMIT:
            try:
                sch.compute_inline(block)
                continue
            except s_tir.ScheduleError:
                pass  # an output, or read by a block that is not its own
        left.append(block)
    return left


def same(sch: s_tir.Schedule, one: s_tir.schedule.SBlockRV, other: s_tir.schedule.SBlockRV) -> bool:
    """Whether two handles mean one block."""
    return sch.get(one).same_as(sch.get(other))


def inline_epilogue(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV
) -> s_tir.schedule.SBlockRV | None:
    """Fold the spatial blocks behind `block` into one; that one, reading `block` directly.

    The chain ends where a result is needed twice, leaves the function, or changes shape. None if
    `block` itself is not read by exactly one spatial block.
    """
    readers = sch.get_consumers(block)
    if len(readers) != 1 or not is_spatial(sch, readers[0]):
        return None
    final = readers[0]
    while links := _foldable(sch, final):
        for link in links[:-1]:
            sch.compute_inline(link)
        final = links[-1]
    # What else the chain reads and is cheap enough to compute on the spot: broadcasts, casts.
    for other in leaf_blocks(sch) or []:
        if same(sch, other, final) or same(sch, other, block) or not is_spatial(sch, other):
            continue
        feeds = sch.get_consumers(other)
        if len(feeds) == 1 and same(sch, feeds[0], final):
            if expression_cost(sch.get(other).body) < _INLINE_COST_LIMIT:
                sch.compute_inline(other)
    return final


def _foldable(sch: s_tir.Schedule, first: s_tir.schedule.SBlockRV) -> list[s_tir.schedule.SBlockRV]:
    """`first` and blocks behind it that can become one, in order; empty where there are none.

    A value may be read several times on the way, as x is in x * sigmoid(x): what follows then
    counts up to where its parts come together again.
    """
    links, costs = [first], [expression_cost(sch.get(first).body)]
    for block in leaf_blocks(sch) or []:
        producers = sch.get_producers(block)
        before = [
            index
            for index, link in enumerate(links)
            if any(same(sch, link, producer) for producer in producers)
        ]
        if not before:
            continue
        if not all(_continues(sch, links[index], block) for index in before):
            return []
        # What is read twice is computed twice, until LLVM sees that it is the same.
        read = [load.source for load in loads(sch.get(block).body)]
        cost = expression_cost(sch.get(block).body)
        for index in before:
            buffer = sch.get(links[index]).writes[0].source
            cost += costs[index] * sum(source.same_as(buffer) for source in read)
        if cost >= _INLINE_COST_LIMIT:
            return []
        links.append(block)
        costs.append(cost)
        if _end_in_last(sch, links):
            return links
    return []


def _end_in_last(sch: s_tir.Schedule, links: list[s_tir.schedule.SBlockRV]) -> bool:
    """Whether nobody but links reads what the links before the last one store."""
    outputs = [param for param in sch.mod["main"].params if is_buffer_var(param)]
    for link in links[:-1]:
        if any(sch.get(link).writes[0].source.same_as(output) for output in outputs):
            return False
        for reader in sch.get_consumers(link):
            if not any(same(sch, reader, other) for other in links):
                return False
    return True


def _continues(
    sch: s_tir.Schedule, producer: s_tir.schedule.SBlockRV, reader: s_tir.schedule.SBlockRV
) -> bool:
    """Whether `reader` is spatial, of the producer's shape, and reads it element by element."""
    if not is_spatial(sch, reader):
        return False
    buffer = sch.get(producer).writes[0].source
    stmt = sch.get(reader)
    iterators = [iterator.var for iterator in stmt.iter_vars]
    stores = [tvm_ffi.structural_equal(a, b) for a, b in _pairs(stmt.body.indices, iterators)]
    reads = [
        tvm_ffi.structural_equal(a, b)
        for load in loads(stmt.body)
        if load.source.same_as(buffer)
        for a, b in _pairs(load.indices, iterators)
    ]
    return bool(reads) and all(stores) and all(reads)


def _pairs(
    indices: Sequence[tirx.Expr], iterators: Sequence[tirx.Var]
) -> list[tuple[tirx.Expr, tirx.Expr | None]]:
    if len(indices) != len(iterators):
        return [(index, None) for index in indices]
    return list(zip(indices, iterators, strict=True))
