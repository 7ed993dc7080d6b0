"""Sequences and optionals.

Where the length is known at import a sequence is a Python value; a position that only the run knows
is then served by kernels that choose, if all elements have one shape. All else is packed (see
sequence_value). A position out of range is an error in ONNX: at import where it is constant, of
the run elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import Known, as_objects, is_symbolic, known
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import packed_sequences
from athanor.frontends.onnx.ops.packed_sequences import element_at, packed
from athanor.frontends.onnx.ops.slicing import take_slices
from athanor.frontends.onnx.sequence_value import (
    AnySequence,
    OptionalValue,
    PackedOptional,
    PackedSequence,
    SequenceValue,
    kind_of,
)
from athanor.frontends.onnx.tensor_data import np_dtype_of
from athanor.frontends.onnx.tensors import compute, dtype_of, rank_of, reshape, scalar, shape_of

R = relax.op
Inputs = list[Any]


def sequence_empty(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """No element; attribute dtype, float32 by default.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceEmpty.html
    """
    dtype = np_dtype_of(node.int("dtype", onnx.TensorProto.FLOAT), node.place)
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise node.error(f"sequences of {dtype} are not supported")
    return SequenceValue((), dtype.name)


def sequence_construct(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """The inputs in order.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html
    """
    for x in inputs:
        _same_dtype(node, dtype_of(inputs[0]), x)
    return SequenceValue(tuple(inputs), dtype_of(inputs[0]))


def _same_dtype(node: Node, dtype: str, x: relax.Expr) -> None:
    if dtype_of(x) != dtype:
        raise node.error(f"elements of {dtype} and {dtype_of(x)}")


def sequence_length(node: Node, inputs: Inputs, builder: ImportBuilder) -> Known:
    """The number of elements as int64.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceLength.html
    """
    sequence = _sequence(node, inputs)
    if isinstance(sequence, SequenceValue):
        return known(np.array(len(sequence.elements), np.int64))
    return known(as_objects([sequence.length], ()), "int64")


def sequence_at(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The element at a position; negative ones count from the end.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceAt.html
    """
    sequence = _sequence(node, inputs)
    if isinstance(sequence, SequenceValue):
        elements = sequence.elements
        position = _position(node, len(elements) - 1)
        if position is not None:
            return elements[position]
        if _one_shape(elements):
            place = _run_time_position(inputs[1], len(elements), len(elements) - 1, builder)
            result = elements[0]
            for number, element in enumerate(elements[1:], 1):
                result = _choose(place, number, 0, [result, element], builder)
            return result
    sequence = packed(sequence, builder)
    _one_rank(node, sequence)
    sentence = "a position outside of the sequence"
    return element_at(sequence, inputs[1], sentence, builder)


def sequence_insert(node: Node, inputs: Inputs, builder: ImportBuilder) -> AnySequence:
    """With a tensor put in before a position, at the end by default.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceInsert.html
    """
    sequence, tensor = _sequence(node, inputs), inputs[1]
    _same_dtype(node, sequence.dtype, tensor)
    position = inputs[2] if node.has_input(2, inputs) else None
    if isinstance(sequence, PackedSequence):
        return packed_sequences.inserted(sequence, tensor, position, builder)
    elements, dtype = sequence.elements, sequence.dtype
    length = len(elements)
    number = length if position is None else _position(node, length)
    if number is not None:
        return SequenceValue((*elements[:number], tensor, *elements[number:]), dtype)
    if not _one_shape((*elements, tensor)):
        return packed_sequences.inserted(packed(sequence, builder), tensor, position, builder)
    place = _run_time_position(inputs[2], length, length, builder)
    result = []
    for number in range(length + 1):
        before = elements[number] if number < length else tensor
        after = elements[number - 1] if number else tensor
        kept = _choose(place, number, 1, [after, before], builder)
        result.append(_choose(place, number, 0, [kept, tensor], builder, exactly=True))
    return SequenceValue(tuple(result), dtype)


