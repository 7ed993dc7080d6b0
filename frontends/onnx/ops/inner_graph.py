"""A graph inside a node while it is imported: it becomes a module of its own (see import_builder).

It is imported with a converter whose outer one is the graph's around it. Constants and elements
that are known at import it takes over; other values of the graph around become parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from tvm import relax, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.graph import GraphConverter
from athanor.frontends.onnx.import_builder import ImportBuilder, Subgraph
from athanor.frontends.onnx.known import as_objects, is_symbolic, known, materialize
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.value_forms import Form
from athanor.frontends.onnx.shapes import identifier
from athanor.frontends.onnx.tensors import shape_of


class InnerGraph:
    """A graph inside a node, while it is imported as a module."""

    def __init__(self, around: ImportBuilder) -> None:
        scope: GraphConverter = around.scope
        self.around = around
        self.builder = ImportBuilder(around.shared)
        self.builder.visible = list(around.visible)
        self.scope = GraphConverter(
            self.builder, scope.operators, dict(scope.opsets), scope.folder, scope
        )
        self.params: list[relax.Var] = []
        self._finished = False
        self._function = self.builder.function("main")
        self._dataflow = self.builder.dataflow()

    def __enter__(self) -> InnerGraph:
        self._function.__enter__()
        self._dataflow.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        """Without `finish` before, the graph is given up."""
        if not self._finished:
            self._dataflow.__exit__(None, None, None)
            self.builder._end_block()
            self._function.__exit__(CompileError, None, None)

    @property
    def captured(self) -> list[relax.Expr]:
        """What the graph takes of the graph around it, in the order of its last parameters."""
        return [value for value, _ in self.scope.captured]

    def param(self, name: str, dims: Sequence[Any], dtype: str) -> relax.Var:
        """One more parameter, before those that are captured."""
        self.params.append(relax.Var(identifier(name), relax.TensorType(list(dims), dtype)))
        return self.params[-1]

    def convert(self, graph: onnx.GraphProto, given: dict[str, Any]) -> list[Any]:
        """The graph's results on these values of its inputs."""
        for weight in graph.initializer:
            self.scope.define_weight(weight.name, weight)
        for name, value in given.items():
            self.scope.define(name, value)
        self.scope.convert(graph.node)
        refuse_small(self.scope, graph)
        return [self.scope.value(value.name) for value in graph.output]

    def finish(self, results: Sequence[relax.Expr]) -> int:
        """End main; the number of the subgraph."""
        builder = self.builder
        output = builder.emit_output(relax.Tuple([*results, *builder.late_sources]))
        self._dataflow.__exit__(None, None, None)
        around = relax.Var("around", relax.ShapeType(list(self.around.visible)))
        captured = [param for _, param in self.scope.captured]
        params = [around, *self.params, *captured, *builder.late_params]
        builder.emit_func_output(output, params)
        self._function.__exit__(None, None, None)
        mod = builder.finish()
        shared = builder.shared.subgraphs
        shared.append(Subgraph(mod, tuple(builder.requirements)))
        self._finished = True
        return len(shared) - 1


def is_visible(dim: Any, builder: ImportBuilder) -> bool:
    """Whether a dimension means something in the graph of `builder`."""
    return not is_symbolic(dim) or all(
        any(var.same_as(symbol) for symbol in builder.visible)
        for var in tirx.analysis.undefined_vars(dim)
    )


def with_symbols(
    types: Sequence[relax.TensorType], symbols: dict[tuple[int, int], Any]
) -> list[relax.TensorType]:
    """The types with symbols at (tensor, axis)."""
    return [
        relax.TensorType(
            [symbols.get((index, axis), dim) for axis, dim in enumerate(ty.shape.values)],
            ty.dtype,
        )
        for index, ty in enumerate(types)
    ]


def sizes_of(
    values: Sequence[relax.Expr], places: Sequence[tuple[int, int]], builder: ImportBuilder
) -> relax.Expr:
    """An int64 tensor with the sizes of (tensor, axis)."""
    dims = [shape_of(values[index])[axis] for index, axis in places]
    return materialize(known(as_objects(dims, (len(dims),)), "int64"), builder)


def emit_marker(
    name: str, arguments: Sequence[relax.Expr], types: list[Any], builder: ImportBuilder
) -> list[relax.Expr]:
    """Emit the call that stands for a control flow operator; its results."""
    call = builder.emit(relax.call_dps_packed(name, relax.Tuple(list(arguments)), types))
    if len(types) == 1:
        return [call]
    return [builder.emit(relax.TupleGetItem(call, index)) for index in range(len(types))]


def joined_forms(node: Node, rows: Sequence[Sequence[Form]]) -> list[Form]:
    """The forms that have room for the values of each row."""
    forms = []
    for index, column in enumerate(zip(*rows, strict=True)):
        form = column[0]
        for other in column[1:]:
            try:
                form = form.joined(other)
            except CompileError as error:
                raise node.error(f"value {index}: {error}") from None
        forms.append(form)
    return forms


def refuse_small(scope: GraphConverter, graph: onnx.GraphProto) -> None:
    """Raise CompileError for an inner graph's result that is carried as bytes."""
    for value in graph.output:
        if small := scope.small_type(value.name):
            raise CompileError(
                f"result {value.name!r} of an inner graph has element type {small}, which is not "
                "supported; put a Cast before"
            )
