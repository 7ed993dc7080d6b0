"""What a prim_func that holds a convolution or pooling looks like."""

from __future__ import annotations

from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d import PAD_KIND

SBlockRV = s_tir.schedule.SBlockRV


@dataclass(frozen=True)
class ConvShape:
    """Sizes of a blocked convolution; None where one is symbolic."""

    batch: int | None
    out_blocks: int
    out_height: int | None
    out_width: int | None
    out_block: int
    steps: int
    """Reduction blocks that each output block sums over."""
    kernel: tuple[int, int]
    depth: int
    """Input channels of one reduction block."""
    in_blocks: int
    in_height: int | None
    """Padded."""
    in_width: int | None
    in_block: int
    padded: bool
    """Whether the convolution reads a copy: with zeros around, or of the pixels that it meets."""

    @property
    def taps(self) -> int:
        """Reduction steps of one output element."""
        return self.steps * self.kernel[0] * self.kernel[1] * self.depth

    @property
    def linear(self) -> bool:
        """Whether output pixels read consecutive input pixels across the ends of rows."""
        same = (self.in_height, self.in_width) == (self.out_height, self.out_width)
        return self.kernel == (1, 1) and same and self.out_width is not None


def split_convolution(
    sch: s_tir.Schedule, kind: str
) -> tuple[SBlockRV, SBlockRV | None, SBlockRV] | None:
    """Inline around the block of that KIND -> it, its padding, the one block that stores.

    None where there is no such block, where more than these three is left, or where the last does
    not store one element for each of the product's.
    """
    leaves = blocks.leaf_blocks(sch)
    if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
        return None
    found, padding = blocks.find_kind(sch, kind), blocks.find_kind(sch, PAD_KIND)
    if found is None:
        return None
    conv, pad = found[0], padding[0] if padding else None
    kept = [sch.get(block).name_hint for block in (conv, pad) if block is not None]
    others = [block for block in leaves if sch.get(block).name_hint not in kept]
    left = blocks.inline_spatial(sch, others)
    if not left:
        return conv, pad, sch.cache_write(conv, 0, "global")
    if len(left) > 1 or not blocks.is_spatial(sch, left[0]):
        return None
    stored, product = sch.get(left[0]).writes[0].source, sch.get(conv).writes[0].source
    if not tvm_ffi.structural_equal(stored.shape, product.shape):
        return None
    return conv, pad, left[0]


def read_shape(sch: s_tir.Schedule, conv: SBlockRV, pad: SBlockRV | None) -> ConvShape:
    """The sizes of a "conv2d" block."""
    stmt = sch.get(conv)
    batch, out_blocks, height, width, out_block, steps, kh, kw, depth = (
        blocks.constant(axis.dom.extent) for axis in stmt.iter_vars
    )
    data = next(r.source for r in stmt.reads if len(r.source.shape) == 5)
    _, in_blocks, in_height, in_width, in_block = (blocks.constant(dim) for dim in data.shape)
    assert out_blocks and out_block and steps and kh and kw and depth, "channels are never symbolic"
    assert in_blocks and in_block, "channels are never symbolic"
    return ConvShape(
        batch, out_blocks, height, width, out_block, steps, (kh, kw), depth,
        in_blocks, in_height, in_width, in_block, pad is not None,
    )  # fmt: skip
