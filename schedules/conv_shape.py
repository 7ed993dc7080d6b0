"""What a prim_func that holds a convolution or pooling looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d import PAD_KIND, PHASES, WINDOW, Window

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
    windows: tuple[Window, Window] | None = None
    """Of rows and columns, where taps that meet padding only are left out."""
    phases: int = 1
    """Of a transposed convolution: images that are interleaved, one after another in the blocks."""

    @property
    def phase_blocks(self) -> int:
        """Output blocks of one phase: tiles and tasks keep to them, for TVM can't follow others."""
        return self.out_blocks // self.phases

    @property
    def taps(self) -> int:
        """Reduction steps of one output element."""
        return self.steps * self.kernel[0] * self.kernel[1] * self.depth

    @property
    def linear(self) -> bool:
        """Whether output pixels read consecutive input pixels across the ends of rows."""
        same = (self.in_height, self.in_width) == (self.out_height, self.out_width)
        return self.kernel == (1, 1) and same and self.out_width is not None


@dataclass(frozen=True)
class ConvBlocks:
    """The blocks of a prim_func around a convolution or pooling."""

    product: SBlockRV
    pad: SBlockRV | None
    """What copies the input, if anything."""
    last: SBlockRV
    """What stores the product's elements, one for one, with whatever was inlined into it."""
    rest: SBlockRV | None
    """A spatial block behind that reads them in another order."""


def split_convolution(sch: s_tir.Schedule, kind: str) -> ConvBlocks | None:
    """Inline around the block of that KIND. None where there is none, or where more is left."""
    leaves = blocks.leaf_blocks(sch)
    if not leaves or any(0 in blocks.extents(sch, block) for block in leaves):
        return None
    found, padding = blocks.find_kind(sch, kind), blocks.find_kind(sch, PAD_KIND)
    if found is None:
        return None
    product, pad = found[0], padding[0] if padding else None
    kept = [sch.get(block).name_hint for block in (product, pad) if block is not None]
    others = [block for block in leaves if sch.get(block).name_hint not in kept]
    left = blocks.inline_spatial(sch, others)
    if not left:
        return ConvBlocks(product, pad, sch.cache_write(product, 0, "global"), None)
    if len(left) > 1 or not blocks.is_spatial(sch, left[0]):
        return None
    if _join_phases(sch, product, left[0]) or _same_shape(sch, product, left[0]):
        return ConvBlocks(product, pad, left[0], None)
    return ConvBlocks(product, pad, sch.cache_write(product, 0, "global"), left[0])


def _same_shape(sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV) -> bool:
    made, stored = (sch.get(block).writes[0].source.shape for block in (product, last))
    return tvm_ffi.structural_equal(list(made), list(stored))


def _join_phases(sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV) -> bool:
    """Let the interleaving block of a transposed convolution run in the order of the phases.

    Only where every phase is used in full: nothing is cut off the result, and its sizes are known.
    """
    phases = sch.get(product).annotations.get(PHASES)
    rows, columns = (int(count) for count in phases) if phases is not None else (1, 1)
    made, stored = (
        [blocks.constant(dim) for dim in sch.get(block).writes[0].source.shape]
        for block in (product, last)
    )
    if rows * columns == 1 or None in (*made[1:], *stored[1:]) or len(stored) != 5:
        return False
    channels, height, width = made[1] or 0, made[2] or 0, made[3] or 0
    out_blocks = channels // (rows * columns)
    if stored[1:4] != [out_blocks, height * rows, width * columns]:
        return False
    sch.transform_block_layout(
        last,
        lambda n, o, h, w, i: (
            n,
            (h % rows * columns + w % columns) * out_blocks + o,
            h // rows,
            w // columns,
            i,
        ),
    )
    return True


def read_shape(sch: s_tir.Schedule, conv: SBlockRV, pad: SBlockRV | None) -> ConvShape:
    """The sizes of a "conv2d" block."""
    stmt = sch.get(conv)
    batch, out_blocks, height, width, out_block, steps, kh, kw, depth = (
        blocks.constant(axis.dom.extent) for axis in stmt.iter_vars
    )
    data = next(r.source for r in stmt.reads if len(r.source.shape) == 5)
    phases = [int(count) for count in stmt.annotations.get(PHASES) or (1,)]
    _, in_blocks, in_height, in_width, in_block = (blocks.constant(dim) for dim in data.shape)
    assert out_blocks and out_block and steps and kh and kw and depth, "channels are never symbolic"
    assert in_blocks and in_block, "channels are never symbolic"
    return ConvShape(
        batch, out_blocks, height, width, out_block, steps, (kh, kw), depth,
        in_blocks, in_height, in_width, in_block, pad is not None, read_windows(stmt),
        math.prod(phases),
    )  # fmt: skip


def read_windows(block: s_tir.SBlock) -> tuple[Window, Window] | None:
    """What rows and columns meet, by the annotation WINDOW."""
    numbers = block.annotations.get(WINDOW)
    if numbers is None:
        return None
    rows, columns = [int(n) for n in numbers[:5]], [int(n) for n in numbers[5:]]
    return Window(*rows), Window(*columns)
