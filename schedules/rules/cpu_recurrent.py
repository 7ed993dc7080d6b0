"""CPU schedule of the time loops of LSTM, GRU and RNN."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors, most_pixels
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV
LoopRV = s_tir.schedule.LoopRV

MOST_ROWS = 8
"""Of a tile; more would leave registers for one vector of gates."""


class CPURecurrent:
    """Every step a product along the packed rows of the recurrence matrix.

        for direction, chunk of the batch's rows in parallel(...):
            for step:
                for a panel of gates j:
                  for up to 8 rows of the chunk:           # lanes are gates, sums in registers
                    for k: sums[rows, :] += h[rows, k] * r[j / panel, k, :]
                elementwise blocks, lanes along the hidden units

    A step streams the whole matrix (1 MB for 256 hidden units) from the L2 or L3 cache and is
    bound by that, so all rows of a chunk that have registers use what passes by. Which chunks
    there are is the kernel's: rows don't depend on each other, so each runs all its steps alone.

    Matches: a function with the attribute "athanor.op" of lstm, gru or rnn.
    Declines (None): any other function, and panels that are no whole vectors.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        kind = func.attrs.get(blocks.KIND) if func.attrs else None
        if kind is None or str(kind) not in ("lstm", "gru", "rnn"):
            return None
        # Steps depend on each other through h, which the scheduler takes for a race.
        sch = blocks.open_schedule(func, enable_check=False)
        steps = sch.get_child_blocks(sch.get_sblock("root"))
        products = [b for b in steps if "R" in blocks.iterator_kinds(sch, b)]
        panel = _panel(sch, products)
        if panel is None or panel % target.lanes(32):
            return None
        for block in steps:
            if sch.get_loops(block) and not any(blocks.same(sch, block, p) for p in products):
                _vectorize(sch, sch.get_loops(block)[-1], 2 * target.lanes(32))
        for block in products:
            _multiply(sch, block, panel, target)
        direction, chunk, *_ = sch.get_loops(products[0])
        task = sch.fuse(direction, chunk)
        if blocks.constant(sch.get(task).extent) != 1:
            sch.parallel(task)
        return sch


def _panel(sch: s_tir.Schedule, products: list[Block]) -> int | None:
    """Gates that lie together in the packed matrix."""
    for read in sch.get(products[0]).reads if products else ():
        if len(read.source.shape) == 4:
            return blocks.constant(read.source.shape[-1])
    return None


def _multiply(sch: s_tir.Schedule, block: Block, panel: int, target: TargetSpec) -> None:
    *_, row, gate, depth = sch.get_loops(block)
    lanes = target.lanes(32)
    batch = blocks.constant(sch.get(row).extent) or 1
    counts = divisors(panel // lanes)
    fitting = [d for d in divisors(batch) if d <= MOST_ROWS and most_pixels(1, target) >= d]
    rows = decide(sch, "rows", divisors(batch), max(fitting))
    wide = [v for v in counts if v <= 8 and most_pixels(v, target) >= min(rows, max(fitting))]
    vectors = decide(sch, "vectors", counts, max(wide))
    row, row_in = sch.split(row, [None, rows])
    outer, vector, lane = sch.split(gate, [None, vectors, lanes])
    sch.reorder(outer, row, depth, row_in, vector, lane)
    _unroll_lanes(sch, row_in, vector, lane)
    start = sch.decompose_reduction(block, depth)
    _unroll_lanes(sch, *sch.get_loops(start)[-3:])


def _unroll_lanes(sch: s_tir.Schedule, row: LoopRV, vector: LoopRV, lane: LoopRV) -> None:
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)


def _vectorize(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, most: int) -> None:
    """Vectors of `most` lanes, or of half as many where they don't divide the loop."""
    extent = blocks.constant(sch.get(loop).extent)
    lanes = next((n for n in (most, most // 2) if extent is not None and extent % n == 0), None)
    if lanes is not None:
        _, lane = sch.split(loop, [None, lanes])
        sch.vectorize(lane)
