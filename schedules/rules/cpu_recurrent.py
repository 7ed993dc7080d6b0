"""CPU schedule of the time loops of LSTM, GRU and RNN."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors, most_pixels
from athanor.targets.target import TargetSpec

Block = s_tir.schedule.SBlockRV
LoopRV = s_tir.schedule.LoopRV


class CPURecurrent:
    """Every step a product along the packed rows of the recurrence matrix.

        for direction in parallel(...):
            for step:
                for 128 gates j, up to 4 rows of the batch:    # lanes, sums in registers
                    for k: sums[rows, :] += h[rows, k] * r[j / 128, k, :]
                elementwise blocks, lanes along the hidden units

    A step streams the whole matrix (1 MB for 256 hidden units) from the L2 or L3 cache and is
    bound by that, so all rows of a batch that have registers use what passes by.

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
        panel = _panel(sch, products)
        if panel is None or panel % target.lanes(32):
            return None
        for block in steps:
            if sch.get_loops(block) and not any(blocks.same(sch, block, p) for p in products):
                _vectorize(sch, sch.get_loops(block)[-1], 2 * target.lanes(32))
        for block in products:
            _multiply(sch, block, panel, target)
        direction = sch.get_loops(products[0])[0]
        if blocks.constant(sch.get(direction).extent) != 1:
            sch.parallel(direction)
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
    together = max(d for d in divisors(batch) if d <= 4)
    rows = decide(sch, "rows", divisors(batch), together)
    fits = [v for v in divisors(panel // lanes) if most_pixels(v, target) >= together]
    vectors = decide(sch, "vectors", divisors(panel // lanes), max(v for v in fits if v <= 8))
    row, row_in = sch.split(row, [None, rows])
    outer, vector, lane = sch.split(gate, [None, vectors, lanes])
    sch.reorder(row, outer, depth, row_in, vector, lane)
    _unroll_lanes(sch, row_in, vector, lane)
    start = sch.decompose_reduction(block, depth)
    _unroll_lanes(sch, *sch.get_loops(start)[-3:])


def _unroll_lanes(sch: s_tir.Schedule, row: LoopRV, vector: LoopRV, lane: LoopRV) -> None:
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)


def _vectorize(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, lanes: int) -> None:
    extent = blocks.constant(sch.get(loop).extent)
    if extent is not None and extent % lanes == 0:
        _, lane = sch.split(loop, [None, lanes])
        sch.vectorize(lane)
