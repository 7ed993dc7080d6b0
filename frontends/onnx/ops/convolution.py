"""Convolutions in 1, 2 and 3 spatial dimensions; NCHW data, OIHW weights."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    compute,
    dtype_of,
    per_channel,
    rank_of,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_CONV = {1: R.nn.conv1d, 2: R.nn.conv2d, 3: R.nn.conv3d}
_LAYOUT = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


def conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Cross-correlation with weights (O, C/group, k...), plus bias (O,) when given.

    inputs: x (N, C, spatial...), w, optional bias. Attributes: auto_pad, dilations, group,
    kernel_shape, pads (begins, then ends), strides.
    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    x, dtype = inputs[0], dtype_of(inputs[0])
    wide = accumulation_dtype(dtype)
    result = convolution(node, x, inputs[1], wide)
    if wide != dtype:
        result = R.astype(builder.emit(result), dtype)
    if not node.has_input(2, inputs):
        return result
    bias = per_channel(inputs[2], rank_of(x), builder)
    return R.add(builder.emit(result), bias)


def convolution(node: Node, x: relax.Expr, weight: relax.Expr, out_dtype: str) -> relax.Expr:
    """The sums of a node with Conv's attributes, in `out_dtype`, without a bias."""
    spatial = rank_of(x) - 2
    if spatial not in _CONV:
        raise node.error(f"{spatial} spatial dimensions; 1, 2 and 3 are supported")
    kernel = shape_of(weight)[2:]
    if rank_of(weight) != rank_of(x) or node.ints("kernel_shape", kernel) != kernel:
        raise node.error(
            f"weights {shape_of(weight)} do not fit input {shape_of(x)} and "
            f"kernel_shape {node.ints('kernel_shape', kernel)}"
        )
    strides, dilations = window(node, spatial)
    pads = padding(node, shape_of(x)[2:], kernel, strides, dilations)
    group = node.int("group", 1)
    channels, per_group = shape_of(x)[1], shape_of(weight)[1]
    if not is_symbolic(channels) and channels != per_group * group:
        raise node.error(
            f"input has {channels} channels; weights {shape_of(weight)} with group={group} "
            f"need {per_group * group}"
        )
    data_layout, kernel_layout = _LAYOUT[spatial]
    return _CONV[spatial](
        x,
        weight,
        strides=strides,
        padding=pads,
        dilation=dilations,
        groups=group,
        data_layout=data_layout,
        kernel_layout=kernel_layout,
        out_dtype=out_dtype,
    )


def window(node: Node, spatial: int) -> tuple[list[int], list[int]]:
    """The attributes strides and dilations, each 1 by default; CompileError unless positive."""
    strides = node.ints("strides", [1] * spatial)
    dilations = node.ints("dilations", [1] * spatial)
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != spatial or any(value < 1 for value in values):
            raise node.error(f"{name}={values} has to be {spatial} positive integers")
    return strides, dilations


