"""Operators that change shapes but no elements."""

from __future__ import annotations

from typing import Any

from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import (
    Known,
    as_objects,
    dims_quotient,
    is_symbolic,
    known,
    product,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import run_time_axes
from athanor.frontends.onnx.ops.broadcasting import cast_shape
from athanor.frontends.onnx.tensors import rank_of, reshape, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def identity(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The input as it is.

    Source: https://onnx.ai/onnx/operators/onnx__Identity.html
    """
    return inputs[0]


def shape_operator(node: Node, inputs: Inputs, builder: Builder) -> Known:
    """The dims of the input from `start` to `end` as int64: known here, no kernel.

    Source: https://onnx.ai/onnx/operators/onnx__Shape.html
    """
    dims = shape_of(inputs[0])
    rank = len(dims)
    start, end = node.int("start", 0), node.int("end", rank)
    start, end = (min(max(v + rank if v < 0 else v, 0), rank) for v in (start, end))
    part = dims[start:end]
    return known(as_objects(part, (len(part),)), "int64")


def size(node: Node, inputs: Inputs, builder: Builder) -> Known:
    """The number of elements as int64: known here, no kernel.

    Source: https://onnx.ai/onnx/operators/onnx__Size.html
    """
    return known(as_objects([product(shape_of(inputs[0]))], ()), "int64")


def reshape_to(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The same elements in another shape: 0 keeps a dim (unless allowzero=1), -1 is inferred.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """
    have = shape_of(inputs[0])
    wanted = node.ints("shape") if node.opset < 5 else node.elements(1, "shape")
    if not node.int("allowzero", 0):
        for index, dim in enumerate(wanted):
            if not is_symbolic(dim) and dim == 0:
                if index >= len(have):
                    raise node.error(
                        f"shape={wanted} copies dim {index} of a rank-{len(have)} input"
                    )
                wanted[index] = have[index]
    unknown = [i for i, dim in enumerate(wanted) if not is_symbolic(dim) and dim == -1]
    if len(unknown) > 1 or any(not is_symbolic(dim) and dim < -1 for dim in wanted):
        raise node.error(f"shape={wanted} has more than one -1 or a dimension below -1")
    if unknown:
        others = [dim for i, dim in enumerate(wanted) if i not in unknown]
        dim = dims_quotient(have, others)
        if dim is None:
            raise node.error(f"input {have} can't be reshaped to {wanted}")
        wanted[unknown[0]] = dim
    count, expected = product(have), product(wanted)
    if not is_symbolic(count) and not is_symbolic(expected) and count != expected:
        raise node.error(f"input {have} has {count} elements, shape {wanted} needs {expected}")
    builder.require_equal(count, expected)
    return reshape(inputs[0], wanted, builder)


def flatten(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """A matrix: dims before `axis` (default 1) as rows, the rest as columns.

    Source: https://onnx.ai/onnx/operators/onnx__Flatten.html
    """
    shape = shape_of(inputs[0])
    axis = node.int("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise node.error(f"axis={axis} is outside [{-len(shape)}, {len(shape)}]")
    axis = axis + len(shape) if axis < 0 else axis
    return reshape(inputs[0], [product(shape[:axis]), product(shape[axis:])], builder)


def transpose(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Dims permuted by `perm`; reversed by default.

    Source: https://onnx.ai/onnx/operators/onnx__Transpose.html
    """
    rank = rank_of(inputs[0])
    perm = node.ints("perm", list(reversed(range(rank))))
    if sorted(perm) != list(range(rank)):
        raise node.error(f"perm={perm} is no permutation of {rank} dims")
    if perm == list(range(rank)):
        return inputs[0]
    return R.permute_dims(inputs[0], perm)


def axes_of(node: Node, inputs: Inputs) -> list[int] | None:
    """Axes from the attribute (opset 12 and older) or from input 1; None when absent."""
    if node.has("axes"):
        return node.ints("axes")
    if node.has_input(1, inputs):
        return [int(axis) for axis in node.constant(1, "axes").reshape(-1)]
    return None


def squeeze(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Without the dims of size 1 that `axes` names, or without all of them.

    Source: https://onnx.ai/onnx/operators/onnx__Squeeze.html
    """
    shape = shape_of(inputs[0])
    if node.opset >= 13 and run_time_axes.is_run_time(node, 1, inputs):
        return run_time_axes.squeeze(node, inputs[0], inputs[1], builder)
    axes = axes_of(node, inputs)
    if axes is None:
        if any(is_symbolic(dim) for dim in shape):
            raise node.error(f"axes are missing and the input's shape {shape} is symbolic")
        chosen = [i for i, dim in enumerate(shape) if dim == 1]
    else:
        chosen = node.normalize_axes(axes, len(shape))
    for axis in chosen:
        if not is_symbolic(shape[axis]) and shape[axis] != 1:
            raise node.error(f"axis {axis} of input {shape} is {shape[axis]}, not 1")
    return reshape(inputs[0], [d for i, d in enumerate(shape) if i not in chosen], builder)


def unsqueeze(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """With dims of size 1 put in at `axes` (counted in the result).

    Source: https://onnx.ai/onnx/operators/onnx__Unsqueeze.html
    """
    shape: list[Any] = list(shape_of(inputs[0]))
    if node.opset >= 13 and run_time_axes.is_run_time(node, 1, inputs):
        return run_time_axes.unsqueeze(node, inputs[0], inputs[1], builder)
    axes = axes_of(node, inputs)
    if axes is None:
        raise node.error("axes are missing")
    for axis in sorted(node.normalize_axes(axes, len(shape) + len(axes))):
        shape.insert(axis, 1)
    return reshape(inputs[0], shape, builder)


def concat(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The inputs one after another along `axis`; other sizes are equal, or the run is refused.

    Source: https://onnx.ai/onnx/operators/onnx__Concat.html
    """
    axis = node.axis("axis", rank_of(inputs[0]), 1 if node.opset < 4 else None)
    if len(inputs) == 1:
        return inputs[0]
    shapes = [shape_of(x) for x in inputs]
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise node.error(f"inputs of shapes {shapes}; their ranks have to be equal")
    common = list(shapes[0])
    for shape in shapes[1:]:
        # a number says more than a symbol
        common = [
            b if is_symbolic(a) and not is_symbolic(b) else a
            for a, b in zip(common, shape, strict=True)
        ]
    parts = [
        cast_shape(x, [*common[:axis], shape[axis], *common[axis + 1 :]], builder)
        for x, shape in zip(inputs, shapes, strict=True)
    ]
    return R.concat(parts, axis=axis)
