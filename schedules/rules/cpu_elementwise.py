"""CPU schedule of prim_funcs that compute every element on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm_ffi
from tvm import s_tir, sym, tirx

from athanor.schedules import access, blocks
from athanor.schedules.compute.matmul import flatten
from athanor.schedules.decisions import decide
from athanor.targets.target import TargetSpec

PARALLEL_BYTES = 64 * 1024
"""Below this much traffic (or as much arithmetic) waking a second core costs more than it gives."""

CHUNKS = (1024, 2048, 4096, 8192, 16384)
"""Elements of one task along a long axis; 4096 floats are half of a 32 KiB L1 cache."""


DEALT_AT_MOST = 8
"""Rows that the elements of one are dealt out from, each with a vector in a register."""


class CPUElementwise:
    """All links of a chain in one loop nest, vectors along the contiguous axis.

        for outer in parallel(...):                 # axes that cannot be walked as one
            for chunk, step, lane in inner axis:    # lane vectorized

    Neighbouring axes that every access walks as one are fused first, so that `relu(x + y)` of any
    rank is one flat loop, and a bias over channels leaves (batch, channel) and (row, column).

    Matches: every block is spatial, in a loop nest of its own; symbolic extents are welcome.
    Declines (None): reductions, opaque blocks, an axis of length zero.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or not all(blocks.is_spatial(sch, block) for block in leaves):
            return None
        if any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        for block in blocks.inline_spatial(sch, leaves):
            schedule_spatial(sch, block, target)
        return sch


def schedule_spatial(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: TargetSpec
) -> None:
    """Give a spatial block with plain loops the nest of `CPUElementwise`."""
    if not sch.get_loops(block):
        return
    _flatten(sch, block)
    loops = sch.get_loops(block)
    axes = access.block_axes(sch, block)
    worth = traffic(sch, block)
    groups = access.collapse(axes)
    fused = [_fuse(sch, [loops[index] for index in group]) for group in groups]
    inner_axes = [axes[index] for index in groups[-1]]
    *outer, inner = fused
    extent = blocks.constant(sch.get(inner).extent)
    lanes = vector_lanes(sch, block, target)
    contiguous = all(not axis.pinned and None not in axis.strides for axis in inner_axes) and set(
        inner_axes[-1].strides
    ) <= {0, 1}
    parallel = worth is None or worth > PARALLEL_BYTES
    long = extent is None or extent >= 2 * CHUNKS[0]
    if contiguous and (extent is None or extent >= lanes):
        if parallel and (long or not outer):
            chunk, step, lane = _split_chunks(sch, inner, extent, lanes)
            outer.append(chunk)
        else:
            step, lane = sch.split(inner, [None, lanes])
        if extent is None or extent % lanes:
            sch.annotate(step, "pragma_loop_partition_hint", 1)
        sch.vectorize(lane)
    elif contiguous and extent in (2, 4, 8, 16):
        sch.vectorize(inner)
    elif (
        len(outer) > 1
        and inner_axes[-1].pinned
        and extent is not None
        and 1 < extent <= DEALT_AT_MOST
    ):
        # Neighbours are computed in different ways: all of them in the body of the loop around
        # them, and LLVM makes vectors of that one's steps.
        sch.unroll(inner)
        outer.pop()
    elif any(axis.pinned for axis in inner_axes) and extent != 1:
        # A condition on the axis (concatenation, padding): cut it where the condition changes,
        # and LLVM makes vectors of the pieces.
        sch.annotate(inner, "pragma_loop_partition_hint", 1)
    elif dealt := _dealt(sch, block, axes[-1]):
        # Neighbours come from as many rows by turns: one of each in the body, and LLVM loads
        # vectors of the rows and shuffles them.
        step, turn = sch.split(inner, [None, dealt])
        sch.unroll(turn)
        if extent is None or extent % dealt:
            sch.annotate(step, "pragma_loop_partition_hint", 1)
    if parallel and outer:
        sch.parallel(_fuse(sch, outer))