def padding(
    node: Node, dims: list[Any], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    """Pads before and after each spatial axis (begins, then ends), after auto_pad.

    SAME_UPPER and SAME_LOWER give ceil(dim / stride) results; the odd pad goes to the end or
    to the beginning.
    """
    spatial = len(kernel)
    mode = node.string("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = node.ints("pads", [0] * (2 * spatial))
        if len(pads) != 2 * spatial:
            raise node.error(f"pads={pads} has to be {2 * spatial} integers")
        return pads
    if mode == "VALID":
        return [0] * (2 * spatial)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"auto_pad={mode!r} is not one of the standard's modes")
    begins, ends = [], []
    for dim, size, stride, dilation in zip(dims, kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        if is_symbolic(dim):
            if stride != 1:
                raise node.error(
                    f"auto_pad={mode} with stride {stride} on the symbolic dimension "
                    f"{simplify(dim)}; fix the dimension with shapes="
                )
            total = reach - 1
        else:
            total = max((-(-dim // stride) - 1) * stride + reach - dim, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


_TRANSPOSED = {1: R.nn.conv1d_transpose, 2: R.nn.conv2d_transpose, 3: R.nn.conv3d_transpose}
_TRANSPOSED_LAYOUT = {1: ("NCW", "IOW"), 2: ("NCHW", "IOHW"), 3: ("NCDHW", "IODHW")}


def conv_transpose(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The transpose of `conv` with weights (C, O/group, k...), plus bias (O,) when given.

    Result size: stride * (dim - 1) + output_padding + (k - 1) * dilation + 1 - pads, or
    output_shape, from which the pads follow.
    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    x, weight = inputs[0], inputs[1]
    spatial = rank_of(x) - 2
    if spatial not in _TRANSPOSED:
        raise node.error(f"{spatial} spatial dimensions; 1, 2 and 3 are supported")
    kernel, group = shape_of(weight)[2:], node.int("group", 1)
    if shape_of(x)[1] != shape_of(weight)[0] and not is_symbolic(shape_of(x)[1]):
        raise node.error(f"weights {shape_of(weight)} do not fit input {shape_of(x)}")
    strides, dilations = window(node, spatial)
    extra = node.ints("output_padding", [0] * spatial)
    begins, result_dims = _transposed_sizes(
        node, shape_of(x)[2:], kernel, strides, dilations, extra
    )
    ends = [
        simplify(stride * (dim - 1) + (size - 1) * dilation + 1 + more - begin - out)
        for stride, dim, size, dilation, more, begin, out in zip(
            strides, shape_of(x)[2:], kernel, dilations, extra, begins, result_dims, strict=True
        )
    ]
    plain = all(not is_symbolic(e) and e >= 0 for e in (*begins, *ends))
    if plain and set(dilations) == {1} and all(e < s for e, s in zip(extra, strides, strict=True)):
        data_layout, kernel_layout = _TRANSPOSED_LAYOUT[spatial]
        result = _TRANSPOSED[spatial](
            x,
            weight,
            strides=strides,
            padding=begins + ends,
            output_padding=extra,
            groups=group,
            data_layout=data_layout,
            kernel_layout=kernel_layout,
        )
        result = builder.emit(result)
    else:
        result = _gathered_transpose(
            x, weight, strides, dilations, begins, result_dims, group, builder
        )
    if not node.has_input(2, inputs):
        return result
    return R.add(result, per_channel(inputs[2], rank_of(x), builder))


def _transposed_sizes(
    node: Node,
    dims: list[Any],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    extra: list[int],
) -> tuple[list[Any], list[Any]]:
    """Pads at the beginning and result sizes of a transposed convolution."""
    mode = node.string("auto_pad", "NOTSET")
    full = [
        simplify(stride * (dim - 1) + more + (size - 1) * dilation + 1)
        for dim, size, stride, dilation, more in zip(
            dims, kernel, strides, dilations, extra, strict=True
        )
    ]
    wanted: list[Any] | None = None
    if node.has("output_shape"):
        wanted = node.ints("output_shape")[-len(dims) :]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [simplify(dim * stride) for dim, stride in zip(dims, strides, strict=True)]
    if wanted is None:
        pads = [0] * (2 * len(dims)) if mode == "VALID" else node.ints("pads", [0] * 2 * len(dims))
        ends = pads[len(dims) :]
        sizes = [simplify(f - b - e) for f, b, e in zip(full, pads, ends, strict=False)]
        return list(pads[: len(dims)]), sizes
    begins = []
    for have, want in zip(full, wanted, strict=True):
        total = simplify(have - want)
        if is_symbolic(total):
            raise node.error("output_shape with a symbolic input dimension; fix it with shapes=")
        total = max(total, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return begins, wanted


def _gathered_transpose(
    x: relax.Expr,
    weight: relax.Expr,
    strides: list[int],
    dilations: list[int],
    begins: list[Any],
    result_dims: list[Any],
    group: int,
    builder: Builder,
) -> relax.Expr:
    """Any transposed convolution, each result gathering the inputs that reach it."""
    kernel, dtype = shape_of(weight)[2:], dtype_of(x)
    inner, outer = shape_of(weight)[0] // group, shape_of(weight)[1]

    def compute_transpose(data: te.Tensor, filters: te.Tensor, sizes: list[Any]) -> te.Tensor:
        c = te.reduce_axis((0, inner), name="c")
        taps = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(kernel)]

        def element(n: Any, o: Any, *place: Any) -> Any:
            inside, source = [], []
            for axis, position in enumerate(place):
                reached = position + begins[axis] - taps[axis] * dilations[axis]
                index = tirx.floordiv(reached, strides[axis])
                inside += [
                    tirx.floormod(reached, strides[axis]) == 0,
                    index >= 0,
                    index < data.shape[axis + 2],
                ]
                source.append(index)
            channel = tirx.floordiv(o, outer) * inner + c
            value = data(n, channel, *source) * filters(channel, tirx.floormod(o, outer), *taps)
            guarded = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dtype))
            return te.sum(guarded, axis=[c, *taps])

        shape = (data.shape[0], outer * group, *sizes)
        return te.compute(shape, element, name="conv_transpose")

    sizes = relax.ShapeExpr(result_dims)
    return compute(builder, "conv_transpose", compute_transpose, x, weight, sizes)
