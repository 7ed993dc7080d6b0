"""The walk over a graph's nodes: each is folded at import or handed to its converter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.fold import fold
from athanor.frontends.onnx.functions import called_nodes, typed_body
from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import Known, is_nonnegative, known, materialize, product
from athanor.frontends.onnx.node import Node, parse_attributes
from athanor.frontends.onnx.operators import Operators, walk_nodes
from athanor.frontends.onnx.opsets import canonical_domain
from athanor.frontends.onnx.refusals import Refusals
from athanor.frontends.onnx.sequence_value import (
    NO_TENSORS,
    OptionalValue,
    PackedOptional,
    PackedSequence,
    SequenceValue,
    kind_of,
)
from athanor.frontends.onnx.shapes import check_size, identifier
from athanor.frontends.onnx.small_types import (
    MOVES_BYTES,
    MOVES_STRINGS,
    READS_BYTES,
    READS_STRINGS,
    SMALL_TYPES,
    STRING,
    STRINGS_ML,
    Carried,
)
from athanor.frontends.onnx.tensor_data import np_dtype_of, to_array, to_constant
from athanor.frontends.onnx.tensors import dtype_of, np_dtype, shape_of
from athanor.frontends.onnx.text import string_constant

_TAKES_SEQUENCES = frozenset(
    "SequenceAt SequenceErase SequenceInsert SequenceLength ConcatFromSequence Identity Loop "
    "Optional OptionalGetElement OptionalHasElement".split()
)

_GATHERS = frozenset(("ArrayFeatureExtractor", "Gather", "GatherElements", "GatherND"))
"""Operators that take elements by index, and keep an index inside."""

_KNOWN_BYTES = 1 << 16  # weights up to this size are followed through shape computations


class GraphConverter:
    """Values by ONNX name while the nodes of a graph become Relax bindings.

    A value is a relax expression, or Known elements that become an expression only when a
    converter needs one; so a folded shape computation leaves nothing behind.
    """

    def __init__(
        self,
        builder: ImportBuilder,
        operators: Operators,
        opsets: dict[str, int],
        folder: Path | None,
        outer: GraphConverter | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.builder = builder
        self.builder.scope = self
        self.outer = outer
        self.refusals = refusals
        """Collects what is refused; without it, as in graphs inside nodes, that is raised."""
        self.captured: list[tuple[relax.Expr, relax.Var]] = []
        """Values of the graph around this one, and the parameters that stand for them here."""
        self.operators = operators
        self.opsets = opsets
        self.folder = folder
        self._exprs: dict[str, relax.Expr] = {}
        self._known: dict[str, Known] = {}
        self._weights: dict[str, onnx.TensorProto] = {}
        self._small_types: dict[str, str] = {}

    def define(self, name: str, value: relax.Expr | Known | np.ndarray) -> None:
        """Bind an ONNX name."""
        if isinstance(value, np.ndarray):
            is_text = value.dtype.kind in "OSU"
            value = self._strings(name, value) if is_text else known(value)
        if isinstance(value, Carried):
            self._small_types[name], value = value.dtype, value.expr
        if isinstance(value, Known):
            self._known[name] = value
        else:
            self._exprs[name] = value

    def define_weight(self, name: str, tensor: onnx.TensorProto) -> None:
        """Bind an initializer; it is read when first used."""
        self._weights[name] = tensor

    def tensor(self, name: str) -> relax.Expr:
        """The value of an ONNX name as a relax expression."""
        value = self.value(name)
        if isinstance(value, NO_TENSORS):
            raise CompileError(
                f"value {name!r} is {kind_of(value)}; only tensors are supported here"
            )
        return value

    def value(self, name: str) -> Any:
        """The value of an ONNX name: an expression, or a sequence or optional of them."""
        if name not in self._exprs:
            if name in self._known:
                self._exprs[name] = materialize(self._known[name], self.builder)
            elif name in self._weights:
                weight = self._weights[name]
                if weight.data_type == onnx.TensorProto.STRING:
                    self.define(name, to_array(weight, self.folder))
                else:
                    self._exprs[name] = to_constant(weight, self.folder)
            elif self.outer is not None:
                elements = self.outer.known(name)
                if elements is not None:
                    self._known[name] = elements  # and so it stays when it has a tensor
                    self._exprs[name] = materialize(elements, self.builder)
                else:
                    self._exprs[name] = self._capture(name, self.outer.value(name))
            else:
                raise CompileError(f"value {name!r} is used before it is defined")
        return self._exprs[name]

    def known(self, name: str) -> Known | None:
        """The value's elements where they are known at import and few, else None."""
        if name not in self._known and name in self._weights:
            weight = self._weights[name]
            is_text = weight.data_type == onnx.TensorProto.STRING
            if _element_count(weight) * 8 <= _KNOWN_BYTES and not is_text:
                self._known[name] = known(to_array(weight, self.folder))
        if name in self._known or name in self._exprs or name in self._weights:
            return self._known.get(name)
        return self.outer.known(name) if self.outer is not None else None

    def result(self, name: str) -> Any:
        """The value of an ONNX name, as elements where these are known."""
        elements = self.known(name)
        return elements if elements is not None else self.value(name)

    def take(self, value: relax.Expr) -> relax.Expr:
        """A value of the graph around this one, without a name."""
        return self._capture("outer", value)

    def _strings(self, name: str, array: np.ndarray) -> Carried:
        """A constant string tensor."""
        return Carried(string_constant(array, f"tensor {name!r}", self.builder), STRING)

    def _capture(self, name: str, value: Any) -> Any:
        """A value of the graph around this one as a parameter; constants need none."""
        if isinstance(value, SequenceValue):
            captured = tuple(self._capture(name, each) for each in value.elements)
            return SequenceValue(captured, value.dtype)
        if isinstance(value, PackedSequence):
            elements = self._capture(name, value.elements)
            return PackedSequence(elements, self._capture(name, value.shapes), value.element)
        if isinstance(value, PackedOptional):
            present = None if value.present is None else self._capture(name, value.present)
            return PackedOptional(self._capture(name, value.content), present)
        if isinstance(value, OptionalValue):
            held = value.value
            return OptionalValue(None if held is None else self._capture(name, held))
        if isinstance(value, tvm.ir.GenericConst):
            return value
        param = relax.Var(identifier(name), value.ty)
        self.captured.append((value, param))
        return param

    def small_type(self, name: str) -> str:
        """The element type of a value that is carried as another one; "" for any other value."""
        if name in self._small_types:
            return self._small_types[name]
        dtype = ""
        if name in self._known:
            dtype = self._known[name].dtype
        elif name in self._weights:
            elem_type = self._weights[name].data_type
            if elem_type == onnx.TensorProto.STRING:
                return STRING
            dtype = np_dtype_of(elem_type, f"tensor {name!r}").name
        elif name not in self._exprs and self.outer is not None:
            return self.outer.small_type(name)
        return dtype if dtype in SMALL_TYPES else ""

    def convert(self, protos: Iterable[onnx.NodeProto]) -> None:
        """Convert nodes in order; their outputs become defined names."""
        for proto in protos:
            if self.refusals is None:
                self._convert_node(proto)
            else:
                reads = walk_nodes([proto])
                self.refusals.attempt(
                    proto, reads, lambda p=proto: self._convert_node(p), self.define
                )

    def _convert_node(self, proto: onnx.NodeProto) -> None:
        domain = canonical_domain(proto.domain)
        node = Node(
            op=proto.op_type,
            domain=domain,
            opset=self.opsets[domain],
            name=proto.name or (proto.output[0] if proto.output else ""),
            attributes=parse_attributes(proto),
            known=[self.known(name) if name else None for name in proto.input],
            outputs=list(proto.output),
            small_types=[self.small_type(name) for name in proto.input],
        )
        try:
            folded = fold(node, [bool(name) for name in proto.input])
        except (ArithmeticError, ValueError) as error:  # elements that no integer type holds
            raise node.error(str(error)) from error
        if folded is not None:
            self._define_outputs(node, folded)
            return
        converter = self.operators.find(domain, node.op, node.opset)
        if converter is None:
            self._convert_body(proto, node)
            return
        hint = identifier(next(filter(None, node.outputs), ""))
        self.builder.enter_node(node.place, hint, node.label)
        _check_carried(node)
        inputs = [self.value(name) if name else None for name in proto.input]
        if node.op not in _TAKES_SEQUENCES:
            for name, value in zip(proto.input, inputs, strict=True):
                if isinstance(value, NO_TENSORS):
                    raise node.error(f"input {name!r} is {kind_of(value)}, expected a tensor")
        if node.small_type(0) == STRING and node.op in _GATHERS:
            self._require_elements(inputs)
        try:
            self._define_outputs(node, converter(node, inputs, self.builder))
        except (CompileError, AssertionError):
            raise
        except Exception as error:
            # Relax refuses a call whose operands do not fit: the model's fault, named by node.
            first = str(error).strip().splitlines()
            raise CompileError(
                f"{node.place}: {first[-1] if first else type(error).__name__}"
            ) from error

    def _require_elements(self, inputs: Sequence[Any]) -> None:
        """Require that there is an element to gather: what lies behind none is no address."""
        size, wanted = (product(shape_of(x)) for x in inputs[:2])
        if not is_nonnegative(size - 1):
            some, none = tirx.GT(*_exprs(size, 0)), tirx.EQ(*_exprs(wanted, 0))
            self.builder.require(tirx.any(some, none), "no element to gather")

    def _convert_body(self, proto: onnx.NodeProto, node: Node) -> None:
        """Convert the function body of an operator without a converter."""
        types = []
        for name in proto.input:
            kind = onnx.TypeProto()
            if name:
                kind = _type_of(self.value(name), self.small_type(name))
            types.append(kind)
        function = typed_body(proto, node.opset, types)
        if function is None:
            raise node.error("no converter, and no function body for these inputs")
        outer = dict(self.opsets)
        versions = {canonical_domain(e.domain): e.version for e in function.opset_import}
        self.opsets = {**outer, **versions}
        body = onnx.GraphProto(node=called_nodes(function, proto, node.name or node.op))
        for _, sentence in self.operators.unsupported(body, self.opsets):
            raise node.error(f"its function body has {sentence}")
        self.convert(body.node)
        self.opsets = outer

    def _define_outputs(self, node: Node, result: Any) -> None:
        results: Sequence[Any] = result if isinstance(result, (tuple, list)) else [result]
        if isinstance(result, relax.Tuple):
            results = list(result.fields)
        for name, value in zip(node.outputs, results, strict=False):
            if not name:
                continue
            if (moved := _moved_type(node)) and isinstance(value, relax.Expr):
                value = Carried(value, moved)
            if isinstance(value, Carried):
                self.define(name, Carried(self._named(node, value.expr, name), value.dtype))
            elif isinstance(value, (np.ndarray, Known)):
                self.define(name, value)
            elif value is not None:
                self.define(name, self._named(node, value, name))
        missing = [name for name in node.outputs[len(results) :] if name]
        if missing:
            raise node.error(f"output {missing[0]!r} is not supported")

    def _named(self, node: Node, value: Any, name: str) -> Any:
        """Emit the converter's last expression under the ONNX value's name."""
        if isinstance(value, NO_TENSORS):
            return value
        if isinstance(value, relax.Call):
            value = self.builder.emit(value, name_hint=identifier(name))
        else:
            value = self.builder.normalize(value)
        if isinstance(value.ty, relax.TensorType) and value.ty.shape is None:
            raise node.error("the shape of the result does not follow from those of the inputs")
        if isinstance(value.ty, relax.TensorType):
            check_size(f"{node.place}: output {name!r}", shape_of(value))
        return value


