"""Compute convolutions apart where parts of the result meet different taps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, array_constant, op_name, static_shape
from athanor.targets import TargetSpec

SAVING = 2.0
"""How many times cheaper the parts must be: each keeps weights of its own, and where less is dead
Winograd's method saves as much."""
PART_CYCLES = 10000
"""To start one more kernel on every thread and wait for all."""


@dataclass(frozen=True)
class Band:
    """Consecutive results of an axis, and what of the input and the kernel they meet."""

    results: int
    taps: tuple[int, int]
    """The first, and one past the last."""
    inputs: tuple[int, int]
    """The first element, and one past the last."""
    pads: tuple[int, int] = (0, 0)


@tvm.transform.module_pass(opt_level=0, name="SplitBands")
class SplitBands:
    """Cut the result of a convolution into bands of rows and columns that meet no padding.

        y = R.nn.conv2d(x, w, padding=(12, 0), dilation=12)  # x (N, C, 16, W), w (O, C, 3, 1)
        =>
        a = R.nn.conv2d(x, w[:, :, 1:], dilation=12)         # rows 0 to 3: taps at h and h + 12
        b = R.nn.conv2d(x[:, :, 4:12], w[:, :, 1:2])         # rows 4 to 11: the tap at h
        c = R.nn.conv2d(x, w[:, :, :2], dilation=12)
        y = R.concat((a, b, c), axis=2)

    Where most products are with padding, as in dilated kernels that span about the whole map.
    After TrimKernels, which copies nothing; before BlockLayouts. Keeps results but for the order
    of sums, where the taps are finite.
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

    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.nn.conv2d" and any(int(pad) for pad in call.attrs.padding)

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        weights = self.plain_weights(call, "relax.nn.conv2d", "OIHW")
        if weights is None:
            return None
        attrs = call.attrs
        image, result = static_shape(call.args[0]), static_shape(old)
        if image is None or result is None or 0 in (*image, *result, *weights.shape):
            return None
        pads = [int(pad) for pad in attrs.padding]
        options: list[list[list[Band]]] = []
        for axis in (0, 1):
            sizes, ends = (image[axis + 2], result[axis + 2]), (pads[axis], pads[axis + 2])
            taps, stride = weights.shape[axis + 2], int(attrs.strides[axis])
            whole = [Band(sizes[1], (0, taps), (0, sizes[0]), ends)]
            split = bands(*sizes, taps, stride, int(attrs.dilation[axis]), ends[0])
            options.append([whole, split or whole])
        grids = list(itertools.product(*options))

        def cycles(grid: tuple[list[Band], ...]) -> float:
            rows, columns = grid
            return sum(self.cycles(r, c, image, weights.shape) for r in rows for c in columns)

        grid = min(grids, key=cycles)
        if cycles(grid) * SAVING > cycles(grids[0]):
            return None
        lines = []
        for row in grid[0]:
            parts = [
                relax.op.nn.conv2d(
                    self.cut(call.args[0], row, column, image),
                    array_constant(weights[:, :, slice(*row.taps), slice(*column.taps)]),
                    strides=attrs.strides,
                    padding=[row.pads[0], column.pads[0], row.pads[1], column.pads[1]],
                    dilation=attrs.dilation,
                    groups=int(attrs.groups),
                    out_dtype=str(old.ty.dtype),
                )
                for column in grid[1]
            ]
            lines.append(self.join([self.emit(part, f"{name}_part") for part in parts], 3, name))
        return self.join(lines, 2, name)

    def cycles(
        self, row: Band, column: Band, image: tuple[int, ...], kernel: tuple[int, ...]
    ) -> float:
        """Of one part: to multiply or to fetch its weights, and to move inputs and results."""
        lanes = self.target.lanes(32)
        weights = math.prod(kernel[:2])
        for band in (row, column):
            weights *= band.taps[1] - band.taps[0]
        outputs = image[0] * row.results * column.results
        products = weights * max(outputs / (lanes * self.target.fma_pipes), 1.0)
        inputs = image[0] * image[1] * math.prod(b.inputs[1] - b.inputs[0] for b in (row, column))
        return products + (inputs + 2 * outputs * kernel[0]) / lanes + PART_CYCLES

    def cut(self, data: Expr, row: Band, column: Band, image: tuple[int, ...]) -> Expr:
        """The rows and columns of the input that a part reads."""
        if (row.inputs, column.inputs) == ((0, image[2]), (0, image[3])):
            return data
        (top, bottom), (left, right) = row.inputs, column.inputs
        return self.emit(relax.op.strided_slice(data, [2, 3], [top, left], [bottom, right]))

    def join(self, parts: list[Expr], axis: int, name: str) -> Expr:
        """The parts next to each other."""
        return self.emit(relax.op.concat(parts, axis=axis), name) if len(parts) > 1 else parts[0]


def bands(length: int, results: int, taps: int, stride: int, step: int, pad: int) -> list[Band]:
    """The results of an axis by the taps that meet the input; none where some meet none.

    length: elements of the input; step: the dilation; pad: elements before the input.
    """
    met = []
    for place in range(results):
        begin = place * stride - pad
        first = max(0, -(begin // step))
        last = min(taps, -(-(length - begin) // step))
        met.append((first, last))
    if any(last <= first for first, last in met):
        return []
    found, place = [], 0
    for (first, last), run in itertools.groupby(met):
        count = len(list(run))
        begin = place * stride - pad + first * step
        end = begin + (count - 1) * stride + (last - 1 - first) * step + 1
        found.append(Band(count, (first, last), (begin, end)))
        place += count
    return found