def _flatten(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Three or more last axes that every access walks as one -> one axis, of the buffers too.

    With two, the quotient and the remainder of their fused loop add up to one address again; with
    more, TVM's simplifier does not see it, and every element would be divided out for itself.
    Accesses may begin at a distance, as those of a slice do, and axes before may lie elsewhere.
    """
    group = access.collapse(access.block_axes(sch, block))[-1]
    stmt = sch.get(block)
    store, loads = stmt.body, blocks.loads(stmt.body)
    iterators = [iterator.var for iterator in stmt.iter_vars]
    known = [blocks.constant(iterator.dom.extent) for iterator in stmt.iter_vars]
    sizes = [size for size in known if size is not None]
    if len(group) < 3 or len(sizes) < len(known):
        return
    first, rank, analyzer = group[0], len(sizes), sym.Analyzer()
    for iterator in stmt.iter_vars:
        analyzer.bind(iterator.var, iterator.dom)

    def moves(indices: Sequence[tirx.Expr]) -> bool:
        return any(access.uses(index, iterators[axis]) for index in indices for axis in group)

    def walks(indices: Sequence[tirx.Expr], buffer: tirx.Buffer) -> bool:
        """Whether the last indices are the iterators, the outermost at some distance."""
        shape = [blocks.constant(dim) for dim in buffer.shape]
        if len(indices) != rank or None in shape or moves(indices[:first]):
            return False
        for axis in group:
            distance = blocks.constant(analyzer.simplify(indices[axis] - iterators[axis]))
            inside = any(sizes[before] > 1 for before in range(first, axis))
            if distance is None or (inside and (distance or shape[axis] != sizes[axis])):
                return False
        return True

    moved = [load.source for load in loads if moves(load.indices)]
    if not walks(store.indices, store.buffer):
        return
    for load in loads:
        if any(load.source.same_as(buffer) for buffer in moved):
            if not walks(load.indices, load.source):
                return

    def line(dims: Sequence[int]) -> tirx.IndexMap:
        return tirx.IndexMap.from_func(
            lambda *indices: [*indices[:first], flatten(indices[first:], dims)],
            rank,
            index_dtype="int64",
        )

    def lay_out(kind: str, index: int, buffer: tirx.Buffer) -> None:
        dims = [int(dim) for dim in buffer.shape[first:]]
        sch.transform_layout(block, (kind, index), line(dims))

    for index, read in enumerate(stmt.reads):
        if any(read.source.same_as(buffer) for buffer in moved):
            lay_out("read", index, read.source)
    lay_out("write", 0, store.buffer)
    sch.transform_block_layout(block, line(sizes[first:]))


def _dealt(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, axis: access.Axis) -> int | None:
    """From how many rows, if few, the elements along the last axis come by turns."""
    if axis.extent is not None and axis.extent <= DEALT_AT_MOST:
        return axis.extent
    stmt = sch.get(block)
    last, counts = stmt.iter_vars[-1].var, set()

    def count(quotient: tirx.FloorMod | tirx.FloorDiv) -> None:
        number = blocks.constant(quotient.b)
        if number is not None and access.uses(quotient.a, last):
            counts.add(number)

    for load in blocks.loads(stmt.body):
        for index in load.indices:
            for kind in (tirx.FloorMod, tirx.FloorDiv):
                tvm_ffi.structural_walk(index, (kind, count))
    return counts.pop() if len(counts) == 1 and max(counts) <= DEALT_AT_MOST else None


def traffic(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> int | None:
    """Bytes that a block stores and loads, plus arithmetic in the same measure; None: unknown."""
    sizes = blocks.extents(sch, block)
    if None in sizes:
        return None
    store = sch.get(block).body
    buffers = [store.buffer, *(load.source for load in blocks.loads(store))]
    width = sum(_bits(buffer) for buffer in buffers) // 8
    return math.prod(size for size in sizes if size) * (width + blocks.expression_cost(store))


def vector_lanes(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, target: TargetSpec) -> int:
    """Two registers of the stored type, at most 32 lanes: enough work to hide latency."""
    return min(32, 2 * target.lanes(max(8, _bits(sch.get(block).body.buffer))))


def _bits(buffer: tirx.Buffer) -> int:
    return buffer.dtype.bits


def _fuse(sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV]) -> s_tir.schedule.LoopRV:
    return loops[0] if len(loops) == 1 else sch.fuse(*loops)


def _split_chunks(
    sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, extent: int | None, lanes: int
) -> list[s_tir.schedule.LoopRV]:
    """A long axis -> tasks, vectors, lanes. A task length that divides the axis is preferred."""
    candidates = [chunk // lanes for chunk in CHUNKS]
    preferred = 4096 // lanes
    if extent is not None:
        steps = max(1, extent // lanes)
        candidates = sorted({*candidates, *_divisors_near(steps, preferred)})
        if extent % lanes == 0:
            divisors = _divisors_near(steps, preferred)
            preferred = divisors[-1] if divisors else preferred
    return list(sch.split(loop, [None, decide(sch, "chunk", candidates, preferred), lanes]))


def _divisors_near(number: int, goal: int) -> list[int]:
    """Divisors of `number` between a quarter of `goal` and twice it."""
    return [d for d in range(max(1, goal // 4), 2 * goal + 1) if number % d == 0]
