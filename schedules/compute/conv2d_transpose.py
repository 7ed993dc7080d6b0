"""Transposed convolutions as ordinary ones, a set of output channels for each phase."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from athanor.schedules.compute.conv2d import (
    Conv2dPlan,
    Padding,
    Pair,
    conv2d_blocked,
    pack_conv2d_weight,
    plan_conv2d,
)


def plan_conv2d_transpose(
    in_channels: int,
    out_channels: int,
    kernel: Pair,
    strides: Pair,
    dilation: Pair,
    groups: int,
    channel_block: int,
) -> Conv2dPlan | None:
    """How to run a transposed convolution on blocked data: the plan of the convolution it becomes.

    Output rows i * stride + phase read the same input rows for one phase, with every stride-th tap
    of the kernel. So each phase is a convolution of stride 1 with a kernel of ceil(K / stride)
    taps, and the phases are output channels of one convolution; nothing is multiplied by the zeros
    that the textbook puts between pixels. None, which is plain NCHW: groups or dilation.
    """
    if groups != 1 or dilation != (1, 1) or min(strides) < 1:
        return None
    blocks = -(-out_channels // channel_block) * strides[0] * strides[1]
    return plan_conv2d(
        in_channels, blocks * channel_block, phase_taps(kernel, strides), 1, channel_block
    )


def pack_conv2d_transpose_weight(weight: np.ndarray, plan: Conv2dPlan, strides: Pair) -> np.ndarray:
    """Weight IOHW, as ONNX has it -> packed by the plan, blocks of channels phase by phase."""
    padded_channels = plan.out_channels // (strides[0] * strides[1])
    missing = padded_channels - weight.shape[1]
    full = np.pad(weight, ((0, 0), (0, missing), (0, 0), (0, 0)))
    return pack_conv2d_weight(phase_weights(full, strides), plan)


def phase_weights(weight: np.ndarray, strides: Pair, groups: int = 1) -> np.ndarray:
    """Weight (I, O / groups, KH, KW) -> (O * phases, I / groups, taps...), phases within a group.

    Taps are reversed, and zeros fill the phases that have one tap less than others.
    """
    inputs, channels, *kernel = weight.shape
    rows, columns = phase_taps((kernel[0], kernel[1]), strides)
    full = np.zeros((inputs, channels, rows * strides[0], columns * strides[1]), weight.dtype)
    full[:, :, : kernel[0], : kernel[1]] = weight
    inside = inputs // groups
    taps = full.reshape(groups, inside, channels, rows, strides[0], columns, strides[1])
    phases = taps[:, :, :, ::-1, :, ::-1].transpose(0, 4, 6, 2, 1, 3, 5)
    return phases.reshape(-1, inside, rows, columns)


def conv2d_transpose_blocked(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    plan: Conv2dPlan,
    kernel: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    output_padding: Pair = (0, 0),
) -> te.Tensor:
    """Transposed convolution: data (N, IC / ib, H, W, ib), weight packed for the plan.

    Result: (N, ceil(OC / 16), OH, OW, 16) with OH = (H - 1) * stride + KH - top - bottom +
    output_padding: a block of KIND "conv2d" that computes the phases, and one that interleaves
    them. padding cuts rows and columns off the result.
    """
    batch, _, *size, _ = data.shape
    taps = phase_taps(kernel, strides)
    out_size = [
        (size[i] - 1) * strides[i] + kernel[i] - padding[i] - padding[i + 2] + output_padding[i]
        for i in (0, 1)
    ]
    # Rows of one phase: the input's, and what the kernel and the output's padding reach past it.
    extra = [(kernel[i] - 1 - padding[i + 2] + output_padding[i]) // strides[i] for i in (0, 1)]
    around = (taps[0] - 1, taps[1] - 1, extra[0], extra[1])
    product = conv2d_blocked(data, weight, plan=plan, padding=around, phases=strides)
    out_blocks = int(weight.shape[0]) // (strides[0] * strides[1])

    def element(n: tirx.Expr, o: tirx.Expr, h: tirx.Expr, w: tirx.Expr, i: tirx.Expr) -> tirx.Expr:
        row, column = h + padding[0], w + padding[1]
        phase = row % strides[0] * strides[1] + column % strides[1]
        block = phase * out_blocks + o
        return product[n, block, row // strides[0], column // strides[1], i]

    shape = (batch, out_blocks, *out_size, weight.shape[-1])
    return te.compute(shape, element, name="conv2d_transpose")


@dataclass(frozen=True)
class Phase:
    """The convolution of one phase alone: rows and columns, in that order."""

    weights: np.ndarray
    """(O, I, taps...), OIHW; of no taps where the stride is longer than the kernel."""
    pads: Padding
    skipped: Pair
    """Rows and columns of the phase before those that the result has."""


def phases_apart(
    weight: np.ndarray, strides: Pair, padding: Padding, output_padding: Pair
) -> list[Phase]:
    """The phases of weight IOHW, row by row, each with its own taps and no others."""
    found = []
    for offset in itertools.product(range(strides[0]), range(strides[1])):
        taps = weight[:, :, offset[0] :: strides[0], offset[1] :: strides[1]]
        skipped, ends = [], []
        for i in (0, 1):
            skipped.append(max(0, -((offset[i] - padding[i]) // strides[i])))
            reach = weight.shape[i + 2] - 1 - padding[i + 2] + output_padding[i] - offset[i]
            ends.append(reach // strides[i])
        top, left = (taps.shape[i + 2] - 1 - skipped[i] for i in (0, 1))
        turned = taps[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        found.append(Phase(turned, (top, left, ends[0], ends[1]), (skipped[0], skipped[1])))
    return found


def interleave_blocked(
    parts: Sequence[te.Tensor],
    phases: Sequence[Phase],
    strides: Pair,
    cut: Pair,
    size: list[tirx.Expr],
) -> te.Tensor:
    """The results of `phases_apart`, (N, O / b, H, W, b) each -> (N, O / b, *size, b).

    parts: of the phases that have taps; cut: rows and columns left out at the beginning.
    """
    batch, blocks, _, _, block = parts[0].shape

    def element(n: tirx.Expr, o: tirx.Expr, h: tirx.Expr, w: tirx.Expr, i: tirx.Expr) -> tirx.Expr:
        row, column = h + cut[0], w + cut[1]
        number = row % strides[0] * strides[1] + column % strides[1]
        value, left = tirx.const(0.0, parts[0].dtype), list(parts)
        for place, phase in enumerate(phases):
            if not phase.weights.size:
                continue
            pixel = (row // strides[0] - phase.skipped[0], column // strides[1] - phase.skipped[1])
            value = tirx.if_then_else(number == place, left.pop(0)(n, o, *pixel, i), value)
        return value

    return te.compute((batch, blocks, *size, block), element, name="interleave")


def interleave(
    parts: Sequence[te.Tensor],
    later: Sequence[Pair],
    groups: int,
    strides: Pair,
    grid: Pair,
    cut: Pair,
    size: list[tirx.Expr],
) -> te.Tensor:
    """Images of phases -> (N, O, *size).

    parts: one (N, O * phases, H, W), phases within a group, or one (N, O, H, W) for each phase.
    later: rows and columns of each part before the first one that counts. grid: the rows and
    columns of phases that there are; the others are zeros. cut: rows and columns of the result's
    beginning that are left out.
    """
    phases = grid[0] * grid[1]
    out_channels = int(parts[0].shape[1]) * len(parts) // phases
    channels = out_channels // groups

    def element(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        row, column = h + cut[0], w + cut[1]
        place = row % strides[0], column % strides[1]
        pixel = row // strides[0], column // strides[1]
        phase = place[0] * grid[1] + place[1]
        if len(parts) > 1:
            taken = [
                part(n, c, pixel[0] + skipped[0], pixel[1] + skipped[1])
                for part, skipped in zip(parts, later, strict=True)
            ]
            value = taken[-1]
            for number, other in reversed(list(enumerate(taken[:-1]))):
                value = tirx.if_then_else(phase == number, other, value)
        elif groups > 1:
            channel = (c // channels * phases + phase) * channels + c % channels
            value = parts[0](n, channel, *pixel)
        else:
            value = parts[0](n, phase * channels + c, *pixel)
        there = [place[i] < grid[i] for i in (0, 1) if grid[i] < strides[i]]
        zero = tirx.const(0.0, parts[0].dtype)
        return tirx.if_then_else(tirx.all(*there), value, zero) if there else value

    return te.compute((parts[0].shape[0], out_channels, *size), element, name="interleave")


def joined_size(
    image: Sequence[int], kernel: Pair, strides: Pair, padding: Padding, output_padding: Pair
) -> Pair:
    """Rows and columns of every phase, where one convolution computes them all."""
    extra = [(kernel[i] - 1 - padding[i + 2] + output_padding[i]) // strides[i] for i in (0, 1)]
    return image[0] + extra[0], image[1] + extra[1]


def phase_taps(kernel: Pair, strides: Pair) -> Pair:
    """Taps of the convolution that computes one phase."""
    return -(-kernel[0] // strides[0]), -(-kernel[1] // strides[1])
