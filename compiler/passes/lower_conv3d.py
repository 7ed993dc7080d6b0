"""Write convolutions over three axes as those over two."""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, array_constant, op_name, static_shape


@tvm.transform.module_pass(opt_level=0, name="LowerConv3d")
class LowerConv3d:
    """Turn conv3d and conv3d_transpose into their two-dimensional forms over single slices.

        y = R.nn.conv3d(x, w)    =>    s = gather_slices(x)    # (N * D', KD * C, H, W)
                                       p = R.nn.conv2d(s, reshape(w, (O, KD * C, KH, KW)))
                                       y = R.permute_dims(R.reshape(p, (N, D', O, H', W')), ...)

    A slice of the result reads KD slices of the input; they become channels of an image, and the
    slices of the result a batch. Of a transposed convolution each gathered image makes `stride`
    slices, which are output channels until they are dealt out. So the layouts and schedule rules
    of two axes serve three (a kernel one tap wide in the first two axes, or the last two, is one
    over an image as it lies), at the price of KD copies of the input (U-Net of 16 to 64 channels on
    16x48x48: 21 ms, where loops over three axes took 8.5 s; Zen 4, one core). Sizes must be known,
    and weights constant. Before SplitPhases. Keeps results but for the order of sums.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod).run()


class _Rewriter(GraphRewriter):
    def concerns(self, call: Call) -> bool:
        return op_name(call) in ("relax.nn.conv3d", "relax.nn.conv3d_transpose")

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        if kind not in ("relax.nn.conv3d", "relax.nn.conv3d_transpose"):
            return None
        image, result = static_shape(call.args[0]), static_shape(old)
        weights = self.constant(call.args[1])
        if image is None or result is None or weights is None or 0 in (*image, *result):
            return None
        if call.attrs.data_layout != "NCDHW":
            return None
        if kind == "relax.nn.conv3d":
            known = call.attrs.kernel_layout == "OIDHW"
            return self.convolution(call, weights, name, result) if known else None
        known = call.attrs.kernel_layout == "IODHW" and int(call.attrs.dilation[0]) == 1
        return self.transposed(call, weights, name, result) if known else None

    def convolution(
        self, call: Call, weights: np.ndarray, name: str, result: tuple[int, ...]
    ) -> Expr:
        attrs, groups = call.attrs, int(call.attrs.groups)
        strides, padding, dilation = _numbers(attrs)
        outputs, channels, taps, *kernel = weights.shape
        alone = [
            (taps, *kernel)[i] == strides[i] == 1 and not padding[i] and not padding[i + 3]
            for i in (0, 1, 2)
        ]
        if alone[1] and (alone[0] or alone[2]):
            return self.along_one_axis(call, weights, name, result, 2 if alone[0] else 0)
        first = [(tap * dilation[0] - padding[0]) for tap in range(taps)]
        images = self.gathered(call.args[0], groups, result[2], strides[0], first)
        flat = weights.transpose(0, 2, 1, 3, 4).reshape(outputs, taps * channels, *kernel)
        made = relax.op.nn.conv2d(
            images,
            array_constant(flat),
            strides=strides[1:],
            padding=[*padding[1:3], *padding[4:]],
            dilation=dilation[1:],
            groups=groups,
            out_dtype=str(call.ty.dtype),
        )
        slices = self.emit(made, f"{name}_slices")
        apart = relax.op.reshape(slices, [result[0], result[2], result[1], *result[3:]])
        return self.emit(relax.op.permute_dims(self.emit(apart), [0, 2, 1, 3, 4]), name)

    def along_one_axis(
        self, call: Call, weights: np.ndarray, name: str, result: tuple[int, ...], axis: int
    ) -> Expr:
        """A convolution whose kernel is one tap wide in the two axes but `axis`, the first or last.

        Those two are neighbours, and one axis of an image.
        """
        attrs, (strides, padding, dilation) = call.attrs, _numbers(call.attrs)
        image = static_shape(call.args[0])
        assert image is not None, "only known sizes are lowered"
        joined = (2, 4) if axis == 2 else (3, 5)

        def flat(shape: tuple[int, ...]) -> list[int]:
            return [*shape[: joined[0]], math.prod(shape[slice(*joined)]), *shape[joined[1] :]]

        def beside(number: int, one: int) -> list[int]:
            return [one, number] if axis == 2 else [number, one]

        made = relax.op.nn.conv2d(
            self.emit(relax.op.reshape(call.args[0], flat(image))),
            array_constant(weights.reshape(flat(weights.shape))),
            strides=beside(strides[axis], 1),
            padding=[*beside(padding[axis], 0), *beside(padding[axis + 3], 0)],
            dilation=beside(dilation[axis], 1),
            groups=int(attrs.groups),
            out_dtype=str(call.ty.dtype),
        )
        return self.emit(relax.op.reshape(self.emit(made, f"{name}_flat"), list(result)), name)

    def transposed(
        self, call: Call, weights: np.ndarray, name: str, result: tuple[int, ...]
    ) -> Expr:
        attrs, groups = call.attrs, int(call.attrs.groups)
        strides, padding, dilation = _numbers(attrs)
        stride = strides[0]
        inputs, outputs, depth, *kernel = weights.shape
        taps = -(-depth // stride)
        # Slice j * stride + phase of the full result is made of the slices j, j - 1, ...
        count = -(-(padding[0] + result[2]) // stride)
        images = self.gathered(call.args[0], groups, count, 1, [-tap for tap in range(taps)])
        full = np.zeros((inputs, outputs, taps * stride, *kernel), weights.dtype)
        full[:, :, :depth] = weights
        split = full.reshape(groups, inputs // groups, outputs, taps, stride, *kernel)
        flat = split.transpose(0, 3, 1, 4, 2, 5, 6)
        made = relax.op.nn.conv2d_transpose(
            images,
            array_constant(flat.reshape(taps * inputs, stride * outputs, *kernel)),
            strides=strides[1:],
            padding=[*padding[1:3], *padding[4:]],
            output_padding=[int(size) for size in attrs.output_padding][1:],
            dilation=dilation[1:],
            groups=groups,
            out_dtype=str(call.ty.dtype),
        )
        slices = self.emit(made, f"{name}_slices")
        size = list(result[3:])
        apart = self.emit(
            relax.op.reshape(slices, [result[0], count, groups, stride, outputs, *size])
        )
        together = self.emit(relax.op.permute_dims(apart, [0, 2, 4, 1, 3, 5, 6]))
        deep = self.emit(relax.op.reshape(together, [result[0], result[1], count * stride, *size]))
        cut = relax.op.strided_slice(deep, [2], [padding[0]], [padding[0] + result[2]])
        return self.emit(cut, name)

    def gathered(self, value: Expr, groups: int, count: int, stride: int, first: list[int]) -> Expr:
        """(N, C, D, H, W) -> (N * count, len(first) * C, H, W), channels within their group.

        Image i holds the slices i * stride + f for each f of `first`, zeros where there is none.
        """
        known = static_shape(value)
        assert known is not None, "only known sizes are lowered"
        batch, channels, depth, *size = known
        taps, inside = len(first), channels // groups
        step = first[1] - first[0] if taps > 1 else 0
        shape = (batch * count, taps * channels, *size)
        ends = first[0] + min(0, (taps - 1) * step), first[0] + max(0, (taps - 1) * step)
        whole = ends[0] >= 0 and ends[1] + (count - 1) * stride < depth

        def compute(x: te.Tensor) -> te.Tensor:
            def element(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
                tap = c // inside % taps
                channel = c // (taps * inside) * inside + c % inside
                place = n % count * stride + (first[0] + tap * step)
                taken = x[n // count, channel, place, h, w]
                if whole:
                    return taken
                exists = tirx.all(place >= 0, place < depth)
                return tirx.if_then_else(exists, taken, tirx.const(0, x.dtype))

            return te.compute(shape, element, name="slices")

        if taps == 1 and whole and (count, stride) == (depth, 1) and first[0] == 0:
            swapped = self.emit(relax.op.permute_dims(value, [0, 2, 1, 3, 4]))
            return self.emit(relax.op.reshape(swapped, list(shape)))
        return self.emit(self.call(compute, value, hint="gather_slices"))


def _numbers(attrs: object) -> tuple[list[int], list[int], list[int]]:
    """Strides, padding and dilation."""
    return tuple(  # pyright: ignore[reportReturnType]
        [int(number) for number in getattr(attrs, name)]
        for name in ("strides", "padding", "dilation")
    )
