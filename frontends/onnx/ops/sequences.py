"""Sequences and optionals whose lengths are known at import.

A position that only the run knows is served where all elements have one shape: which element is
meant is then chosen by kernels. A position out of range is an error in ONNX; constant ones are
checked at import, run-time ones are kept inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import Known, is_symbolic, known
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.slicing import take_slices
from athanor.frontends.onnx.sequence_value import OptionalValue, SequenceValue
from athanor.frontends.onnx.tensors import compute, dtype_of, rank_of, reshape, shape_of

R = relax.op
Inputs = list[Any]


def sequence_empty(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """No element.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceEmpty.html
    """
    return SequenceValue(())


def sequence_construct(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """The inputs in order.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html
    """
    for x in inputs:
        if dtype_of(x) != dtype_of(inputs[0]):
            raise node.error(f"elements of {dtype_of(inputs[0])} and {dtype_of(x)}")
    return SequenceValue(tuple(inputs))


def sequence_length(node: Node, inputs: Inputs, builder: ImportBuilder) -> Known:
    """The number of elements as int64: known here.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceLength.html
    """
    return known(np.array(len(_sequence(node, inputs).elements), np.int64))


def sequence_at(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The element at a position; negative ones count from the end.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceAt.html
    """
    elements = _sequence(node, inputs).elements
    position = _position(node, len(elements) - 1)
    if position is not None:
        return elements[position]
    place = _run_time_position(node, inputs[1], elements, len(elements), builder)
    result = elements[0]
    for number, element in enumerate(elements[1:], 1):
        result = _choose(place, number, 0, [result, element], builder)
    return result


def sequence_insert(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """With a tensor put in before a position, at the end by default.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceInsert.html
    """
    elements, tensor = _sequence(node, inputs).elements, inputs[1]
    if not node.has_input(2, inputs):
        return SequenceValue((*elements, tensor))
    length = len(elements)
    position = _position(node, length)
    if position is not None:
        return SequenceValue((*elements[:position], tensor, *elements[position:]))
    place = _run_time_position(node, inputs[2], (*elements, tensor), length, builder, last=length)
    result = []
    for number in range(length + 1):
        before = elements[number] if number < length else tensor
        after = elements[number - 1] if number else tensor
        kept = _choose(place, number, 1, [after, before], builder)
        result.append(_choose(place, number, 0, [kept, tensor], builder, exactly=True))
    return SequenceValue(tuple(result))


def sequence_erase(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """Without the element at a position, the last by default.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceErase.html
    """
    elements = _sequence(node, inputs).elements
    if not node.has_input(1, inputs):
        if not elements:
            raise node.error("the sequence is empty")
        return SequenceValue(elements[:-1])
    position = _position(node, len(elements) - 1)
    if position is not None:
        return SequenceValue((*elements[:position], *elements[position + 1 :]))
    place = _run_time_position(node, inputs[1], elements, len(elements), builder)
    pairs = zip(elements[1:], elements, strict=False)
    return SequenceValue(
        tuple(
            _choose(place, number, 1, [after, before], builder)
            for number, (after, before) in enumerate(pairs)
        )
    )


def split_to_sequence(node: Node, inputs: Inputs, builder: ImportBuilder) -> SequenceValue:
    """Parts along `axis`: of the given sizes, of one size, or of size 1.

    Parts of size 1 lose the axis with keepdims=0.

    Source: https://onnx.ai/onnx/operators/onnx__SplitToSequence.html
    """
    x = inputs[0]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), 0)
    dim, given = dims[axis], node.has_input(1, inputs)
    if given and (sizes := node.constant(1, "split")).ndim:
        lengths = [int(size) for size in sizes]
        if not is_symbolic(dim) and sum(lengths) != dim:
            raise node.error(f"split={lengths} does not add up to {dim}")
        if is_symbolic(dim):
            builder.require_equal(dim, sum(lengths))
    else:
        if is_symbolic(dim):
            raise node.error(f"how many parts the dimension {dim} has is known only at run time")
        size = int(node.constant(1, "split")) if given else 1
        if size < 1:
            raise node.error(f"split={size}")
        lengths = [min(size, dim - start) for start in range(0, dim, size)]
    parts, start = [], 0
    for length in lengths:
        part = take_slices(node, x, [start], [start + length], [axis], [1], builder)
        part = builder.emit(part) if isinstance(part, relax.Call) else part
        if not given and not node.int("keepdims", 1):
            part = reshape(part, [*dims[:axis], *dims[axis + 1 :]], builder)
        parts.append(part)
        start += length
    return SequenceValue(tuple(parts))


def concat_from_sequence(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The elements one after another along `axis`, or along a new one (new_axis=1).

    Source: https://onnx.ai/onnx/operators/onnx__ConcatFromSequence.html
    """
    elements = list(_sequence(node, inputs).elements)
    if not elements:
        raise node.error("the sequence is empty")
    fresh = node.int("new_axis", 0)
    axis = node.axis("axis", rank_of(elements[0]) + (1 if fresh else 0))
    if fresh:
        elements = [
            reshape(x, [*shape_of(x)[:axis], 1, *shape_of(x)[axis:]], builder) for x in elements
        ]
    return elements[0] if len(elements) == 1 else R.concat(elements, axis=axis)


def optional(node: Node, inputs: Inputs, builder: ImportBuilder) -> OptionalValue:
    """The input as an optional, an empty one without input.

    Source: https://onnx.ai/onnx/operators/onnx__Optional.html
    """
    return OptionalValue(inputs[0] if inputs else None)


def optional_has_element(node: Node, inputs: Inputs, builder: ImportBuilder) -> Known:
    """Whether there is a value: known here.

    Source: https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html
    """
    value = inputs[0] if inputs else None
    if isinstance(value, OptionalValue):
        value = value.value
    return known(np.array(value is not None))


def optional_get_element(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """The value, which has to be there.

    Source: https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html
    """
    value = inputs[0].value if isinstance(inputs[0], OptionalValue) else inputs[0]
    if value is None:
        raise node.error("the optional is empty")
    return value


def _sequence(node: Node, inputs: Inputs) -> SequenceValue:
    value = inputs[0].value if isinstance(inputs[0], OptionalValue) else inputs[0]
    if not isinstance(value, SequenceValue):
        raise node.error("input 0 is no sequence")
    return value


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


def _run_time_position(
    node: Node,
    position: relax.Expr,
    elements: tuple[relax.Expr, ...],
    length: int,
    builder: ImportBuilder,
    last: int | None = None,
) -> relax.Expr:
    """A position (1,) counted from the front and kept inside; all elements need one shape."""
    shapes = [shape_of(x) for x in elements]
    if not elements or any(
        len(shape) != len(shapes[0]) or any(is_symbolic(d) for d in shape) or shape != shapes[0]
        for shape in shapes
    ):
        raise node.error(f"a position known only at run time, and elements of shapes {shapes}")
    end = length - 1 if last is None else last

    def kernel(given: te.Tensor) -> te.Tensor:
        def element(i: Any) -> Any:
            value = given(*[i] * len(given.shape)).astype("int64")
            front = tirx.Select(value < 0, value + length, value)
            zero = tirx.const(0, "int64")
            return tirx.max(tirx.min(front, tirx.const(end, "int64")), zero)

        return te.compute((1,), element, name="position")

    return compute(builder, "position", kernel, position)


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
