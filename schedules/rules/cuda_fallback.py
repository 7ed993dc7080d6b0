"""GPU schedule of whatever no other rule takes."""

from __future__ import annotations

import math

from tvm import ir, s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.rules.by_hand import ByHand
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV

THREADS = 256
"""Of a block: eight warps hide each other's latency, and many blocks fit a multiprocessor."""
_FEW_OUTPUTS = 16_384
"""Fewer than this do not fill a GPU with a thread each: 132 multiprocessors of 2,048 threads."""
_WORTH_SHARING = 64
"""Elements of a sum from which on several threads share it."""


class CUDAFallback:
    """A thread for each result; a block of threads for each long sum where results are few.

        for spatial axes in blockIdx.x, threadIdx.x:
            result = 0; for reduction axes: result += ...

    Matches: functions of blocks with a loop nest each, of spatial and reduction axes alone.
    Declines (None): anything else, as scans, sorting and loops by hand; results of no elements.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        if ByHand().apply(func, target) is not None:
            return None
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves:
            return None
        left = blocks.inline_spatial(sch, leaves)
        if any(set(blocks.iterator_kinds(sch, block)) - set("SR") for block in left):
            return None
        written = [write.source for block in left for write in sch.get(block).writes]
        if any(blocks.constant(size) == 0 for buffer in written for size in buffer.shape):
            return None
        for block in left:
            bind(sch, block)
        return sch


def bind(sch: s_tir.Schedule, block: Block) -> None:
    """Give the loops of one block to blocks and threads."""
    kinds = blocks.iterator_kinds(sch, block)
    if not sch.get_loops(block):
        sch.bind(sch.add_unit_loop(block), "threadIdx.x")
        return
    pairs = list(zip(sch.get_loops(block), kinds, strict=True))
    spatial = [loop for loop, kind in pairs if kind == "S"]
    reduced = [loop for loop, kind in pairs if kind == "R"]
    if not spatial:
        spatial = [sch.add_unit_loop(pairs[0][0])]
    sch.reorder(*spatial, *reduced)
    outputs = _product(sch, spatial)
    length = _product(sch, reduced)
    outer = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    few = outputs is not None and outputs < _FEW_OUTPUTS
    if reduced and few and _can_share(sch, block):
        if length is None or length >= _WORTH_SHARING:
            if _share(sch, outer, reduced, length):
                return
    # A thread's sum stays in a register, and is stored once.
    sums = len(sch.get(block).writes) == 1 and sch.get(block).init is not None
    stored = sch.cache_write(block, 0, "local") if reduced and sums else None
    # No thread too many where results are few: the store of a scalar gets no condition.
    threads = THREADS if outputs is None else max(1, min(THREADS, outputs))
    blocks_loop, threads_loop = sch.split(outer, [None, threads])
    sch.bind(blocks_loop, "blockIdx.x")
    sch.bind(threads_loop, "threadIdx.x")
    if stored is not None:
        sch.reverse_compute_at(stored, threads_loop, preserve_unit_loops=True)
    if reduced and sch.get(block).init is not None:
        # Apart, for within the loops it would be missing where they run zero times; and last, or
        # the scheduler takes what remains for no reduction.
        sch.decompose_reduction(block, reduced[0])


def _can_share(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether TVM knows how threads bring their parts of the result together.

    It knows sums, products, maxima and minima, but not ArgMax, nor maxima that hand NaN on or
    start at an infinity.
    """
    stmt = sch.get(block)
    if stmt.init is None or not isinstance(stmt.body, tirx.BufferStore):
        return False
    value, start = stmt.body.value, stmt.init.value
    if isinstance(start, tirx.FloatImm) and not math.isfinite(start.value):
        return False
    if not isinstance(value, (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)):
        return False
    first = blocks.loads(value.a)
    return isinstance(value.a, ir.TensorLoad) and first[0].source.same_as(stmt.body.buffer)


def _share(
    sch: s_tir.Schedule,
    outer: s_tir.schedule.LoopRV,
    reduced: list[s_tir.schedule.LoopRV],
    length: int | None,
) -> bool:
    """One block of threads for each sum."""
    threads = THREADS
    while length is not None and threads > 32 and threads > length:
        threads //= 2
    inner = sch.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    rest, shared = sch.split(inner, [None, threads])
    sch.reorder(shared, rest)
    sch.bind(outer, "blockIdx.x")
    sch.bind(shared, "threadIdx.x")
    return True


def _product(sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV]) -> int | None:
    """How often the loops run together; None where a dimension is symbolic."""
    sizes = [blocks.constant(sch.get(loop).extent) for loop in loops]
    return math.prod(sizes) if None not in sizes else None  # pyright: ignore
