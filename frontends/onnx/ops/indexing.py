"""Reading elements by index: the Gather family and OneHot.

An index outside its dimension is an error in ONNX. Kernels can't raise, so run-time indices are
kept inside the tensor (never a read out of bounds); constant ones are checked at import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import compute, dtype_of, rank_of, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def from_front(index: Any, extent: Any) -> Any:
    """A run-time index counted from the front and kept inside [0, extent)."""
    index = index.astype("int64")
    counted = tirx.Select(index < 0, index + extent, index)
    return tirx.max(tirx.min(counted, extent - 1), tirx.const(0, "int64"))


def gather(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x[..., indices, ...]` along `axis`; negative indices count from the end.

    Source: https://onnx.ai/onnx/operators/onnx__Gather.html
    """
    x, indices = inputs[0], inputs[1]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), 0)
    known = node.known[1]
    checked = known is not None and known.is_constant and not is_symbolic(dims[axis])
    if known is not None and checked:
        values = np.asarray(known.elements, dtype=np.int64)
        extent = dims[axis]
        if np.any((values < -extent) | (values >= extent)):
            raise node.error(f"an index is outside [{-extent}, {extent - 1}] of axis {axis}")
        values = values % extent if extent else values
        if values.size == 1:
            begin = int(values.reshape(-1)[0])
            part = builder.emit(R.strided_slice(x, [axis], [begin], [begin + 1]))
            shape = dims[:axis] + list(values.shape) + dims[axis + 1 :]
            return R.reshape(part, relax.ShapeExpr(shape))
        indices = constant(values)
    width = rank_of(indices)

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])

        def element(*i: Any) -> Any:
            position = index(*i[axis : axis + width])
            if not checked:
                position = from_front(position, data.shape[axis])
            return data(*i[:axis], position, *i[axis + width :])

        return te.compute(shape, element, name="gather")

    return compute(builder, "gather", kernel, x, indices)


def gather_elements(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y[i, j, ...] = x[index[i, j, ...], j, ...]` (axis 0); y has the shape of the indices.

    Source: https://onnx.ai/onnx/operators/onnx__GatherElements.html
    """
    axis = node.axis("axis", rank_of(inputs[0]), 0)

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            position = from_front(index(*i), data.shape[axis])
            return data(*i[:axis], position, *i[axis + 1 :])

        return te.compute(index.shape, element, name="gather_elements")

    return compute(builder, "gather_elements", kernel, inputs[0], inputs[1])


def gather_nd(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The last dim of the indices is an index into x's dims after the batch dims.

    Source: https://onnx.ai/onnx/operators/onnx__GatherND.html
    """
    x, indices = inputs
    batch = node.int("batch_dims", 0)
    depth = shape_of(indices)[-1]
    if is_symbolic(depth) or batch + depth > rank_of(x):
        raise node.error(f"indices of depth {depth} and batch_dims={batch} for input {shape_of(x)}")
    outer = rank_of(indices) - 1

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        shape = (*index.shape[:outer], *data.shape[batch + depth :])

        def element(*i: Any) -> Any:
            place = [
                from_front(index(*i[:outer], level), data.shape[batch + level])
                for level in range(depth)
            ]
            return data(*i[:batch], *place, *i[outer:])

        return te.compute(shape, element, name="gather_nd")

    return compute(builder, "gather_nd", kernel, x, indices)


def one_hot(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`values[1]` where the new axis equals the index, else `values[0]`.

    Source: https://onnx.ai/onnx/operators/onnx__OneHot.html
    """
    indices, values = inputs[0], inputs[2]
    (size,) = node.elements(1, "depth")
    rank = rank_of(indices)
    axis = node.axis("axis", rank + 1, -1)

    def kernel(index: te.Tensor, value: te.Tensor, depth: Any) -> te.Tensor:
        shape = (*index.shape[:axis], depth, *index.shape[axis:])

        def element(*i: Any) -> Any:
            place = index(*i[:axis], *i[axis + 1 :]).astype("int64")
            place = tirx.Select(place < 0, place + depth, place)
            return tirx.Select(place == i[axis].astype("int64"), value(1), value(0))

        return te.compute(shape, element, name="one_hot")

    return compute(builder, "one_hot", kernel, indices, values, size)


def trilu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The upper (or lower) triangle of the last two dims, from diagonal k on; 0 elsewhere.

    Source: https://onnx.ai/onnx/operators/onnx__Trilu.html
    """
    (first,) = node.elements(1, "k") if node.has_input(1, inputs) else (0,)
    upper = bool(node.int("upper", 1))

    def kernel(data: te.Tensor, diagonal: Any) -> te.Tensor:
        def element(*i: Any) -> Any:
            offset = i[-1] - i[-2]
            kept = offset >= diagonal if upper else offset <= diagonal
            return tirx.Select(kept, data(*i), tirx.const(0, data.dtype))

        return te.compute(data.shape, element, name="trilu")

    return compute(builder, "trilu", kernel, inputs[0], first)


def eye_like(node: Node, inputs: Inputs, builder: Builder) -> Any:
    """Ones on diagonal k of a matrix of the input's shape.

    Source: https://onnx.ai/onnx/operators/onnx__EyeLike.html
    """
    from onnx import helper

    dims = shape_of(inputs[0])
    if len(dims) != 2 or any(is_symbolic(d) for d in dims):
        raise node.error(f"input {dims} has to be a matrix of fixed size")
    dtype = dtype_of(inputs[0])
    if node.has("dtype"):
        dtype = str(helper.tensor_dtype_to_np_dtype(node.int("dtype")))
    return np.eye(dims[0], dims[1], node.int("k", 0)).astype(np.dtype(dtype))