def sequence_erase(node: Node, inputs: Inputs, builder: ImportBuilder) -> AnySequence:
    """Without the element at a position, the last by default.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceErase.html
    """
    sequence = _sequence(node, inputs)
    position = inputs[1] if node.has_input(1, inputs) else None
    if isinstance(sequence, PackedSequence):
        return packed_sequences.erased(sequence, position, builder)
    elements, dtype = sequence.elements, sequence.dtype
    if position is None:
        if not elements:
            raise node.error("the sequence is empty")
        return SequenceValue(elements[:-1], dtype)
    number = _position(node, len(elements) - 1)
    if number is not None:
        return SequenceValue((*elements[:number], *elements[number + 1 :]), dtype)
    if not _one_shape(elements):
        return packed_sequences.erased(packed(sequence, builder), position, builder)
    place = _run_time_position(position, len(elements), len(elements) - 1, builder)
    pairs = zip(elements[1:], elements, strict=False)
    kept = [
        _choose(place, number, 1, [after, before], builder)
        for number, (after, before) in enumerate(pairs)
    ]
    return SequenceValue(tuple(kept), dtype)


def split_to_sequence(node: Node, inputs: Inputs, builder: ImportBuilder) -> AnySequence:
    """Parts along `axis`: of the given sizes, of one size, or of size 1.

    Parts of size 1 lose the axis with keepdims=0.

    Source: https://onnx.ai/onnx/operators/onnx__SplitToSequence.html
    """
    x = inputs[0]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), 0)
    dim, given = dims[axis], node.has_input(1, inputs)
    keepdims = given or bool(node.int("keepdims", 1))
    parts = node.known[1] if given else None
    is_vector = parts is not None and parts.is_constant and bool(parts.shape)
    is_scalar = not given or (parts is not None and parts.is_constant)
    if not is_vector and (not is_scalar or is_symbolic(dim)):
        if given and len(shape_of(inputs[1])) > 1:
            raise node.error(f"split has shape {shape_of(inputs[1])}, expected a vector or scalar")
        sizes = inputs[1] if given else None
        return packed_sequences.split(x, axis, sizes, keepdims, builder)
    if given and (sizes := node.constant(1, "split")).ndim:
        lengths = [int(size) for size in sizes]
        if min(lengths, default=0) < 0:
            raise node.error(f"split={lengths} has a negative size")
        if not is_symbolic(dim) and sum(lengths) != dim:
            raise node.error(f"split={lengths} does not add up to {dim}")
        if is_symbolic(dim):
            builder.require_equal(dim, sum(lengths))
    else:
        size = int(node.constant(1, "split")) if given else 1
        if size < 1:
            raise node.error(f"split={size}")
        lengths = [min(size, dim - start) for start in range(0, dim, size)]
    elements, start = [], 0
    for length in lengths:
        part = take_slices(node, x, [start], [start + length], [axis], [1], builder)
        part = builder.emit(part) if isinstance(part, relax.Call) else part
        if not keepdims:
            part = reshape(part, [*dims[:axis], *dims[axis + 1 :]], builder)
        elements.append(part)
        start += length
    return SequenceValue(tuple(elements), dtype_of(x))


