"""CPU schedule of pooling on channel-blocked data."""

from __future__ import annotations

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.conv_shape import split_convolution
from athanor.schedules.conv_tasks import PARALLEL_MACS
from athanor.schedules.decisions import decide
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.schedules.rules.cpu_depthwise import (
    band_heights,
    macs,
    preferred_pixels,
    preferred_rows,
    tap_unroll,
)
from athanor.targets.target import TargetSpec

PIXELS = (1, 2, 3, 4, 5, 6, 7, 8)


class CPUPool:
    """A few pixels of one channel block at a time; windows at the border apart from the others.

        for image, channel block, row band in parallel(...):
            for row, pixel tile:                                # first and last tile peeled
                acc[pixels, channels] = lowest                  # registers
                for kh: for kw, pixel (unrolled): acc[pixel, :] = max(acc, data[pixel + kw, :])
                out[pixels, channels] = epilogue(acc)

    Global pooling is the same with one pixel, whose window is the map.

    Matches: one block of KIND "pool2d" or "global_pool2d", and spatial blocks behind it that end
    in one output; batch, height and width may be symbolic.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        parts = split_convolution(sch, "pool2d") or split_convolution(sch, "global_pool2d")
        if parts is None:
            return None
        pool, last = parts.product, parts.last
        if parts.rest is not None:
            schedule_rest(sch, parts.rest, target)
        sizes = [blocks.constant(axis.dom.extent) for axis in sch.get(pool).iter_vars]
        batch, channels, height, width, block, _, taps_w = sizes
        assert channels and block, "channels are never symbolic"
        image, channel, row, column, inner = sch.get_loops(last)
        lanes = min(target.lanes(32), block)
        vector, lane = sch.split(inner, [block // lanes, lanes])
        taps = macs(sizes[5:])
        rows = preferred_rows(batch, channels * block, height, width, taps, target)
        bands = band_heights(height, rows)
        band, row = sch.split(row, [None, decide(sch, "rows", bands, rows)])
        pixels = preferred_pixels(width, block // lanes, target)
        tile, pixel = sch.split(column, [None, decide(sch, "pixels", PIXELS, pixels)])
        sch.reorder(image, channel, band, row, tile, pixel, vector, lane)
        if width is not None:
            sch.annotate(tile, "pragma_loop_partition_hint", 1)
        sch.compute_at(pool, tile, preserve_unit_loops=True)
        *_, n, c, h, w, ci, kh, kw = sch.get_loops(pool)
        ci, ci_lane = sch.split(ci, [None, lanes])
        step, tap = sch.split(kw, [None, tap_unroll(taps_w if width else None)])
        sch.reorder(n, c, h, kh, step, tap, w, ci, ci_lane)
        for loop in (tap, w, ci, pixel, vector):
            sch.unroll(loop)
        sch.vectorize(ci_lane)
        sch.vectorize(lane)
        task = sch.fuse(image, channel, band)
        large = None in sizes or macs(sizes) > 2 * PARALLEL_MACS
        if decide(sch, "parallel", (0, 1), int(large)):
            sch.parallel(task)
        init = sch.decompose_reduction(pool, kh)
        *_, init_w, init_ci, init_lane = sch.get_loops(init)
        sch.unroll(init_w)
        sch.unroll(init_ci)
        sch.vectorize(init_lane)
        return sch
