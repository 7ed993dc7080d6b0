"""CPU schedule of pooling and depthwise convolutions in NCHW, with vectors along rows."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.window import PLAIN_WINDOW
from athanor.schedules.conv_shape import split_convolution
from athanor.schedules.conv_tasks import PARALLEL_MACS
from athanor.schedules.decisions import decide, nearest
from athanor.schedules.plain_tile import tile_columns, tried_columns
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.schedules.rules.cpu_depthwise import macs
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.partition_loops import HINT
from athanor.targets.target import TargetSpec

ROWS_UNROLLED = 5
"""Rows of taps up to which all are unrolled: more would be a lot of code."""


class CPUPlainWindow:
    """Some vectors of one row's results at a time, all taps of a channel in turn.

        for image, channel, row band in parallel(...):
            pad = the band with its border, columns by phase of the stride     # in the L2 cache
            for a few rows, column tile:
                acc[rows, columns] = start                          # registers
                for kh, kw (unrolled): acc[row, :] = f(acc, pad[row + kh, columns + kw])
                out[rows, columns] = epilogue(acc)

    The copy asks for the border row by row, so that the taps never do; without a border, at stride
    1, there is none. A band is as high as half of the L2 cache holds, for bands share rows. The
    last tile of a row begins early enough to be whole.

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
        image, channel, row, column = sch.get_loops(last)
        columns = tile_columns(width, target)
        wanted = min(columns, key=lambda tile: (-(-width // tile) * tile, -tile))
        tile = decide(sch, "columns", tried_columns(width, target), wanted)
        most = max(1, target.vector_registers // 4 // max(1, tile // target.lanes(32)))
        rows, together = _band_rows(sch, pad, height, most, target)
        rows = decide(sch, "rows", sorted({*divisors(height), rows}), rows)
        shares = [n for n in divisors(rows) if n <= (1 if height % rows else 2 * most)]
        together = decide(sch, "rows of a tile", shares, nearest(shares, together))
        band, line, row = sch.split(row, [None, rows // together, together])
        step, lane = sch.split(column, [None, tile])
        sch.reorder(line, step, row, lane)
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


def _band_rows(
    sch: s_tir.Schedule,
    pad: s_tir.schedule.SBlockRV | None,
    height: int,
    most: int,
    target: TargetSpec,
) -> tuple[int, int]:
    """Rows of a band, whose padded input fits half of the L2 cache; and rows of a tile.

    Tiles of several rows, `most` at most, share what their windows load. Where the height has no
    divisor that is a good band, the last band ends early, and tiles have one row.
    """
    limit = height
    if pad is not None:
        copied: list[int | None] = [
            blocks.constant(dim) for dim in sch.get(pad).writes[0].source.shape[2:]
        ]
        limit = -(-height // -(-4 * macs(copied) // (target.l2_bytes // 2)))

    def share(rows: int) -> int:
        return max(count for count in range(1, most + 1) if rows % count == 0)

    exact = [rows for rows in divisors(height) if limit <= 4 * rows and rows <= limit]
    if not exact:
        return limit, 1
    rows = max(exact, key=lambda rows: (share(rows), rows))
    return rows, share(rows)
