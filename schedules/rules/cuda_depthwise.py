"""GPU schedule of depthwise convolutions."""

from __future__ import annotations

import math

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d_channels_last import DEPTHWISE
from athanor.schedules.decisions import decide
from athanor.schedules.device_threads import bits
from athanor.targets.target import TargetSpec

_THREADS = (32, 64, 128, 256)
_PIXELS = (1, 2, 4, 8)
"""Neighbouring results of one thread along a row: they share most of what they meet."""
_CHANNELS = (1, 2, 4)
"""Of one thread: four float32 sums are the widest vector that CUDA has."""
_LOAD_BITS = 64
"""Of one load: nine weights of four channels, and the sums of four pixels, are 52 registers."""
_WARPS = 16
"""On each multiprocessor, so that loads of one warp are hidden by the others' work."""
_TAPS_AT_MOST = 49
"""Weights of a channel that may be unrolled."""


class CUDADepthwise:
    """A thread for some channels that lie together and some pixels of a row.

        for pixels, channels in blockIdx.x, threadIdx.x:
            window = data, zeros outside                    # registers, vectors of channels
            sums[pixels][channels] = 0                      # registers
            for tap:  sums += window * weight
            out = epilogue(sums)

    What pixels of a row share of their windows is loaded once; rows above and below come from the
    caches.

    Matches: `depthwise_channels_last` of fixed sizes, and elementwise blocks behind it. Declines
    (None): anything else, windows of more than 49 taps.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        assert target.gpu is not None, f"{target.name} has no device"
        # Unchecked: with a last block that is not whole, TVM can't prove that a thread's own sums
        # cover what it stores.
        sch = blocks.open_schedule(func, enable_check=False)
        found = blocks.find_kind(sch, DEPTHWISE) if blocks.leaf_blocks(sch) else None
        if found is None:
            return None
        block, _ = found
        extents = blocks.extents(sch, block)
        if None in extents or 0 in extents or math.prod(extents[4:]) > _TAPS_AT_MOST:  # pyright: ignore
            return None
        framed = sch.get_producers(block)
        if len(framed) == 1:
            window = framed[0]
            sch.set_scope(window, 0, "local")
        else:
            window = sch.cache_read(block, 0, "local")
        if not sch.get_consumers(block):
            final = sch.cache_write(block, 0, "local")
        else:
            final = blocks.inline_epilogue(sch, block)
            if final is None or blocks.extents(sch, final) != extents[:4]:
                return None
            sch.set_scope(block, 0, "local")
        if len(blocks.leaf_blocks(sch) or []) != 3:
            return None
        sizes = [extent for extent in extents[:4] if extent is not None]
        _schedule(sch, (window, block, final), sizes, target)
        return sch


def _schedule(
    sch: s_tir.Schedule,
    stages: tuple[s_tir.schedule.SBlockRV, ...],
    sizes: list[int],
    target: TargetSpec,
) -> None:
    window, block, final = stages
    assert target.gpu is not None, f"{target.name} has no device"
    batch, height, width, channels = sizes
    widest = bits(str(sch.get(window).writes[0].source.dtype))
    vectors = [n for n in _CHANNELS if channels % n == 0]
    pixels = [n for n in _PIXELS if n == 1 or n <= width]
    enough = target.gpu.multiprocessors * _WARPS * 32

    def fills(x: int, lanes: int) -> bool:
        return batch * height * -(-width // x) * (channels // lanes) >= enough

    usual = [n for n in vectors if n * widest <= _LOAD_BITS]
    usual = [n for n in usual if n * widest >= 32] or usual[-1:]
    even = [n for n in pixels if n <= 4 and width % n == 0]
    shapes = [(x, lanes) for lanes in reversed(usual) for x in reversed(even)]
    # Few threads: first fewer pixels, which are computed as often, then narrower loads.
    x, lanes = next((shape for shape in shapes if fills(*shape)), shapes[-1])
    x = decide(sch, "pixels", pixels, x)
    lanes = decide(sch, "channels", vectors, lanes)
    tasks = batch * height * -(-width // x) * (channels // lanes)
    usual = [n for n in _THREADS if 64 <= n <= (128 if tasks >= enough else 64)]
    # Whole blocks want no condition around every step.
    threads = decide(
        sch, "threads", _THREADS, max((n for n in usual if tasks % n == 0), default=usual[-1])
    )

    n, y, across, channel = sch.get_loops(final)
    outer_x, inner_x = sch.split(across, [None, x])
    outer_c, inner_c = sch.split(channel, [None, lanes])
    sch.reorder(n, y, outer_x, outer_c, inner_x, inner_c)
    blocks_loop, thread = sch.split(sch.fuse(n, y, outer_x, outer_c), [None, threads])
    sch.bind(blocks_loop, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.compute_at(block, thread, preserve_unit_loops=True)
    *_, own_x, own_c, tap_y, tap_x = sch.get_loops(block)
    sch.reorder(tap_y, tap_x, own_x, own_c)
    sch.compute_at(window, thread, preserve_unit_loops=True)
    *_, rows, columns, window_c = sch.get_loops(window)
    for loop in (rows, columns, tap_y, tap_x, own_x, inner_x):
        sch.unroll(loop)
    for loop in (window_c, own_c, inner_c):
        sch.vectorize(loop)
    sch.decompose_reduction(block, tap_y)