def _exprs(*values: Any) -> list[Any]:
    return [tirx.const(value, "int64") if isinstance(value, int) else value for value in values]


def _check_carried(node: Node) -> None:
    """Raise CompileError where an operator can't take elements that are carried as others."""
    strings = [index for index, kind in enumerate(node.small_types) if kind == STRING]
    if strings:
        domain = "ai.onnx.ml" if node.op in STRINGS_ML else ""
        wanted = {**MOVES_STRINGS, **READS_STRINGS}.get(node.op)
        if node.domain != domain or wanted is None:
            raise node.error("strings are not supported by this operator")
        count = len(node.small_types)
        wanted = range(count) if node.op == "Concat" else [i for i in wanted if i < count]
        if strings != list(wanted):
            raise node.error(f"inputs {strings} are strings; {list(wanted)} and no others may be")
        return
    small = next(filter(None, node.small_types), "")
    if small and (node.domain or node.op not in MOVES_BYTES | READS_BYTES):
        raise node.error(f"element type {small} is not supported; put a Cast before")


def _moved_type(node: Node) -> str:
    """The carried type of what an operator moves; "" for other types and operators."""
    if node.op in MOVES_STRINGS:
        moved = node.small_type(MOVES_STRINGS[node.op][0])
        return moved if node.op in MOVES_BYTES or moved == STRING else ""
    return ""


def _element_count(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def _type_of(value: Any, small_type: str) -> onnx.TypeProto:
    """The ONNX type of a value."""
    if isinstance(value, (OptionalValue, PackedOptional)):
        raise CompileError("an optional as an input of a function body is not supported")
    if isinstance(value, (SequenceValue, PackedSequence)):
        sizes = value.element.sizes
        dtype = onnx.helper.np_dtype_to_tensor_dtype(np_dtype(value.dtype))
        return onnx.helper.make_sequence_type_proto(
            onnx.helper.make_tensor_type_proto(dtype, None if sizes is None else list(sizes))
        )
    dtype = onnx.TensorProto.STRING
    if small_type != STRING:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(np_dtype(small_type or dtype_of(value)))
    dims = [dim if isinstance(dim, int) else None for dim in shape_of(value)]
    return onnx.helper.make_tensor_type_proto(dtype, dims)
