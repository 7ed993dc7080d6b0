"""CPU schedule of depthwise convolutions on channel-blocked data."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.conv_shape import split_convolution
from athanor.schedules.conv_tasks import PARALLEL_MACS, ROWS, TASKS_PER_CORE
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.targets.target import TargetSpec

TAPS_UNROLLED = 16
"""Taps of one kernel row that are unrolled: their loads of neighbouring pixels coincide."""
PIXELS = (1, 2, 3, 4, 5, 6, 7, 8)


class CPUDepthwise:
    """A few pixels of one channel block at a time, all taps in registers.

        for image, channel block, row band in parallel(...):
            for row, pixel tile:                                # first and last tile peeled
                acc[pixels, channels] = 0                       # registers
                for kh: for kw (unrolled), pixel (unrolled):
                    acc[pixel, :] += data[pixel + kw, :] * weight[:]
                out[pixels, channels] = epilogue(acc)

    Only the peeled tiles ask whether a column is padding (copying the input to surround it with
    zeros takes 1.3 to 2 times as long in all); a row's taps ask once for their row. Kernels that
    are too wide to unroll, and maps of unknown width, read a padded copy of their band.

    A tile has as many pixels as accumulators fit in half of the registers; the other half holds
    the taps of one kernel row and the pixels that neighbouring taps share.

    Matches: one block of KIND "depthwise_conv2d", its padding, and spatial blocks behind it that
    end in one output; batch, height and width may be symbolic.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        parts = split_convolution(sch, "depthwise_conv2d")
        if parts is None:
            return None
        conv, pad, last = parts.product, parts.pad, parts.last
        if parts.rest is not None:
            schedule_rest(sch, parts.rest, target)
        sizes = [blocks.constant(axis.dom.extent) for axis in sch.get(conv).iter_vars]
        batch, channels, height, width, block, taps_h, taps_w = sizes
        assert channels and block and taps_h and taps_w, "channels are never symbolic"
        asks = width is not None and taps_w <= TAPS_UNROLLED
        if pad is not None and decide(sch, "inlined padding", (0, 1) if width else (0,), int(asks)):
            sch.compute_inline(pad)
            pad = None
        image, channel, row, column, inner = sch.get_loops(last)
        lanes = min(target.lanes(32), block)
        _, vector, lane = sch.split(inner, [1, block // lanes, lanes])
        rows = preferred_rows(batch, channels * block, height, width, taps_h * taps_w, target)
        bands = band_heights(height, rows)
        band, row = sch.split(row, [None, decide(sch, "rows", bands, rows)])
        pixels = preferred_pixels(width, block // lanes, target)
        tile, pixel = sch.split(column, [None, decide(sch, "pixels", PIXELS, pixels)])
        sch.reorder(image, channel, band, row, tile, pixel, vector, lane)
        if width is not None:
            sch.annotate(tile, "pragma_loop_partition_hint", 1)
        sch.compute_at(conv, tile, preserve_unit_loops=True)
        if pad is not None:
            sch.compute_at(pad, band, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(pad)[-1])
        *_, n, c, h, w, ci, kh, kw = sch.get_loops(conv)
        preferred_taps = tap_unroll(taps_w)
        unrolls = [d for d in divisors(taps_w) if d <= TAPS_UNROLLED]
        ci, ci_lane = sch.split(ci, [None, lanes])
        step, tap = sch.split(kw, [None, decide(sch, "unrolled taps", unrolls, preferred_taps)])
        sch.reorder(n, c, h, kh, step, tap, w, ci, ci_lane)
        for loop in (tap, w, ci, pixel, vector):
            sch.unroll(loop)
        sch.vectorize(ci_lane)
        sch.vectorize(lane)
        task = sch.fuse(image, channel, band)
        large = None in sizes or macs(sizes) > 2 * PARALLEL_MACS
        if decide(sch, "parallel", (0, 1), int(large)):
            sch.parallel(task)
        init = sch.decompose_reduction(conv, kh)
        *_, init_w, init_ci, init_lane = sch.get_loops(init)
        sch.unroll(init_w)
        sch.unroll(init_ci)
        sch.vectorize(init_lane)
        return sch


def band_heights(height: int | None, preferred: int) -> list[int]:
    """Rows of a task that a tuner may try."""
    exact = divisors(height) if height is not None else []
    rounded = [rows for rows in ROWS if height is None or rows < height]
    return sorted({*exact, *rounded, preferred})


def macs(sizes: list[int | None]) -> int:
    """Iterations of loops of these lengths, a symbolic one taken as 1."""
    total = 1
    for size in sizes:
        total *= size or 1
    return total


def tap_unroll(taps: int | None) -> int:
    """Taps of a kernel row to unroll; symbolic rows are not."""
    if taps is None:
        return 1
    return taps if taps <= TAPS_UNROLLED else max(d for d in divisors(taps) if d <= TAPS_UNROLLED)


def preferred_pixels(width: int | None, vectors: int, target: TargetSpec) -> int:
    """Half of the registers for accumulators; within that, the width that wastes least.

    One pixel where the width is symbolic: tiles that may end early take seconds to compile.
    """
    most = max(1, min(PIXELS[-1], target.vector_registers // 2 // vectors))
    if width is None or width <= most:
        return width or 1
    return min(range(most, max(1, most // 2) - 1, -1), key=lambda p: -(-width // p) * p)


def preferred_rows(
    batch: int | None,
    channels: int,
    height: int | None,
    width: int | None,
    taps: int,
    target: TargetSpec,
) -> int:
    """A whole map a task, or the fewest bands that give every core enough to do."""
    if height is None or width is None:
        return 8
    macs = (batch or 1) * channels * height * width * taps
    wanted = min(target.cores * TASKS_PER_CORE, max(1, macs // PARALLEL_MACS))
    tasks = (batch or 1) * max(1, channels // target.channel_block)
    bands = -(-wanted // tasks)
    exact = [d for d in divisors(height) if height // d >= bands]
    if bands >= height:
        return 1
    return max(exact) if len(exact) > 1 or height < 8 else -(-height // bands)
