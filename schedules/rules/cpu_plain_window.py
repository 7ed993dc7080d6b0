"""CPU schedule of pooling and depthwise convolutions in NCHW, with vectors along rows."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.window import PLAIN_WINDOW
from athanor.schedules.conv_shape import split_convolution
from athanor.schedules.conv_tasks import PARALLEL_MACS, TASKS_PER_CORE
from athanor.schedules.decisions import decide
from athanor.schedules.plain_tile import ROWS_UNROLLED, tile_columns, tried_columns
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.schedules.rules.cpu_depthwise import macs
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.partition_loops import HINT
from athanor.targets.target import TargetSpec

ROWS = (1, 2, 4, 8)
"""Of a tile."""
ROWS_TOGETHER = 4
"""Of a tile that nobody tuned: more share little more, and their code is long."""


class CPUPlainWindow:
    """Some rows and columns of results at a time, all taps of a channel in turn.

        for image, channel, row band in parallel(...):
            pad = the band with its border, columns by phase of the stride     # in the L2 cache
            for a few rows, column tile:                                # first and last peeled
                acc[rows, columns] = start                              # registers
                for kh, kw (unrolled): acc[row, :] = f(acc, pad[row + kh, columns + kw])
                out[rows, columns] = epilogue(acc)

    At stride 1 nothing is copied where the machine loads vectors with masks: the border is left
    out of what the first and last tiles load (64 maps of 56x56, 3x3: 38 us, 61 with the copy).
    Else the copy asks for the border row by row, so that the taps never do. A band is as high as
    half of the L2 cache holds, for bands share rows. Rows of a tile share what their windows load.
    The last tile of a row begins early enough to be whole.

    Matches: one block of KIND PLAIN_WINDOW, its padding, and spatial blocks behind it that end in
    one output; sizes are known, but for the batch. Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        parts = split_convolution(sch, PLAIN_WINDOW)
        if parts is None:
            return None
        window, pad, last = parts.product, parts.pad, parts.last
        if parts.rest is not None:
            schedule_rest(sch, parts.rest, target)
        sizes = [blocks.constant(axis.dom.extent) for axis in sch.get(window).iter_vars]
        _, _, height, width, taps_h, _ = sizes
        assert height and width and taps_h, "sizes are known"
        together, tile = _decide_tile(sch, height, width, target)
        if pad is not None and _loads_with_masks(sch, pad, width % tile == 0, target):
            sch.compute_inline(pad)
            pad = None
        image, channel, row, column = sch.get_loops(last)
        maps = None if None in sizes[:2] else macs(sizes[:2])
        band_rows = _band_rows(sch, pad, height, together, maps, macs(sizes), target)
        band, line, row = sch.split(row, [None, band_rows // together, together])
        step, lane = sch.split(column, [None, tile])
        sch.reorder(line, step, row, lane)
        if pad is None or height % together:
            sch.annotate(line, HINT, 1)
            sch.annotate(step, HINT, 1)
        sch.compute_at(window, step, preserve_unit_loops=True)
        if pad is not None:
            sch.compute_at(pad, band, preserve_unit_loops=True)
            *_, copied, phase, place = sch.get_loops(pad)
            sch.unroll(phase)
            sch.annotate(copied, HINT, 1)
            sch.annotate(place, HINT, 1)
        *_, h, w, kh, kw = sch.get_loops(window)
        sch.reorder(kh, kw, h, w)
        for loop in (h, row, kw):
            sch.unroll(loop)
        sch.vectorize(w)
        sch.vectorize(lane)
        if taps_h <= ROWS_UNROLLED:
            sch.unroll(kh)
        if width % tile:
            sch.annotate(step, OVERLAP, [width, tile])
        task = sch.fuse(image, channel, band)
        large = None in sizes or macs(sizes) > 2 * PARALLEL_MACS
        if decide(sch, "parallel", (0, 1), int(large)):
            sch.parallel(task)
        init = sch.decompose_reduction(window, kh)
        *_, init_row, init_lane = sch.get_loops(init)
        sch.unroll(init_row)
        sch.vectorize(init_lane)
        return sch


def _loads_with_masks(
    sch: s_tir.Schedule, pad: s_tir.schedule.SBlockRV, whole: bool, target: TargetSpec
) -> bool:
    """Whether the border is left out of each load rather than copied around the map.

    Columns dealt out to the phases of a stride must be copied. Without registers for masks, those
    of columns are for the first and last tile of a row only, which takes `whole` tiles.
    """
    copied, data = (sch.get(pad).writes[0].source.shape, sch.get(pad).reads[0].source.shape)
    if not target.masked_loads or int(copied[3]) > 1:
        return False
    return target.avx512 or whole or int(copied[4]) == int(data[3])


def _decide_tile(
    sch: s_tir.Schedule, height: int, width: int, target: TargetSpec
) -> tuple[int, int]:
    """Rows and columns of a tile: first rows, which share what their windows load."""
    heights = [rows for rows in ROWS if rows <= height]
    rows = decide(sch, "rows of a tile", heights, max(r for r in heights if r <= ROWS_TOGETHER))
    columns = tile_columns(width, target)
    vectors = -(-target.fma_pipes * target.fma_latency // rows)
    enough = min(
        (tile for tile in columns if tile >= vectors * target.lanes(32)), default=columns[-1]
    )
    return rows, decide(sch, "columns", tried_columns(width, target), enough)


def _band_rows(
    sch: s_tir.Schedule,
    pad: s_tir.schedule.SBlockRV | None,
    height: int,
    together: int,
    maps: int | None,
    work: int,
    target: TargetSpec,
) -> int:
    """Rows of a band, whole tiles: what a copy of is half of the L2 cache, or gives enough tasks.

    maps: images times channels, None if unknown; work: multiply-adds.
    """
    bands = 1
    if pad is not None:
        copied = [blocks.constant(dim) for dim in sch.get(pad).writes[0].source.shape[2:]]
        bands = -(-4 * macs(copied) // (target.l2_bytes // 2))
    if maps is not None:
        tasks = min(TASKS_PER_CORE * target.cores, work // PARALLEL_MACS)
        bands = max(bands, -(-tasks // maps))
    tiles = -(-height // together)
    wanted = -(-tiles // bands) * together
    rows = sorted({wanted, *(count * together for count in divisors(tiles))})
    return decide(sch, "rows", rows, wanted)
