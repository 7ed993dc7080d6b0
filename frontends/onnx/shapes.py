"""Graph inputs to relax variables: element types, symbolic dimensions and the user's shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm import relax, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.known import count_symbol, is_symbolic, text_of
from athanor.frontends.onnx.sequence_value import PART_NAMES, PARTS, TENSOR
from athanor.frontends.onnx.small_types import STRING, carrier_of
from athanor.frontends.onnx.tensor_data import np_dtype_of

_MAX_DIM = (1 << 63) - 1

MOST_ELEMENTS = (1 << 31) - 1
"""Of a tensor that a run reads or computes. Loops of kernels may be counted in 32 bits, and more,
8 GB of float32, has not been seen in a model but by mistake."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model: symbolic dimensions by name, or as an expression's text.

    Of a sequence or an optional, `shape` is that of each element: there a size is None where it
    differs or only the run knows it, and the shape is None where the rank differs.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    kind: str = TENSOR

    @property
    def part_names(self) -> list[str]:
        """The names of the tensors that it is."""
        if self.kind == TENSOR:
            return [self.name]
        return [f"{self.name}.{part}" for part in PART_NAMES[: PARTS[self.kind]]]


class Symbols:
    """The symbolic dimensions of one model: one variable per name, everywhere."""

    def __init__(self) -> None:
        self._vars: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._vars:
            self._vars[name] = tirx.Var(identifier(name), "int64")
        return self._vars[name]

    def count(self, stem: str, what: str) -> Any:
        """A dimension of input `stem` that may be 0; it has a name of its own."""
        return self._vars.setdefault(f"{stem}.{what}", count_symbol(identifier(stem), what))

    @property
    def names(self) -> tuple[str, ...]:
        """All names asked for, in order of first use."""
        return tuple(self._vars)

    def name_of(self, dim: Any) -> int | str:
        """An int, a symbol's own name, or the text of an expression over symbols."""
        if not is_symbolic(dim):
            return int(dim)
        for name, var in self._vars.items():
            if var.same_as(dim):
                return name
        return text_of(dim)


def identifier(name: str) -> str:
    """An ONNX name as a name that TVM's printer and C accept."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")
    return text if text and not text[0].isdigit() else f"v_{text}"


def input_shapes(
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, Sequence[int | str]],
    names: Sequence[str],
) -> dict[str, list[int | str]]:
    """The dimensions of inputs that are tensors after the user's `shapes`: ints and symbol names.

    Where `shapes` fixes an input's named dimension, the same name is fixed in every other input.
    `names` are those of all inputs.
    """
    for name in shapes:
        if name not in names:
            raise CompileError(f"shapes: the model has no input {name!r}; it has {list(names)}")
    declared = {value.name: _declared_dims(value, shapes) for value in inputs}
    renamed: dict[str, int | str] = {}
    for name, given in shapes.items():
        for have, wanted in zip(declared[name], given, strict=True):
            _check_dim(name, have, wanted)
            if isinstance(have, str) and renamed.setdefault(have, wanted) != wanted:
                raise CompileError(
                    f"shapes: input {name!r} sets dimension {have!r} to {wanted!r}, "
                    f"another input to {renamed[have]!r}"
                )
    return {
        name: [renamed.get(dim, dim) if isinstance(dim, str) else dim for dim in dims]
        for name, dims in declared.items()
    }


def _declared_dims(
    value: onnx.ValueInfoProto, shapes: Mapping[str, Sequence[int | str]]
) -> list[int | str]:
    tensor = value.type.tensor_type
    given = shapes.get(value.name)
    if not tensor.HasField("shape"):
        if given is None:
            raise CompileError(
                f"input {value.name!r} has no rank; give its shape: "
                f'shapes={{"{value.name}": [...]}}'
            )
        return [f"{identifier(value.name)}_d{i}" for i in range(len(given))]
    dims: list[int | str] = []
    for index, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            if not 0 <= dim.dim_value <= _MAX_DIM:
                raise CompileError(f"input {value.name!r}: dimension {index} is {dim.dim_value}")
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or f"{identifier(value.name)}_d{index}")
    if given is not None and len(given) != len(dims):
        raise CompileError(
            f"shapes: input {value.name!r} has rank {len(dims)} {dims}; {list(given)} was given"
        )
    return dims


def _check_dim(name: str, have: int | str, wanted: int | str) -> None:
    if isinstance(wanted, str):
        if not wanted.isidentifier():
            raise CompileError(f"shapes: input {name!r}: {wanted!r} is no name for a dimension")
        if isinstance(have, int):
            raise CompileError(
                f"shapes: input {name!r} has the fixed dimension {have}, not {wanted!r}"
            )
    elif not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        raise CompileError(f"shapes: input {name!r}: {wanted!r} is no dimension")
    elif isinstance(have, int) and have != wanted:
        raise CompileError(f"shapes: input {name!r} has dimension {have}, not {wanted}")


def check_size(place: str, dims: Sequence[Any]) -> None:
    """Refuse a tensor too large to index: CompileError where its known dims multiply past it."""
    count = math.prod(dim for dim in dims if isinstance(dim, int))
    if count > MOST_ELEMENTS:
        raise CompileError(
            f"{place} has {text_of(list(dims))} elements, {count} in all; at most {MOST_ELEMENTS} "
            "can be computed with"
        )


def input_dtype(value: onnx.ValueInfoProto) -> str:
    """The element type of a tensor; CompileError for complex numbers."""
    elem_type = value.type.tensor_type.elem_type
    dtype = np_dtype_of(elem_type, f"input {value.name!r}")
    if elem_type == onnx.TensorProto.STRING:
        return STRING
    if dtype.kind == "c":
        name = onnx.TensorProto.DataType.Name(elem_type).lower()
        raise CompileError(f"input {value.name!r} has element type {name}; it is not supported")
    return dtype.name


def relax_input(name: str, dims: Sequence[int | str], dtype: str, symbols: Symbols) -> tvm.ir.Var:
    """The parameter of relax `main` for one graph input."""
    shape = [symbols[dim] if isinstance(dim, str) else dim for dim in dims]
    return relax.Var(identifier(name), relax.TensorType(shape, carrier_of(dtype)))


def output_spec(name: str, expr: relax.Expr, symbols: Symbols, small_type: str) -> TensorSpec:
    """The spec of one output as Relax deduced it; `small_type` where its elements are bytes."""
    dims = tuple(symbols.name_of(dim) for dim in expr.ty.shape.values)
    return TensorSpec(name, small_type or str(expr.ty.dtype), dims)
