"""CPU schedule of the time loops of LSTM, GRU and RNN."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV


class CPURecurrent:
    """The recurrent matrix transposed once, then every step a product along its rows.

        rt[j / 64, k, j % 64] = r[j, k]          # once a call: steps read it many times
        for step:
            for 32 or 64 gates j:                # lanes, sums in registers
                for k: sums[:] += h[k] * rt[j / 64, k, :]
            elementwise blocks, lanes along the hidden units

    A step streams the whole matrix (1 MB for 256 hidden units) from the L2 or L3 cache, so it is
    bound by that; as dot products along the rows of r it would be bound by adding up lanes.

    Matches: a function with the attribute "athanor.op" of lstm, gru or rnn.
    Declines (None): any other function, and a hidden size that has no vector as a divisor.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        kind = func.attrs.get(blocks.KIND) if func.attrs else None
        if kind is None or str(kind) not in ("lstm", "gru", "rnn"):
            return None
        # Steps depend on each other through h, which the scheduler takes for a race.
        sch = blocks.open_schedule(func, enable_check=False)
        steps = sch.get_child_blocks(sch.get_sblock("root"))
        products = [b for b in steps if blocks.iterator_kinds(sch, b).endswith("R")]
        lanes = _lanes(sch, products, target)
        if lanes is None:
            return None
        for block in steps:
            if sch.get_loops(block) and not any(blocks.same(sch, block, p) for p in products):
                _vectorize(sch, sch.get_loops(block)[-1], 2 * target.lanes(32))
        _transpose_matrix(sch, products[0], lanes)
        for block in products:
            _multiply(sch, block, lanes, target)
        return sch


def _lanes(sch: s_tir.Schedule, products: list[Block], target: TargetSpec) -> int | None:
    """Gates computed at once: up to 8 vectors, a divisor of the hidden size."""
    if not products or _matrix_index(sch, products[0]) is None:
        return None
    hidden = blocks.extents(sch, products[0])[-1]
    lanes = 8 * target.lanes(32)
    while hidden is None or hidden % lanes:
        lanes //= 2
        if lanes < target.lanes(32):
            return None
    return lanes


def _transpose_matrix(sch: s_tir.Schedule, product: Block, lanes: int) -> None:
    """All products read the matrix from panels of `lanes` gates, filled before the first step.

    16 rows at a time: with more, rows a power of two apart evict each other from the L1 cache.
    """
    matrix = _matrix_index(sch, product)
    assert matrix is not None
    copy = sch.cache_read(product, matrix, "global")
    sch.transform_layout(copy, ("write", 0), lambda j, k: (j // lanes, k, j % lanes))
    *_, j, k = sch.get_loops(copy)
    few = min(16, lanes)
    panel, j_out, j_in = sch.split(j, [None, lanes // few, few])
    sch.reorder(panel, j_out, k, j_in)


def _multiply(sch: s_tir.Schedule, block: Block, lanes: int, target: TargetSpec) -> None:
    *_, gate, depth = sch.get_loops(block)
    outer, vectors, lane = sch.split(gate, [None, lanes // target.lanes(32), target.lanes(32)])
    sch.reorder(outer, depth, vectors, lane)
    sch.vectorize(lane)
    sch.unroll(vectors)
    start = sch.decompose_reduction(block, depth)
    *_, vectors, lane = sch.get_loops(start)
    sch.vectorize(lane)
    sch.unroll(vectors)


def _matrix_index(sch: s_tir.Schedule, block: Block) -> int | None:
    """Which read of the product is the matrix: the one that has both its iterators."""
    stmt = sch.get(block)
    gate, depth = [iterator.var for iterator in stmt.iter_vars][-2:]
    for index, read in enumerate(stmt.reads):
        starts = [dim.min for dim in read.region]
        if len(starts) == 2 and _uses(starts[0], gate) and starts[1].same_as(depth):
            return index
    return None


def _uses(value: tirx.Expr, variable: tirx.Var) -> bool:
    return any(variable.same_as(other) for other in tirx.analysis.undefined_vars(value))


def _vectorize(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, lanes: int) -> None:
    extent = blocks.constant(sch.get(loop).extent)
    if extent is not None and extent % lanes == 0:
        _, lane = sch.split(loop, [None, lanes])
        sch.vectorize(lane)
