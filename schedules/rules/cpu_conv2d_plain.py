"""CPU schedule of convolutions in the model's own NCHW layout."""

from __future__ import annotations

import math

import tvm_ffi
from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.conv_tasks import PARALLEL_MACS
from athanor.schedules.decisions import decide
from athanor.schedules.plain_tile import plain_tile, tried_columns
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.schedules.rules.cpu_depthwise import macs
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.partition_loops import HINT
from athanor.targets.target import TargetSpec

SBlockRV = s_tir.schedule.SBlockRV

TASKS = 8
"""Into which a flat map is cut at least, where it is long enough: more cores than most have."""


class CPUConv2dPlain:
    """Vectors along rows, several output channels at once.

        pad = input with zeros around                           # a nest of its own
        for image, row in parallel(...):
            for columns, channels in tiles:
                acc[channels, columns] = 0                      # registers
                for input channel, kh, kw:
                    for channel (unrolled): acc[channel, :] += pad[columns] * weight[channel]
                out[channels, columns] = epilogue(acc)          # few channels: of several rows

    For convolutions whose neighbours want no blocks and whose channels would leave much of one
    empty, and for what blocked layouts do not take: weights that are computed at run time,
    transposed convolutions with groups or dilation. Where one tap reads the pixels as they lie,
    the whole map is one row. A row shorter than a vector takes what divides it.

    Matches: one sum of products over three axes (channel, row, column) into NCHW, as TVM's
    conv2d, group_conv2d and conv2d_transpose legalize to; spatial blocks before and behind it.
    Declines (None): anything else.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        sums = [block for block in leaves if not blocks.is_spatial(sch, block)]
        if len(sums) != 1 or not _is_convolution(sch, sums[0]):
            return None
        product = sums[0]
        before = {sch.get(block).name_hint for block in sch.get_producers(product)}
        kept = before | {sch.get(product).name_hint}
        others = [block for block in leaves if sch.get(block).name_hint not in kept]
        sharing = _channels_together(sch, product, target)  # while it reads a map
        left = blocks.inline_spatial(sch, others)
        if len(left) > 1:
            return None
        for name in before:
            pad = sch.get_sblock(name)
            if blocks.has_conditions(sch.get(pad).body):
                schedule_rest(sch, pad, target)
            else:
                sch.compute_inline(pad)
        if left and _same_shape(sch, product, left[0]):
            last = left[0]
        else:
            last = sch.cache_write(product, 0, "global")
            for block in left:
                schedule_rest(sch, block, target)
        _tile(sch, product, last, sharing, target)
        return sch


def _is_convolution(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """A sum of products of two other tensors of rank 4, over three axes."""
    stmt = sch.get(block)
    if blocks.iterator_kinds(sch, block) != "SSSSRRR" or len(stmt.writes) != 1:
        return False
    buffers = [region.source for region in (*stmt.reads, *stmt.writes)]
    value = stmt.body.value if isinstance(stmt.body, tirx.BufferStore) else None
    return (
        len(buffers) == 3
        and all(len(buffer.shape) == 4 for buffer in buffers)
        and isinstance(value, tirx.Add)
        and isinstance(getattr(value, "b", None), tirx.Mul)
    )


def _same_shape(sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV) -> bool:
    made, stored = (sch.get(block).writes[0].source.shape for block in (product, last))
    return tvm_ffi.structural_equal(list(made), list(stored))


def _tile(
    sch: s_tir.Schedule,
    product: SBlockRV,
    last: SBlockRV,
    sharing: int | None,
    target: TargetSpec,
) -> None:
    """sharing: channels that read the same input."""
    sizes = blocks.extents(sch, product)
    channels = sizes[1]
    if _is_linear(sch, product):
        _make_linear(sch, product, last)
    image, channel, *rows, column = sch.get_loops(last)
    width = blocks.constant(sch.get(column).extent)
    steps = math.prod(s or 1 for s in sizes[4:])
    tile = plain_tile(sharing, width, steps, target)
    counts = [c for c in divisors(channels or 1) if c < target.vector_registers]
    together = decide(sch, "channels", sorted({*counts, tile.channels}), tile.channels)
    # Several vectors are one long vector to TVM.
    lanes = decide(
        sch, "columns", sorted({*tried_columns(width, target), tile.columns}), tile.columns
    )
    channel_tile, channel = sch.split(channel, [None, together])
    inner = [channel]
    if rows:
        step, lane = sch.split(column, [None, lanes])
        sums = together * max(1, lanes // target.lanes(32))
        band, row = sch.split(
            rows[0], [None, decide(sch, "rows", *_tile_rows(sizes[2], sums, target))]
        )
        rows, inner = [band], [channel, row]
    else:  # a flat map has no rows to be tasks: some tiles of it are
        part, step, lane = sch.split(column, [None, max(1, (width or 0) // (lanes * TASKS)), lanes])
        rows = [part]
    sch.reorder(image, *rows, step, channel_tile, *inner, lane)
    sch.compute_at(product, channel_tile, preserve_unit_loops=True)
    *_, w, rc, kh, kw = sch.get_loops(product)
    unrolled = sch.get_loops(product)[-4 - len(inner) : -4]
    sch.reorder(rc, kh, kw, *unrolled, w)
    sch.vectorize(w)
    sch.vectorize(lane)
    for loop in (*unrolled, *inner):
        sch.unroll(loop)
    if width is None:
        sch.annotate(step, HINT, 1)
    elif width % lanes:
        sch.annotate(step, OVERLAP, [width, lanes])
    sch.annotate(channel_tile, HINT, 1)
    task = sch.fuse(image, *rows)
    large = None in sizes or macs(sizes) > 2 * PARALLEL_MACS
    if decide(sch, "parallel", (0, 1), int(large)):
        sch.parallel(task)
    init = sch.decompose_reduction(product, rc)
    *outer, init_lane = sch.get_loops(init)
    for loop in outer[-len(inner) :]:
        sch.unroll(loop)
    sch.vectorize(init_lane)


def _channels_together(sch: s_tir.Schedule, product: SBlockRV, target: TargetSpec) -> int | None:
    """Output channels that read the same input: a group's, where those are sums enough."""
    channels = blocks.extents(sch, product)[1]
    inputs = blocks.constant(sch.get(product).reads[0].source.shape[1])
    depth = blocks.extents(sch, product)[4]
    if channels is None or inputs is None or depth is None:
        return channels
    of_group = max(1, channels * depth // max(1, inputs))
    return of_group if of_group >= target.fma_pipes * target.fma_latency else channels


def _tile_rows(height: int | None, sums: int, target: TargetSpec) -> tuple[list[int], int]:
    """Rows of a tile that a tuner may try, and those that a tile of so many sums each wants.

    Rows share weights, but not the loads of pixels: several only where one has too few sums to
    cover the latency of a multiply-add.
    """
    found = [rows for rows in (1, 2, 3, 4) if height is not None and height % rows == 0] or [1]
    chains = target.fma_pipes * target.fma_latency
    return found, next((rows for rows in found if rows * sums >= chains), found[-1])


def _is_linear(sch: s_tir.Schedule, product: SBlockRV) -> bool:
    """Whether pixels lie in the input as in the output: one tap, no stride, no pads."""
    sizes = blocks.extents(sch, product)
    source = sch.get(product).reads[0].source
    pixels = [blocks.constant(dim) for dim in source.shape[-2:]]
    if sizes[2] == 1:  # one row, also of a matrix, whose rows are what is summed
        pixels = [1, pixels[-1]]
    return sizes[5:] == [1, 1] and pixels == sizes[2:4] and None not in pixels


def _make_linear(sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV) -> None:
    """(row, column) of the product and of what stores it -> pixel."""
    width = blocks.extents(sch, product)[3]
    sch.transform_block_layout(
        product, lambda n, o, h, w, rc, kh, kw: (n, o, h * width + w, rc, kh, kw)
    )
    sch.transform_layout(product, ("write", 0), lambda n, o, h, w: (n, o, h * width + w))
    sch.transform_block_layout(last, lambda n, o, h, w: (n, o, h * width + w))
