"""Sequences and optional values while a model is imported.

Where the length of a sequence is known at import, a sequence is a Python value of expressions and
nothing of it is left in the imported module. Where only the run knows it, a sequence is *packed*
into two tensors, so that the rest of the compiler knows nothing but tensors:

    elements (total,)         the elements' elements, one sequence element after another, row-major
    shapes (length, 1 + w)    int64: of each sequence element its rank, then its sizes; w is the
                              largest rank, and what stands behind the sizes means nothing

An optional tensor is then a packed sequence of one element or none; an optional sequence is a
packed sequence and a bool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from athanor.frontends.onnx.tensors import dtype_of, shape_of

TENSOR, SEQUENCE = "tensor", "sequence"
OPTIONAL, OPTIONAL_SEQUENCE = "optional", "optional sequence"
KINDS = (TENSOR, SEQUENCE, OPTIONAL, OPTIONAL_SEQUENCE)
"""What an input or output may be, in the order of the C API's AthanorKind."""

PART_NAMES = ("elements", "shapes", "present")
"""The names of the tensors that a value of a kind but the first is, behind its own and a dot."""

PARTS = {TENSOR: 1, SEQUENCE: 2, OPTIONAL: 2, OPTIONAL_SEQUENCE: 3}
"""How many tensors a value is."""

LARGEST_RANK = 8
"""Of the elements of a packed sequence whose type says no rank."""


@dataclass(frozen=True)
class ElementShape:
    """What is known of the shapes of all elements of a sequence.

    `width` is the largest rank. `sizes` has a number for each axis, or None where elements differ
    or only the run knows; it is None itself where elements may have different ranks.
    """

    width: int
    sizes: tuple[int | None, ...] | None
    is_empty: bool = False
    """Whether there is no element to know anything of."""

    def joined(self, other: ElementShape) -> ElementShape:
        """What is known of the elements of both."""
        if self.is_empty or other.is_empty:
            return other if self.is_empty else self
        width = max(self.width, other.width)
        if self.sizes is None or other.sizes is None or len(self.sizes) != len(other.sizes):
            return ElementShape(width, None)
        pairs = zip(self.sizes, other.sizes, strict=True)
        return ElementShape(width, tuple(a if a == b else None for a, b in pairs))


NO_ELEMENT = ElementShape(0, None, is_empty=True)


def element_shape(x: relax.Expr) -> ElementShape:
    """What is known of the shape of one tensor."""
    sizes = tuple(dim if isinstance(dim, int) else None for dim in shape_of(x))
    return ElementShape(len(sizes), sizes)


@dataclass(frozen=True)
class SequenceValue:
    """A sequence of tensors whose length is known at import."""

    elements: tuple[relax.Expr, ...]
    dtype: str

    @property
    def element(self) -> ElementShape:
        """What all elements have in common."""
        result = NO_ELEMENT
        for x in self.elements:
            result = result.joined(element_shape(x))
        return result


@dataclass(frozen=True)
class PackedSequence:
    """A sequence of tensors whose length is known to the run: see above."""

    elements: relax.Expr
    shapes: relax.Expr
    element: ElementShape

    @property
    def dtype(self) -> str:
        """The element type of the tensors."""
        return dtype_of(self.elements)

    @property
    def length(self) -> Any:
        """How many there are: a number or an expression."""
        return shape_of(self.shapes)[0]

    @property
    def total(self) -> Any:
        """How many elements they have together."""
        return shape_of(self.elements)[0]


AnySequence = SequenceValue | PackedSequence


@dataclass(frozen=True)
class OptionalValue:
    """A value, or None: known at import."""

    value: relax.Expr | AnySequence | None


@dataclass(frozen=True)
class PackedOptional:
    """An optional of which the run knows whether it is empty.

    `present` is a bool scalar for an optional sequence, and None for an optional tensor, which is
    the only element of `content`.
    """

    content: PackedSequence
    present: relax.Expr | None


NO_TENSORS = (SequenceValue, PackedSequence, OptionalValue, PackedOptional)
"""What a value may be other than a tensor."""


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, (SequenceValue, PackedSequence)):
        return "a sequence"
    return "an optional" if isinstance(value, (OptionalValue, PackedOptional)) else "a tensor"
