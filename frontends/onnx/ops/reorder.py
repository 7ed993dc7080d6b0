"""Elements moved by a rule: ReverseSequence, CenterCropPad, TensorScatter; and BitCast in place."""

from __future__ import annotations

from typing import Any

import onnx
from tvm import relax, te, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.known import is_equal, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensor_data import np_dtype_of
from athanor.frontends.onnx.tensors import compute, dtype_of, np_dtype, rank_of, shape_of

Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def reverse_sequence(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Of batch row b the first `lengths[b]` time steps in reverse order, the rest as it was.

    Source: https://onnx.ai/onnx/operators/onnx__ReverseSequence.html
    """
    x, lengths = inputs
    rank = rank_of(x)
    time, batch = node.axis("time_axis", rank, 0), node.axis("batch_axis", rank, 1)
    if rank < 2 or time == batch:
        raise node.error(f"time_axis={time} and batch_axis={batch} for a rank-{rank} input")
    if rank_of(lengths) != 1 or is_equal(shape_of(lengths)[0], shape_of(x)[batch]) is False:
        raise node.error(f"sequence_lens {shape_of(lengths)} for input {shape_of(x)}")

    def kernel(data: te.Tensor, length: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            # a length outside the axis is an error in ONNX; it never reads out of bounds
            count = tirx.min(length(i[batch]).astype("int64"), data.shape[time])
            step = i[time].astype("int64")
            source = tirx.Select(step < count, count - 1 - step, step)
            return data(*i[:time], source, *i[time + 1 :])

        return te.compute(data.shape, element, name="reverse_sequence")

    return compute(builder, "reverse_sequence", kernel, x, lengths)


def center_crop_pad(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The axes cropped, or padded with zeros, at both ends to the sizes in input 1.

    An odd element is cropped, or padded, at the end.
    Source: https://onnx.ai/onnx/operators/onnx__CenterCropPad.html
    """
    x = inputs[0]
    dims, sizes = shape_of(x), node.elements(1, "shape")
    axes = node.normalize_axes(node.ints("axes", range(len(dims))), len(dims))
    if len(axes) != len(sizes):
        raise node.error(f"shape {sizes} for the axes {axes}")
    if any(not is_symbolic(size) and size < 0 for size in sizes):
        raise node.error(f"shape {sizes} has a negative element")

    def kernel(data: te.Tensor, wanted: list[Any]) -> te.Tensor:
        shape = list(data.shape)
        for axis, size in zip(axes, wanted, strict=True):
            shape[axis] = size

        def element(*i: Any) -> Any:
            place, inside = list(i), []
            for axis, size in zip(axes, wanted, strict=True):
                dim = data.shape[axis]
                # both quotients round toward zero
                before = tirx.Select(
                    size >= dim,
                    tirx.floordiv(size - dim, 2),
                    -tirx.floordiv(dim - size, 2),
                )
                place[axis] = i[axis] - before
                inside += [place[axis] >= 0, place[axis] < dim]
            if not inside:
                return data(*i)
            zero = tirx.const(0, data.dtype)
            return tirx.if_then_else(tirx.all(*inside), data(*place), zero)

        return te.compute(tuple(shape), element, name="center_crop_pad")

    return compute(builder, "center_crop_pad", kernel, x, relax.ShapeExpr(sizes))


def tensor_scatter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The cache with `update` written along an axis, from `write_indices[b]` on in batch row b.

    inputs: past_cache (B, ..., max_length, ...), update with a shorter axis, optional
    write_indices (B,), default 0. mode "circular" goes on at the start of the axis.
    Source: https://onnx.ai/onnx/operators/onnx__TensorScatter.html
    """
    cache, update = inputs[:2]
    axis = node.axis("axis", rank_of(cache), -2)
    mode = node.string("mode", "linear")
    if mode not in ("linear", "circular"):
        raise node.error(f"mode={mode!r} is neither linear nor circular")
    pairs = zip(shape_of(cache), shape_of(update), strict=False)
    fits = all(is_equal(a, b) is not False for d, (a, b) in enumerate(pairs) if d != axis)
    if axis == 0 or rank_of(cache) != rank_of(update) or not fits:
        raise node.error(
            f"axis={axis}: update {shape_of(update)} does not fit cache {shape_of(cache)}"
        )
    indices = inputs[2:] if node.has_input(2, inputs) else []

    def kernel(old: te.Tensor, new: te.Tensor, *begin: te.Tensor) -> te.Tensor:
        length, extent = old.shape[axis], new.shape[axis]

        def element(*i: Any) -> Any:
            offset = i[axis].astype("int64")
            if begin:
                offset = offset - begin[0](i[0]).astype("int64")
            if mode == "circular":
                offset = tirx.floormod(offset, length)
            inside = tirx.all(offset >= 0, offset < extent)
            source = new(*i[:axis], offset, *i[axis + 1 :])
            return tirx.if_then_else(inside, source, old(*i))

        return te.compute(old.shape, element, name="tensor_scatter")

    return compute(builder, "tensor_scatter", kernel, cache, update, *indices)


def bit_cast(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The same bits as another element type of the same width.

    Source: https://onnx.ai/onnx/operators/onnx__BitCast.html
    """
    x = inputs[0]
    have = dtype_of(x)
    number = node.int("to")
    if number not in onnx.TensorProto.DataType.values():
        raise node.error(f"to={number} is no element type")
    try:
        wanted = np_dtype_of(number, "to")
    except CompileError as error:
        raise node.error(str(error)) from error
    if wanted.kind in "OSUc" or np_dtype(have).itemsize != wanted.itemsize:
        raise node.error(f"{have} can't be read as {wanted.name}: their widths differ")
    if wanted.name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn"):
        raise node.error(f"element type {wanted.name} is not supported")

    def kernel(data: te.Tensor) -> te.Tensor:
        if data.dtype == "bool":  # stored as one byte
            return te.compute(data.shape, lambda *i: data(*i).astype(wanted.name), name="bit_cast")
        if wanted.name == "bool":
            return te.compute(data.shape, lambda *i: data(*i) != 0, name="bit_cast")
        return te.compute(
            data.shape, lambda *i: tirx.reinterpret(wanted.name, data(*i)), name="bit_cast"
        )

    return x if have == wanted.name else compute(builder, "bit_cast", kernel, x)
