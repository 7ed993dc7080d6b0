"""Convolutions over channel-blocked data with weights packed at compile time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from tvm import te, tirx

from athanor.schedules.blocks import KIND, NOMINAL, constant
from athanor.schedules.compute import bf16

PAD_KIND = "conv2d_pad"
"""KIND of the block that surrounds a convolution's input with zeros."""
PHASES = "athanor.phases"
"""Block annotation: rows and columns of the grid of images that a convolution's blocks make up."""
PLAN = "athanor.conv2d_plan"
"""Block annotation: the plan of a grouped convolution, as JSON, for `ShortenReductions`."""
WINDOW = "athanor.window"
"""Block annotation of a padded convolution: for rows and columns, the numbers of `Window`."""
MOST_MET = 0.85
"""The share of taps that meet elements from which on tiles need not care which ones they are."""
GATHER_BLOCKS = 4
"""Output blocks from which on a strided 1x1 convolution first copies the pixels that it reads."""

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Window:
    """Which elements of one axis the taps of a convolution meet."""

    taps: int
    stride: int
    dilation: int
    padding: int
    """Zeros before the first element."""
    length: int
    """Elements that are not padding."""

    def met(self, first: int, last: int) -> int:
        """Taps by which the results from `first` to `last` meet elements, any of them."""
        low = max(0, -((last * self.stride - self.padding) // self.dilation))
        end = -((first * self.stride - self.padding - self.length) // self.dilation)
        return max(0, min(self.taps, end) - low)


def met_share(windows: tuple[Window, Window], size: Pair, pixels: int) -> float:
    """The share of taps that meet elements, for tiles of so many pixels of a row.

    size: rows and columns of the result.
    """
    rows, columns = windows
    height, width = size
    down = sum(rows.met(row, row) for row in range(height))
    along = 0
    for first in range(0, width, pixels):
        last = min(first + pixels, width) - 1
        along += (last + 1 - first) * columns.met(first, last)
    return down * along / (height * rows.taps * width * columns.taps)


@dataclass(frozen=True)
class Conv2dPlan:
    """In which layout a convolution runs, and what its packed weight looks like.

    Output channel block `o` sums over the input channels from `start(o) * reduction_block` on,
    `reduction_steps` blocks of them: all of its groups' channels, and where that is not a whole
    number of blocks a few others, which meet zeros in the packed weight. So any number of groups
    runs as one dense convolution of narrow reach, and no layout is needed for groups.
    """

    kind: str
    """"dense" or "depthwise": which compute to call."""
    in_channels: int
    out_channels: int
    groups: int
    in_block: int
    """Channels that lie together in the input, (N, ceil(C / in_block), H, W, in_block)."""
    out_block: int
    """The same of the output."""
    reduction_block: int
    """Input channels that lie together in the packed weight; divides in_block."""
    reduction_steps: int
    """Such blocks that each output block sums over."""

    @property
    def nominal(self) -> list[int]:
        """Products of channels that the convolution asks for, and those of its blocks."""
        blocks = -(-self.out_channels // self.out_block)
        asked = self.out_channels * (self.in_channels // self.groups)
        done = blocks * self.out_block * self.reduction_steps * self.reduction_block
        return [asked, done]

    def start(self, block: tirx.Expr | int) -> tirx.Expr | int:
        """First reduction block that an output block reads."""
        if self.groups == 1:
            return 0
        group_in = self.in_channels // self.groups
        group_out = self.out_channels // self.groups
        if group_out % self.out_block == 0 and group_in % self.reduction_block == 0:
            per_group = group_out // self.out_block
            return block // per_group * (group_in // self.reduction_block)
        first = block * self.out_block // group_out * group_in // self.reduction_block
        last = -(-self.in_channels // self.reduction_block) - self.reduction_steps
        return min(first, last) if isinstance(first, int) else tirx.min(first, last)

    def steps(self, block: tirx.Expr) -> tirx.Expr:
        """Reduction blocks that one output block needs: most need fewer than `reduction_steps`."""
        group_in, group_out = self.in_channels // self.groups, self.out_channels // self.groups
        channel = tirx.min(block * self.out_block + self.out_block - 1, self.out_channels - 1)
        last = ((channel // group_out + 1) * group_in - 1) // self.reduction_block
        return last - self.start(block) + 1


def plan_conv2d(
    in_channels: int,
    out_channels: int,
    kernel: Pair,
    groups: int,
    channel_block: int,
    reduction_blocks: tuple[int, ...] = (16, 8, 4, 2, 1),
) -> Conv2dPlan | None:
    """How to run a convolution of NCHW data with OIHW weights on blocked data.

    reduction_blocks: what the plan may choose from.

    None: in plain NCHW, by whatever rule takes it. An input of fewer channels than a block is
    read as plain NCHW (in_block 1): an image's 3 channels would otherwise be padded to 16.
    """
    if min(in_channels, out_channels, *kernel) < 1:
        return None
    if groups > 1 and groups == in_channels == out_channels:
        return Conv2dPlan(
            "depthwise", in_channels, out_channels, groups, channel_block, channel_block, 1, 1
        )
    in_block = channel_block if in_channels >= channel_block else 1
    candidates = []
    for block in reduction_blocks:
        if in_block % block == 0:
            steps = _reduction_steps(in_channels, out_channels, groups, block, channel_block)
            # A step of few channels has more addresses to compute for each multiply-add.
            candidates.append((steps * (block + 0.5), -block, block, steps))
    if not candidates:
        return None
    *_, block, steps = min(candidates)
    return Conv2dPlan(
        "dense", in_channels, out_channels, groups, in_block, channel_block, block, steps
    )


def _reduction_steps(
    in_channels: int, out_channels: int, groups: int, block: int, out_block: int
) -> int:
    """Most reduction blocks that the groups of any output block touch."""
    group_in, group_out = in_channels // groups, out_channels // groups
    most = 0
    for first in range(0, out_channels, out_block):
        last = min(first + out_block, out_channels) - 1
        low = first // group_out * group_in // block
        high = ((last // group_out + 1) * group_in - 1) // block
        most = max(most, high - low + 1)
    return most


def pack_conv2d_weight(weight: np.ndarray, plan: Conv2dPlan) -> np.ndarray:
    """Weight OIHW -> what the plan's compute takes, zero padded.

    dense: (ceil(O / out_block), reduction_steps, KH, KW, reduction_block, out_block);
    depthwise: (ceil(C / block), KH, KW, block).
    """
    out_channels, group_in, height, width = weight.shape
    assert out_channels == plan.out_channels, "the plan is of another weight"
    blocks = -(-out_channels // plan.out_block)
    if plan.kind == "depthwise":
        flat = np.zeros((blocks * plan.out_block, height, width), weight.dtype)
        flat[:out_channels] = weight[:, 0]
        split = flat.reshape(blocks, plan.out_block, height, width)
        return np.ascontiguousarray(split.transpose(0, 2, 3, 1))
    depth = plan.reduction_steps * plan.reduction_block
    full = np.zeros((blocks * plan.out_block, depth, height, width), weight.dtype)
    group_out = out_channels // plan.groups
    for channel in range(out_channels):
        start = plan.start(channel // plan.out_block)
        assert isinstance(start, int)
        first = channel // group_out * group_in - start * plan.reduction_block
        full[channel, first : first + group_in] = weight[channel]
    split = full.reshape(
        blocks, plan.out_block, plan.reduction_steps, plan.reduction_block, height, width
    )
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def pair_conv2d_weight(packed: np.ndarray, plan: Conv2dPlan) -> np.ndarray:
    """A dense packed weight -> words of two bfloat16, for `conv2d_blocked` of bfloat16 data.

    Two channels of a block are a pair; (.., reduction_block / 2, out_block). Where blocks have one
    channel, two taps of a row are: (.., KH, ceil(KW / 2), 1, out_block). An odd row's last pair
    takes the tap before it along, and each of that tap's two pairs half of its weight: exact, and
    unlike a weight of zero it leaves an infinity one.
    """
    if plan.in_block > 1:
        return bf16.pack_pairs(packed, axis=4)
    taps = packed.shape[3]
    if taps % 2:
        packed = np.insert(packed, taps - 2, packed[:, :, :, taps - 2], axis=3)
        packed[:, :, :, taps - 2 : taps] /= 2
        # In order of the pairs: .., (taps - 3, taps - 2), (taps - 2, taps - 1).
    return bf16.pack_pairs(packed, axis=3)


def conv2d_blocked(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    plan: Conv2dPlan,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    phases: Pair = (1, 1),
    columns: int | None = None,
) -> te.Tensor:
    """2-D convolution with any groups: data (N, IC / ib, H, W, ib), weight packed by the plan.

    Result: (N, ceil(OC / 16), OH, OW, 16), dtype of data, in a block of KIND "conv2d". padding:
    zeros at top, left, bottom, right. Channels past OC are zero. Channels past IC must be finite:
    they meet zeros in the weight; so do, where groups do not fill blocks, neighbouring groups.
    phases is for `conv2d_transpose_blocked`: the output's blocks are that many images, to be
    interleaved. bfloat16 data meets the words of `pair_conv2d_weight`, and the result is float32;
    where ib is 1, the kernel has `columns` columns, two or more and next to each other.
    """
    batch, _, _, _, in_block = data.shape
    blocks, steps, kernel_h, taps, depth, out_block = (int(size) for size in weight.shape)
    pairs, kernel_w = data.dtype == "bfloat16", columns or taps
    padded = pad_spatial(bf16.bits(data) if pairs else data, padding, 0.0)
    if (kernel_h, kernel_w) == (1, 1) and max(strides) > 1 and blocks >= GATHER_BLOCKS:
        padded, strides = _gather(padded, strides), (1, 1)
    out_h, out_w = _out_size(padded, (kernel_h, kernel_w), strides, dilation)
    rc = te.reduce_axis((0, steps), name="rc")
    kh = te.reduce_axis((0, kernel_h), name="kh")
    kw = te.reduce_axis((0, taps), name="kw")
    ri = te.reduce_axis((0, depth), name="ri")
    in_row = pairs and int(in_block) == 1
    length = 2 * depth if pairs and not in_row else depth
    parts = int(in_block) // length  # reduction blocks in one block of the input

    def element(
        n: tirx.Expr, oc: tirx.Expr, oh: tirx.Expr, ow: tirx.Expr, oi: tirx.Expr
    ) -> tirx.Expr:
        step = plan.start(oc) + rc
        block, first = (step, 0) if parts == 1 else (step // parts, step % parts * length)
        row, column = oh * strides[0] + kh * dilation[0], ow * strides[1]
        right = weight[oc, rc, kh, kw, ri, oi]
        if in_row:
            tap = column + (tirx.min(2 * kw, kernel_w - 2) if kernel_w % 2 else 2 * kw)
            left = bf16.pair(*(padded(n, block, row, tap + half, first) for half in (0, 1)))
            return te.sum(bf16.dot(left, right), axis=[rc, kh, kw, ri])
        pixel = (n, block, row, column + kw * dilation[1])
        if pairs:
            left = bf16.pair(*(padded(*pixel, first + (2 * ri + half)) for half in (0, 1)))
            return te.sum(bf16.dot(left, right), axis=[rc, kh, kw, ri])
        return te.sum(padded(*pixel, first + ri) * right, axis=[rc, kh, kw, ri])

    shape = (batch, blocks, out_h, out_w, out_block)
    asked, done = plan.nominal
    if in_row:
        asked, done = asked * kernel_w, done * 2 * taps
    attrs = {KIND: "conv2d", PHASES: list(phases), NOMINAL: [asked, done]}
    if plan.groups > 1:
        attrs[PLAN] = json.dumps(asdict(plan))
    height, width = (constant(size) for size in data.shape[2:4])
    if any(padding) and depth > 1 and not pairs and phases == (1, 1) and height and width:
        rows = kernel_h, strides[0], dilation[0], padding[0], height
        attrs[WINDOW] = [*rows, kernel_w, strides[1], dilation[1], padding[1], width]
    return te.compute(shape, element, name="conv2d", attrs=attrs)


def depthwise_conv2d_blocked(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> te.Tensor:
    """Each channel with a kernel of its own: data (N, C / b, H, W, b), weight (C / b, KH, KW, b).

    Result: (N, C / b, OH, OW, b), dtype of data, in a block of KIND "depthwise_conv2d". padding:
    zeros at top, left, bottom, right.
    """
    batch, blocks, _, _, block = data.shape
    _, kernel_h, kernel_w, _ = weight.shape
    padded = pad_spatial(data, padding, 0.0)
    out_h, out_w = _out_size(padded, (kernel_h, kernel_w), strides, dilation)
    kh = te.reduce_axis((0, kernel_h), name="kh")
    kw = te.reduce_axis((0, kernel_w), name="kw")

    def element(
        n: tirx.Expr, c: tirx.Expr, oh: tirx.Expr, ow: tirx.Expr, ci: tirx.Expr
    ) -> tirx.Expr:
        row, column = oh * strides[0] + kh * dilation[0], ow * strides[1] + kw * dilation[1]
        return te.sum(padded[n, c, row, column, ci] * weight[c, kh, kw, ci], axis=[kh, kw])

    return te.compute(
        (batch, blocks, out_h, out_w, block),
        element,
        name="depthwise_conv2d",
        attrs={KIND: "depthwise_conv2d"},
    )


def pad_spatial(data: te.Tensor, padding: Padding, value: float) -> te.Tensor:
    """Blocked data with rows and columns of `value` around it; `data` itself for no padding."""
    top, left, bottom, right = padding
    if not any(padding):
        return data
    batch, blocks, height, width, block = data.shape

    def element(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr, ci: tirx.Expr) -> tirx.Expr:
        inside = []
        if top:
            inside.append(h >= top)
        if bottom:
            inside.append(h < height + top)
        if left:
            inside.append(w >= left)
        if right:
            inside.append(w < width + left)
        fill = tirx.const(value, data.dtype)
        return tirx.if_then_else(tirx.all(*inside), data[n, c, h - top, w - left, ci], fill)

    shape = (batch, blocks, height + top + bottom, width + left + right, block)
    return te.compute(shape, element, name="pad", attrs={KIND: PAD_KIND})


def _gather(data: te.Tensor, strides: Pair) -> te.Tensor:
    """The pixels that a strided 1x1 kernel meets, next to each other.

    Else every block of output channels would walk over the pixels between them again, and use
    only the half of each cache's sets that theirs fall into.
    """
    batch, blocks, height, width, block = data.shape
    shape = (batch, blocks, (height - 1) // strides[0] + 1, (width - 1) // strides[1] + 1, block)
    return te.compute(
        shape,
        lambda n, c, h, w, ci: data[n, c, h * strides[0], w * strides[1], ci],
        name="gather",
        attrs={KIND: PAD_KIND},
    )


def _out_size(
    padded: te.Tensor, kernel: Sequence[tirx.Expr | int], strides: Pair, dilation: Pair
) -> list[tirx.Expr]:
    sizes = []
    for size, taps, stride, step in zip(padded.shape[2:4], kernel, strides, dilation, strict=True):
        known, extent = constant(size), (int(taps) - 1) * step + 1
        assert known is None or known >= extent, f"{known} pixels, and the kernel spans {extent}"
        sizes.append((size - extent) // stride + 1)
    return sizes