def concat_from_sequence(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The elements one after another along `axis`, or along a new one (new_axis=1).

    Source: https://onnx.ai/onnx/operators/onnx__ConcatFromSequence.html
    """
    sequence = _sequence(node, inputs)
    fresh = node.int("new_axis", 0)
    if isinstance(sequence, PackedSequence):
        rank = _one_rank(node, sequence)
        axis = node.axis("axis", rank + (1 if fresh else 0))
        return packed_sequences.concatenated(sequence, axis, bool(fresh), builder)
    elements = list(sequence.elements)
    if not elements:
        raise node.error("the sequence is empty")
    axis = node.axis("axis", rank_of(elements[0]) + (1 if fresh else 0))
    if fresh:
        elements = [
            reshape(x, [*shape_of(x)[:axis], 1, *shape_of(x)[axis:]], builder) for x in elements
        ]
    return elements[0] if len(elements) == 1 else R.concat(elements, axis=axis)


def optional(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """The input as an optional, an empty one without input.

    Source: https://onnx.ai/onnx/operators/onnx__Optional.html
    """
    return OptionalValue(inputs[0] if inputs else None)


def optional_has_element(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """Whether there is a value.

    Source: https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html
    """
    value = inputs[0] if inputs else None
    if isinstance(value, PackedOptional):
        return value.present if value.present is not None else _is_there(value, builder)
    if isinstance(value, OptionalValue):
        value = value.value
    return known(np.array(value is not None))


def _is_there(value: PackedOptional, builder: ImportBuilder) -> relax.Expr:
    """Whether an optional tensor is there."""

    def kernel(dims: list[Any]) -> te.Tensor:
        return te.compute((), lambda: dims[0] > 0, name="has_element")

    return compute(builder, "has_element", kernel, relax.ShapeExpr([value.content.length]))


def optional_get_element(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """The value, which has to be there.

    Source: https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html
    """
    value = inputs[0].value if isinstance(inputs[0], OptionalValue) else inputs[0]
    if value is None:
        raise node.error("the optional is empty")
    if not isinstance(value, PackedOptional):
        return value
    if value.present is None:
        _one_rank(node, value.content)
        return element_at(value.content, scalar(0, "int64"), "the optional is empty", builder)
    present = builder.emit(R.astype(value.present, "int64"))
    (flag,) = builder.late_values(reshape(present, [1], builder), 1)
    builder.require(flag > 0, "the optional is empty")
    return value.content


def _sequence(node: Node, inputs: Inputs) -> AnySequence:
    value = inputs[0].value if isinstance(inputs[0], OptionalValue) else inputs[0]
    if not isinstance(value, (SequenceValue, PackedSequence)):
        raise node.error(f"input 0 is {kind_of(value)}, no sequence")
    return value


def _one_rank(node: Node, sequence: PackedSequence) -> int:
    """The rank of all elements; CompileError where they may differ in it."""
    if sequence.element.is_empty:
        raise node.error("the sequence is empty")
    if sequence.element.sizes is None:
        raise node.error(
            "the elements' rank is known only at run time; give the elements' shape in `shapes` "
            "if the sequence is an input"
        )
    return len(sequence.element.sizes)


def _position(node: Node, last: int) -> int | None:
    """The last input, a position in [0, last], where it is known at import."""
    elements = node.known[-1]
    if elements is None or not elements.is_constant:
        return None
    position = int(elements.elements.reshape(-1)[0])
    length = last + 1 if node.op != "SequenceInsert" else last
    if not -length <= position <= last:
        raise node.error(f"position {position} of a sequence of length {length}")
    return position + length if position < 0 else position


def _one_shape(elements: tuple[relax.Expr, ...]) -> bool:
    """Whether there are elements, and all have one shape that is known at import."""
    shapes = [shape_of(x) for x in elements]
    return bool(elements) and not any(
        len(shape) != len(shapes[0]) or any(is_symbolic(d) for d in shape) or shape != shapes[0]
        for shape in shapes
    )


def _run_time_position(
    position: relax.Expr, length: int, last: int, builder: ImportBuilder
) -> relax.Expr:
    """A position in [-length, last], counted from the front: (1,) int64."""

    def kernel(given: te.Tensor) -> te.Tensor:
        def element(i: Any) -> Any:
            value = given(*[i] * len(given.shape)).astype("int64")
            return tirx.Select(value < 0, value + length, value)

        return te.compute((1,), element, name="position")

    place = compute(builder, "position", kernel, position)
    (value,) = builder.late_values(place, 1)
    inside = tirx.all(value >= 0, value <= last)
    builder.require(inside, f"a position outside of a sequence of length {length}")
    return place


def _choose(
    place: relax.Expr,
    number: int,
    above: int,
    pair: list[relax.Expr],
    builder: ImportBuilder,
    exactly: bool = False,
) -> relax.Expr:
    """`pair[1]` where the position is at least (or exactly) number + above, else `pair[0]`."""
    if pair[0] is pair[1]:
        return pair[0]
    bound = tirx.const(number + above, "int64")

    def kernel(position: te.Tensor, low: te.Tensor, high: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            at = position(tirx.const(0, "int64"))
            return tirx.Select(at == bound if exactly else at >= bound, high(*i), low(*i))

        return te.compute(low.shape, element, name="choose")

    return compute(builder, "choose", kernel, place, *pair)
