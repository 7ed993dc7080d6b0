"""Operators between images and patches: DeformConv, Col2Im and MaxUnpool."""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.known import (
    is_equal,
    is_symbolic,
    product,
    simplify,
    truncated_quotient,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.windows import Windows, positive
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    per_channel,
    rank_of,
    reshape,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def deform_conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """A convolution whose every tap is moved by an offset of its own, and scaled by a mask.

    inputs: x (N, C, H, W), w (O, C/group, kh, kw), offset (N, offset_group*kh*kw*2, OH, OW) as
    y, x pairs, optional bias (O,), optional mask (N, offset_group*kh*kw, OH, OW). The samples
    become columns, which a matrix product takes in.
    Source: https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    x, weight, offset = inputs[:3]
    if rank_of(x) != 4 or rank_of(weight) != 4:
        raise node.error(f"weights {shape_of(weight)} for input {shape_of(x)}; 2-d is supported")
    batch, channels, *dims = shape_of(x)
    count, per_group, *kernel = shape_of(weight)
    if node.ints("kernel_shape", kernel) != kernel or any(
        is_symbolic(d) for d in (channels, *dims)
    ):
        raise node.error(f"weights {shape_of(weight)} for input {shape_of(x)}")
    windows = Windows(node, dims, kernel)
    strides, dilations, pads, result = (
        windows.strides,
        windows.dilations,
        windows.pads,
        windows.counts,
    )
    group, offsets = node.int("group", 1), node.int("offset_group", 1)
    if group < 1 or offsets < 1 or channels != per_group * group or channels % offsets:
        raise node.error(f"group={group}, offset_group={offsets} for {channels} channels")
    taps = kernel[0] * kernel[1]
    mask = inputs[4:5] if node.has_input(4, inputs) else []
    for value, factor in [(offset, 2), *((m, 1) for m in mask)]:
        wanted = [batch, offsets * taps * factor, *result]
        if not all(is_equal(a, b) for a, b in zip(shape_of(value), wanted, strict=True)):
            raise node.error(f"offset or mask {shape_of(value)}, expected {wanted}")
    work = accumulation_dtype(dtype_of(x))

    def columns(data: te.Tensor, moved: te.Tensor, *scale: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, tap: Any, row: Any, column: Any) -> Any:
            number = tirx.floordiv(c, channels // offsets) * taps + tap
            places = []
            for axis, (out, index) in enumerate(
                ((row, tirx.floordiv(tap, kernel[1])), (column, tirx.floormod(tap, kernel[1])))
            ):
                start = out * strides[axis] + index * dilations[axis] - pads[axis]
                shift = moved(n, number * 2 + axis, row, column).astype(work)
                places.append(_corners(start.astype(work) + shift, dims[axis]))
            total: Any = tirx.const(0, work)
            for y, y_weight in places[0]:
                for z, z_weight in places[1]:
                    total = total + data(n, c, y, z).astype(work) * (y_weight * z_weight)
            if scale:
                total = total * scale[0](n, number, row, column).astype(work)
            return total

        shape = (data.shape[0], channels, taps, *result)
        return te.compute(shape, element, name="deform_columns")

    sampled = compute(builder, "deform_columns", columns, x, offset, *mask)
    depth, pixels = per_group * taps, result[0] * result[1]
    sampled = reshape(sampled, [batch, group, depth, pixels], builder)
    left = reshape(cast(weight, work, builder), [group, count // group, depth], builder)
    product_ = builder.emit(R.matmul(left, sampled))
    y = cast(reshape(product_, [batch, count, *result], builder), dtype_of(x), builder)
    if node.has_input(3, inputs):
        y = builder.emit(R.add(y, per_channel(inputs[3], 4, builder)))
    return y


def _corners(position: Any, dim: int) -> list[tuple[Any, Any]]:
    """The two elements around a position and their weights; 0 for one that is outside."""
    dtype = position.ty.dtype
    low = tirx.const(-2, dtype)
    bounded = tirx.min(tirx.max(position, low), tirx.const(dim + 1, dtype))  # also for NaN
    base = tirx.floor(bounded)
    rest = bounded - base
    corners = []
    for step, weight in ((0, tirx.const(1, dtype) - rest), (1, rest)):
        index = base.astype("int64") + step
        inside = tirx.all(index >= 0, index < dim)
        safe = tirx.max(tirx.min(index, tirx.IntImm("int64", dim - 1)), tirx.IntImm("int64", 0))
        corners.append((safe, tirx.Select(inside, weight, tirx.const(0, dtype))))
    return corners


def col2im(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """Images that patches are added up into, each where it was taken from.

    inputs: x (N, C * block elements, patches), image_shape, block_shape. Attributes: dilations,
    pads, strides.
    Source: https://onnx.ai/onnx/operators/onnx__Col2Im.html
    """
    x, image, block = inputs[0], node.elements(1, "image_shape"), node.elements(2, "block_shape")
    rank = len(image)
    strides, dilations = (positive(node, name, rank) for name in ("strides", "dilations"))
    pads = node.ints("pads", [0] * (2 * rank))
    if rank_of(x) != 3 or len(block) != rank or len(pads) != 2 * rank:
        raise node.error(f"block_shape={block}, pads={pads} for image_shape={image}")
    counts = [
        simplify(
            (image[a] + pads[a] + pads[a + rank] - dilations[a] * (block[a] - 1) - 1) // strides[a]
            + 1
        )
        for a in range(rank)
    ]
    _, rows, patches = shape_of(x)
    size, expected = product(block), product(counts)
    known = not any(is_symbolic(value) for value in (rows, size, expected, patches))
    if known and (size < 1 or rows % size or patches != expected):
        raise node.error(f"input {shape_of(x)} for block_shape={block} and image_shape={image}")
    channels = truncated_quotient(rows, size)
    builder.require_equal(patches, expected)
    builder.require_equal(rows, product([channels, size]))

    def kernel(
        data: te.Tensor, shape: list[Any], blocks: list[Any], window: list[Any], groups: list[Any]
    ) -> te.Tensor:
        taps = [te.reduce_axis((0, extent), name=f"k{a}") for a, extent in enumerate(window)]

        def element(n: Any, c: Any, *place: Any) -> Any:
            row, column, inside = c, tirx.IntImm("int64", 0), []
            for a, (position, tap) in enumerate(zip(place, taps, strict=True)):
                start = position + pads[a] - tap * dilations[a]
                number = tirx.floordiv(start, strides[a])
                inside += [tirx.floormod(start, strides[a]) == 0, number >= 0, number < blocks[a]]
                row, column = row * window[a] + tap, column * blocks[a] + number
            value = tirx.if_then_else(
                tirx.all(*inside), data(n, row, column), tirx.const(0, data.dtype)
            )
            return te.sum(value, axis=taps)

        return te.compute((data.shape[0], *groups, *shape), element, name="col2im")

    shapes = [relax.ShapeExpr(each) for each in (image, counts, block, [channels])]
    return compute(builder, "col2im", kernel, x, *shapes)


def max_unpool(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """MaxPool undone: each element where its index says, 0 elsewhere.

    inputs: x, indices (flat, in the tensor that the attributes give the shape of), optional
    output_shape, into whose corner that tensor is put.
    Source: https://onnx.ai/onnx/operators/onnx__MaxUnpool.html
    """
    x, indices = inputs[:2]
    dims = shape_of(x)
    rank = len(dims) - 2
    sizes = node.ints("kernel_shape")
    strides, pads = node.ints("strides", [1] * rank), node.ints("pads", [0] * (2 * rank))
    if any(is_symbolic(dim) for dim in dims):
        raise node.error(f"input {dims} has a symbolic dimension; fix it with shapes=")
    if (len(sizes), len(strides), len(pads)) != (rank, rank, 2 * rank) or shape_of(indices) != dims:
        raise node.error(f"kernel_shape={sizes}, indices {shape_of(indices)} for input {dims}")
    shape = dims[:2] + [
        (dims[a + 2] - 1) * strides[a] + sizes[a] - pads[a] - pads[a + rank] for a in range(rank)
    ]
    count, total = int(np.prod(dims)), int(np.prod(shape))
    if min(shape) < 1 or count == 0:
        raise node.error(f"a result of shape {shape} for input {dims}")
    kernel = builder.add_func(_unpool_kernel(count, total, dtype_of(x)), "max_unpool")
    flat = [
        reshape(x, [count], builder),
        reshape(cast(indices, "int64", builder), [count], builder),
    ]
    call = relax.call_tir(kernel, flat, relax.TensorType([total], dtype_of(x)))
    y = reshape(builder.emit(call), shape, builder)
    if not node.has_input(2, inputs):
        return y
    wanted = node.elements(2, "output_shape")
    if len(wanted) != len(shape):
        raise node.error(f"output_shape={wanted} for a result of shape {shape}")
    for want, have in zip(wanted, shape, strict=True):
        if is_symbolic(want):
            builder.require(want >= have, f"output_shape has to be at least {shape}")
        elif want < have:
            raise node.error(f"output_shape={wanted} is smaller than {shape}")

    def corner(data: te.Tensor, dims: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            inside = [place < dim for place, dim in zip(i, data.shape, strict=True)]
            return tirx.if_then_else(tirx.all(*inside), data(*i), tirx.const(0, data.dtype))

        return te.compute(tuple(dims), element, name="unpool_corner")

    return compute(builder, "unpool_corner", corner, y, relax.ShapeExpr(wanted))


def _unpool_kernel(count: int, total: int, dtype: str) -> tirx.PrimFunc:
    zero = tirx.const(0, dtype)

    def inside(index: Any) -> Any:
        return tirx.all(index >= 0, index < total)  # others are an error in ONNX

    @T.prim_func(private=True, s_tir=True)
    def unpool(
        X: T.Buffer((count,), dtype),
        I: T.Buffer((count,), "int64"),  # noqa: E741
        Y: T.Buffer((total,), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            for i in T.serial(total):
                Y[i] = zero
            for i in T.serial(count):
                if inside(I[i]):
                    Y[I[i]] = X[i]

    return unpool
