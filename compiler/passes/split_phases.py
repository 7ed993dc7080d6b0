"""Write transposed convolutions as ordinary ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax, te
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.block_layouts import read_blocked
from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    op_name,
    padding_of,
    pair_of,
    static_shape,
)
from athanor.schedules.compute.conv2d_transpose import (
    interleave,
    joined_size,
    phase_taps,
    phase_weights,
)
from athanor.targets import TargetSpec

MOVE_CYCLES = 0.4
"""To deal one element out to its place in a row; a vector pass, measured on Zen 4."""

Pair = tuple[int, int]


@tvm.transform.module_pass(opt_level=0, name="SplitPhases")
class SplitPhases:
    """Turn `conv2d_transpose` into a convolution whose output channels are phases of the result.

        y = R.nn.conv2d_transpose(x, w)    =>    p = R.nn.conv2d(x, phases of w)
                                                 y = interleave(p)        # not at stride 1

    Result rows i * stride + phase read the same input rows for one phase, with every stride-th tap
    of the kernel: a stride-1 convolution with ceil(K / stride) taps. Any number of groups. The
    blocked form of `compute.conv2d_transpose`, which rounds each phase's channels up to whole
    blocks, stays where that costs less: it interleaves where the sums lie, or gives each phase no
    more taps than it has. So do other than constant weights, and dilation.

    Phases of fewer taps than others are convolutions of their own, behind one another: in one they
    would meet zeros, which make an infinite input NaN in results that it does not reach.

    Before BlockLayouts, which lays the convolution out. Keeps results but for the order of sums.
    """

    def __init__(self, target: TargetSpec) -> None:
        self.target = target

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.target).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, target: TargetSpec) -> None:
        super().__init__(mod)
        self.target = target
        self.read_blocked = read_blocked(self.main)

    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.nn.conv2d_transpose"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        weights = self.plain_weights(call, "relax.nn.conv2d_transpose", "IOHW")
        if weights is None:
            return None
        attrs = call.attrs
        groups, strides = int(attrs.groups), pair_of(attrs.strides)
        if pair_of(attrs.dilation) != (1, 1) or 0 in (*weights.shape, *(static_shape(old) or ())):
            return None
        kernel = weights.shape[2], weights.shape[3]
        if groups == 1 and strides != (1, 1) and not self.saves(call, old, weights.shape, strides):
            return None
        taps, pads = phase_taps(kernel, strides), [int(pad) for pad in attrs.padding]
        more = pair_of(attrs.output_padding)
        # At stride 1 there is one phase, from which the convolution leaves off what is not wanted.
        cut = pads[:2] if strides == (1, 1) else [0, 0]
        ends = [(kernel[i] - 1 - pads[i + 2] + more[i]) // strides[i] for i in (0, 1)]
        around = [taps[0] - 1 - cut[0], taps[1] - 1 - cut[1], *ends]
        if min(around) < 0:
            return None
        if strides == (1, 1):
            whole = phase_weights(weights, strides, groups)
            return self.emit(self.convolve(call.args[0], whole, groups, around), name)
        # Phases without taps are zeros, and those of fewer taps than others are convolved apart.
        grid = min(kernel[0], strides[0]), min(kernel[1], strides[1])
        used = weights[:, :, : taps[0] * grid[0], : taps[1] * grid[1]]
        if all(kernel[i] <= strides[i] or kernel[i] % strides[i] == 0 for i in (0, 1)):
            phases = [
                self.convolve(call.args[0], phase_weights(used, grid, groups), groups, around)
            ]
            later = [(0, 0)]
        else:
            phases, later = self.phases_apart(call.args[0], weights, strides, groups, around)
        images = [self.emit(phase, f"{name}_phases") for phase in phases]

        def compute(*parts: te.Tensor) -> te.Tensor:
            size = [
                (parts[0].shape[i + 2] - ends[i] - 1) * strides[i]
                + (kernel[i] - pads[i] - pads[i + 2] + more[i])
                for i in (0, 1)
            ]
            return interleave(parts, later, groups, strides, grid, (pads[0], pads[1]), size)

        return self.emit(self.call(compute, *images, hint="interleave"), name)

    def phases_apart(
        self, data: Expr, weights: np.ndarray, strides: Pair, groups: int, around: list[int]
    ) -> tuple[list[Call], list[Pair]]:
        """A convolution for each phase, all of one padded copy of the input.

        And the rows and columns of each before those that it shares with the first, which has most
        taps.
        """
        pad_width = [0, 0, 0, 0, around[0], around[2], around[1], around[3]]
        padded = self.emit(relax.op.nn.pad(data, pad_width)) if any(around) else data
        phases, later = [], []
        for first in itertools.product(*map(range, strides)):
            taps = weights[:, :, first[0] :: strides[0], first[1] :: strides[1]]
            if not taps.size:
                continue
            phases.append(self.convolve(padded, phase_weights(taps, (1, 1), groups), groups))
            later.append((around[0] + 1 - taps.shape[2], around[1] + 1 - taps.shape[3]))
        return phases, later

    @staticmethod
    def convolve(
        data: Expr, weights: np.ndarray, groups: int, padding: Sequence[int] = (0, 0, 0, 0)
    ) -> Call:
        """A convolution of stride 1, weights OIHW."""
        return relax.op.nn.conv2d(
            data,
            array_constant(weights),
            padding=list(padding),
            groups=groups,
            out_dtype=str(data.ty.dtype),
        )

    def saves(self, call: Call, result: relax.Var, shape: tuple[int, ...], strides: Pair) -> bool:
        """Whether whole blocks of channels for each phase cost more than interleaving."""
        inputs, channels, *kernel = shape
        block, phases = self.target.channel_block, strides[0] * strides[1]
        taps = phase_taps((kernel[0], kernel[1]), strides)
        apart, together = (
            -(-count // block) * block * products / phases
            for count, products in (
                (channels, kernel[0] * kernel[1]),
                (channels * phases, taps[0] * taps[1]),
            )
        )
        image, known = static_shape(call.args[0]), static_shape(result)
        if image is not None and known is not None and channels >= block:
            padding, more = padding_of(call.attrs.padding), pair_of(call.attrs.output_padding)
            size = (kernel[0], kernel[1])
            height, width = joined_size(image[2:4], size, strides, padding, more)
            together *= height * width * phases / (known[2] * known[3])
        rate = self.target.lanes(32) * self.target.fma_pipes
        # A result that is wanted in NCHW is moved either way.
        moved = channels * MOVE_CYCLES if result in self.read_blocked else 0.0
        return (apart - together) * inputs / rate >= moved
