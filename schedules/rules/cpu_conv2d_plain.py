"""CPU schedule of convolutions in the model's own NCHW layout."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.conv_tasks import PARALLEL_MACS
from athanor.schedules.decisions import decide
from athanor.schedules.register_tile import divisors
from athanor.schedules.rules.cpu_conv2d import schedule_rest
from athanor.schedules.rules.cpu_depthwise import macs
from athanor.targets.target import TargetSpec

SBlockRV = s_tir.schedule.SBlockRV


class CPUConv2dPlain:
    """Vectors along rows, several output channels at once.

        pad = input with zeros around                           # a nest of its own
        for image, channel tile, row in parallel(...):
            for vector of columns:
                acc[channels, columns] = 0                      # registers
                for input channel, kh, kw:
                    for channel (unrolled): acc[channel, :] += pad[columns] * weight[channel]
                out[channels, columns] = epilogue(acc)

    For what blocked layouts do not take: weights that are computed at run time, transposed
    convolutions with groups or dilation. A row shorter than a vector takes what divides it.

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
        left = blocks.inline_spatial(sch, others)
        if len(left) > 1:
            return None
        for name in before:
            schedule_rest(sch, sch.get_sblock(name), target)
        if left and _same_shape(sch, product, left[0]):
            last = left[0]
        else:
            last = sch.cache_write(product, 0, "global")
            for block in left:
                schedule_rest(sch, block, target)
        _tile(sch, product, last, target)
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


def _tile(sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV, target: TargetSpec) -> None:
    sizes = blocks.extents(sch, product)
    image, channel, row, column = sch.get_loops(last)
    channels, width = sizes[1], sizes[3]
    # Half of the registers, so that the weights' broadcasts and the row of the input fit too.
    most = max(1, target.vector_registers // 2)
    candidates = [d for d in divisors(channels or 1) if d <= most]
    tile = decide(sch, "channels", candidates, candidates[-1])
    lanes = _lanes(width, target)
    channel_tile, channel = sch.split(channel, [None, tile])
    vector, lane = sch.split(column, [None, lanes])
    sch.reorder(image, channel_tile, row, vector, channel, lane)
    if width is None or width % lanes:
        sch.annotate(vector, "pragma_loop_partition_hint", 1)
    sch.compute_at(product, vector, preserve_unit_loops=True)
    *_, n, o, h, w, rc, kh, kw = sch.get_loops(product)
    sch.reorder(n, h, rc, kh, kw, o, w)
    sch.unroll(o)
    sch.vectorize(w)
    sch.unroll(channel)
    sch.vectorize(lane)
    task = sch.fuse(image, channel_tile, row)
    large = None in sizes or macs(sizes) > 2 * PARALLEL_MACS
    if decide(sch, "parallel", (0, 1), int(large)):
        sch.parallel(task)
    init = sch.decompose_reduction(product, rc)
    *_, init_channel, init_lane = sch.get_loops(init)
    sch.unroll(init_channel)
    sch.vectorize(init_lane)


def _lanes(width: int | None, target: TargetSpec) -> int:
    """A whole vector, or a half or quarter where that divides a row and a whole one does not."""
    full = target.lanes(32)
    if width is None:
        return full
    exact = [size for size in (full, full // 2, full // 4) if size >= 4 and width % size == 0]
    if exact:
        return exact[0]
    return full if width >= full else 1 << (width.bit_length() - 1)
