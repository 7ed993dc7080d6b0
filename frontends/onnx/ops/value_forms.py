"""Values as tensors and back: what control flow carries and what a graph takes and returns.

A tensor is itself. A sequence is two tensors (see sequence_value), an optional tensor too, and an
optional sequence three. A form says how to put them together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.ops.packed_sequences import packed
from athanor.frontends.onnx.sequence_value import (
    NO_ELEMENT,
    OPTIONAL,
    OPTIONAL_SEQUENCE,
    PARTS,
    SEQUENCE,
    TENSOR,
    ElementShape,
    OptionalValue,
    PackedOptional,
    PackedSequence,
    SequenceValue,
    element_shape,
)
from athanor.frontends.onnx.tensors import dtype_of, scalar

ABSENT = "absent"
"""The kind of an empty optional of which nothing says what it could hold; it is no tensor."""


@dataclass(frozen=True)
class Form:
    """What a value is, and what is known of its elements; of a tensor nothing."""

    kind: str
    dtype: str = ""
    element: ElementShape = NO_ELEMENT

    def joined(self, other: Form) -> Form:
        """The form that has room for values of both; CompileError where there is none."""
        if self == other:
            return self
        kind = self._joined_kind(other)
        if kind is None:
            raise CompileError(f"{self} and {other} can't be one value")
        if kind in (TENSOR, ABSENT):
            return Form(kind)
        sides = [side for side in (self, other) if side.kind != ABSENT]
        dtypes = {side.dtype for side in sides}
        if len(dtypes) > 1:
            raise CompileError(f"elements of {' and '.join(sorted(dtypes))} in one sequence")
        element = sides[0].element if len(sides) == 1 else self.element.joined(other.element)
        return Form(kind, sides[0].dtype, element)

    def _joined_kind(self, other: Form) -> str | None:
        kinds = {self.kind, other.kind}
        if len(kinds) == 1:
            return self.kind
        # the types of an ONNX graph often say optional where a value always is there
        for plain, wrapped in ((TENSOR, OPTIONAL), (SEQUENCE, OPTIONAL_SEQUENCE)):
            if kinds <= {plain, wrapped, ABSENT}:
                return wrapped
        return None

    def __str__(self) -> str:
        """For a message."""
        article = "an" if self.kind[0] in "ao" else "a"
        return f"{article} {self.kind}" + (f" of {self.dtype}" if self.kind == SEQUENCE else "")


def form_of(value: Any) -> Form:
    """The form of a value."""
    if isinstance(value, (SequenceValue, PackedSequence)):
        return Form(SEQUENCE, value.dtype, value.element)
    if isinstance(value, PackedOptional):
        kind = OPTIONAL if value.present is None else OPTIONAL_SEQUENCE
        return Form(kind, value.content.dtype, value.content.element)
    if isinstance(value, OptionalValue):
        if value.value is None:
            return Form(ABSENT)
        held = form_of(value.value)
        kind = OPTIONAL_SEQUENCE if held.kind == SEQUENCE else OPTIONAL
        return replace(held, kind=kind)
    return Form(TENSOR, dtype_of(value), element_shape(value))


def tensors_of(value: Any, form: Form, builder: ImportBuilder) -> list[relax.Expr]:
    """A value as the tensors of a form that `joined` has made room for it in."""
    if form.kind in (TENSOR, ABSENT):
        return [value] if form.kind == TENSOR else []
    present = value is not None
    if isinstance(value, OptionalValue):
        value, present = value.value, value.value is not None
    flag: relax.Expr | None = None
    if isinstance(value, PackedOptional):
        value, flag = value.content, value.present
    if not isinstance(value, (SequenceValue, PackedSequence)):
        value = SequenceValue(() if value is None else (value,), form.dtype)
    sequence = packed(value, builder, form.element.width)
    tensors = [sequence.elements, sequence.shapes]
    if form.kind == OPTIONAL_SEQUENCE:
        tensors.append(flag if flag is not None else scalar(present, "bool"))
    return tensors


def value_of(form: Form, tensors: Sequence[relax.Expr]) -> Any:
    """The value that tensors of a form make."""
    if form.kind == TENSOR:
        return tensors[0]
    if form.kind == ABSENT:
        return OptionalValue(None)
    content = PackedSequence(tensors[0], tensors[1], form.element)
    if form.kind == SEQUENCE:
        return content
    return PackedOptional(content, tensors[2] if form.kind == OPTIONAL_SEQUENCE else None)


def values_of(forms: Sequence[Form], tensors: Sequence[relax.Expr]) -> list[Any]:
    """The values that a row of tensors makes."""
    values, start = [], 0
    for form in forms:
        end = start + PARTS.get(form.kind, 0)
        values.append(value_of(form, tensors[start:end]))
        start = end
    return values


def flattened(
    values: Sequence[Any], forms: Sequence[Form], builder: ImportBuilder
) -> list[relax.Expr]:
    """All tensors of a row of values."""
    pairs = zip(values, forms, strict=True)
    return [tensor for value, form in pairs for tensor in tensors_of(value, form, builder)]
