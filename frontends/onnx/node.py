"""One ONNX node, as converters see it: operator, opset, name, attributes, known input values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from athanor.errors import CompileError
from athanor.frontends.onnx.known import Known


@dataclass(frozen=True)
class Node:
    """What a converter may ask about the node it converts.

    `known[i]` holds the elements of input i where they are known at import (a constant, or the
    integer elements of a shape computation, with symbolic dimensions as expressions), else None.
    `outputs` are the ONNX names; "" stands for an output nobody asked for.
    """

    op: str
    domain: str
    opset: int
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    known: Sequence[Known | None] = ()
    outputs: Sequence[str] = ("",)
    small_types: Sequence[str] = ()
    """For each input the element type where it is carried as bytes (see small_types.py), or ""."""

    def small_type(self, index: int) -> str:
        """The element type of input `index` where it is carried as bytes, else ""."""
        return self.small_types[index] if index < len(self.small_types) else ""

    @property
    def place(self) -> str:
        """Where this node is, for error messages: `Split 'layer1/split' (opset 18)`."""
        return f"{self.operator} {self.name!r} (opset {self.opset})"

    @property
    def operator(self) -> str:
        """The operator with its domain where that is not ONNX's: `com.microsoft.Attention`."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    @property
    def label(self) -> str:
        """Operator and name: `Split layer1/split`."""
        return f"{self.operator} {self.name}"

    def error(self, sentence: str) -> CompileError:
        """The error to raise for this node: place, then the rule and the value that broke it."""
        return CompileError(f"{self.place}: {sentence}")

    def has(self, name: str) -> bool:
        """Whether the node carries the attribute."""
        return name in self.attributes

    def int(self, name: str, default: int | None = None) -> int:
        """An integer attribute; without a default it is required."""
        return int(self._typed(name, default, int))

    def float(self, name: str, default: float | None = None) -> float:
        """A float attribute; without a default it is required."""
        return float(self._typed(name, default, (float, int)))

    def string(self, name: str, default: str | None = None) -> str:
        """A string attribute; without a default it is required."""
        value = self._typed(name, default, (bytes, str))
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def ints(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """An integer list attribute; without a default it is required."""
        return [int(value) for value in self._typed(name, default, (list, tuple))]

    def floats(self, name: str, default: Sequence[float] | None = None) -> list[float]:
        """A float list attribute; without a default it is required."""
        return [float(value) for value in self._typed(name, default, (list, tuple))]

    def strings(self, name: str, default: Sequence[str] | None = None) -> list[str]:
        """A string list attribute; without a default it is required."""
        values = self._typed(name, default, (list, tuple))
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """An axis attribute, counted from the front: in [0, rank)."""
        return self.normalize_axis(self.int(name, default), rank, name)

    def normalize_axis(self, axis: int, rank: int, name: str = "axis") -> int:
        """`axis` counted from the front; CompileError when it is outside [-rank, rank)."""
        if not -rank <= axis < rank:
            raise self.error(
                f"{name}={axis} is outside [{-rank}, {rank - 1}] for a rank-{rank} input"
            )
        return axis % rank if rank else 0

    def normalize_axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """Each axis counted from the front; CompileError when one repeats or is outside."""
        result = [self.normalize_axis(int(axis), rank, "axes element") for axis in axes]
        if len(set(result)) != len(result):
            raise self.error(f"axes={list(axes)} names an axis twice")
        return result

    def constant(self, index: int, what: str) -> np.ndarray:
        """Input `index`, which has to be known at import without symbolic dimensions."""
        known = self.known[index] if index < len(self.known) else None
        if known is None or not known.is_constant:
            raise self.error(
                f"{what} (input {index}) is computed at run time; it has to be a constant or "
                "follow from the shapes of the inputs"
            )
        return known.elements

    def elements(self, index: int, what: str) -> list[Any]:
        """Input `index` as a flat list of ints and symbolic expressions known at import."""
        known = self.known[index] if index < len(self.known) else None
        if known is None:
            raise self.error(
                f"{what} (input {index}) is computed at run time; it has to be a constant or "
                "follow from the shapes of the inputs"
            )
        return known.flat()

    def has_input(self, index: int, inputs: Sequence[Any]) -> bool:
        """Whether optional input `index` is present."""
        return index < len(inputs) and inputs[index] is not None

    def _typed(self, name: str, default: Any, kinds: Any) -> Any:
        if name not in self.attributes:
            if default is None:
                raise self.error(f"attribute {name!r} is missing")
            return default
        value = self.attributes[name]
        if not isinstance(value, kinds):
            raise self.error(f"attribute {name!r} has the wrong type {type(value).__name__}")
        return value


def parse_attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values; tensors and graphs stay protos.

    Raises CompileError for one that has no value of its own.
    """
    for attribute in proto.attribute:
        if attribute.ref_attr_name:
            raise CompileError(
                f"{proto.op_type} {proto.name!r}: attribute {attribute.name!r} refers to attribute "
                f"{attribute.ref_attr_name!r} of a function, and is in none"
            )
    return {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
