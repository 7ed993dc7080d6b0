"""Transposed convolutions in 1, 2 and 3 spatial dimensions; NCHW data, IOHW weights."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.windows import positive, spatial_rank
from athanor.frontends.onnx.tensors import compute, dtype_of, filled, per_channel, rank_of, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_TRANSPOSED = {1: R.nn.conv1d_transpose, 2: R.nn.conv2d_transpose, 3: R.nn.conv3d_transpose}
_TRANSPOSED_LAYOUT = {1: ("NCW", "IOW"), 2: ("NCHW", "IOHW"), 3: ("NCDHW", "IODHW")}


def conv_transpose(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The transpose of `conv` with weights (C, O/group, k...), plus bias (O,) when given.

    Result size: stride * (dim - 1) + output_padding + (k - 1) * dilation + 1 - pads, or
    output_shape, from which the pads follow.
    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    x, weight = inputs[0], inputs[1]
    spatial = spatial_rank(node, x)
    kernel, group = shape_of(weight)[2:], node.int("group", 1)
    if group < 1 or shape_of(weight)[0] % group:
        raise node.error(f"weights {shape_of(weight)} can't be divided into group={group}")
    if shape_of(x)[1] != shape_of(weight)[0] and not is_symbolic(shape_of(x)[1]):
        raise node.error(f"weights {shape_of(weight)} do not fit input {shape_of(x)}")
    strides, dilations = (positive(node, name, spatial) for name in ("strides", "dilations"))
    extra = node.ints("output_padding", [0] * spatial)
    begins, result_dims = _transposed_sizes(
        node, shape_of(x)[2:], kernel, strides, dilations, extra
    )
    sizes = [shape_of(x)[0], shape_of(weight)[1] * group, *result_dims]
    if any(not is_symbolic(dim) and dim < 0 for dim in result_dims):
        raise node.error(f"the pads leave a result of {sizes} elements of {shape_of(x)}")
    if 0 in (*shape_of(x), *shape_of(weight), *sizes):
        result = filled(sizes, 0, dtype_of(x), builder)
        return _with_bias(node, result, inputs, builder)
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
    return _with_bias(node, result, inputs, builder)


def _with_bias(node: Node, result: relax.Expr, inputs: Inputs, builder: Builder) -> relax.Expr:
    if not node.has_input(2, inputs):
        return result
    return R.add(result, per_channel(inputs[2], rank_of(result), builder))


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
