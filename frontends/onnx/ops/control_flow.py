"""If, Loop and Scan: the graphs inside become modules of their own (see import_builder).

A graph inside is imported with a converter whose outer one is this graph's. Constants and elements
that are known at import it takes over; other values of the graph around become parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.graph import GraphConverter
from athanor.frontends.onnx.import_builder import IF, LOOP, ImportBuilder, Subgraph, marker
from athanor.frontends.onnx.known import (
    Known,
    as_objects,
    constant,
    is_equal,
    is_symbolic,
    known,
    materialize,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.shapes import identifier
from athanor.frontends.onnx.tensors import compute, dtype_of, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]


def branch(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """One of two graphs, by a condition; their results may have different sizes.

    A condition that is known at import leaves only its graph.
    Source: https://onnx.ai/onnx/operators/onnx__If.html
    """
    graphs = [node.attributes["then_branch"], node.attributes["else_branch"]]
    condition = node.known[0]
    if condition is not None and condition.is_constant:
        return _inlined(graphs[0] if condition.elements.reshape(-1)[0] else graphs[1], builder)
    with _Inner(builder) as then, _Inner(builder) as otherwise:
        return _branch(node, inputs[0], [then, otherwise], graphs, builder)


def _branch(
    node: Node,
    condition: relax.Expr,
    inner: list[_Inner],
    graphs: list[onnx.GraphProto],
    builder: ImportBuilder,
) -> Any:
    results = [body.convert(graph, {}) for body, graph in zip(inner, graphs, strict=True)]
    types: list[relax.TensorType] = []
    varying: list[tuple[int, int]] = []
    for index, (then, otherwise) in enumerate(zip(*results, strict=True)):
        dims, others = shape_of(then), shape_of(otherwise)
        if len(dims) != len(others) or dtype_of(then) != dtype_of(otherwise):
            raise node.error(
                f"result {index} is {dtype_of(then)}{dims} in then_branch and "
                f"{dtype_of(otherwise)}{others} in else_branch; only sizes may differ"
            )
        for axis, (left, right) in enumerate(zip(dims, others, strict=True)):
            if not is_equal(left, right) or not _is_visible(left, builder):
                varying.append((index, axis))
        types.append(relax.TensorType(dims, dtype_of(then)))
    symbols = builder.new_dims(len(varying))
    types = _with_symbols(types, dict(zip(varying, symbols, strict=True)))
    if varying:
        types.append(relax.TensorType([len(varying)], "int64"))
        for body, values in zip(inner, results, strict=True):
            values.append(_sizes(values, varying, body.builder))
    # builders are left in the reverse order of their opening
    numbers = [inner[1].finish(results[1]), inner[0].finish(results[0])][::-1]
    captured = [value for body in inner for value in body.captured]
    name = marker(IF, [*numbers, len(inner[0].captured)])
    outputs = _emit_marker(name, [condition, *captured], types, builder)
    if varying:
        builder.define_dims(symbols, outputs.pop())
    return tuple(outputs)


def _inlined(graph: onnx.GraphProto, builder: ImportBuilder) -> tuple[Any, ...]:
    """The results of a graph whose nodes are converted in the graph around it."""
    scope: GraphConverter = builder.scope
    for weight in graph.initializer:
        scope.define_weight(weight.name, weight)
    scope.convert(graph.node)
    _refuse_small(scope, graph)
    return tuple(scope.result(value.name) for value in graph.output)


class _Inner:
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

    def __enter__(self) -> _Inner:
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

    def convert(self, graph: onnx.GraphProto, given: dict[str, Any]) -> list[relax.Expr]:
        """The graph's results on these values of its inputs."""
        for weight in graph.initializer:
            self.scope.define_weight(weight.name, weight)
        for name, value in given.items():
            self.scope.define(name, value)
        self.scope.convert(graph.node)
        _refuse_small(self.scope, graph)
        return [self.scope.tensor(value.name) for value in graph.output]

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


def _is_visible(dim: Any, builder: ImportBuilder) -> bool:
    """Whether a dimension means something in the graph of `builder`."""
    return not is_symbolic(dim) or all(
        any(var.same_as(symbol) for symbol in builder.visible)
        for var in tirx.analysis.undefined_vars(dim)
    )


def _with_symbols(
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


def _sizes(
    values: Sequence[relax.Expr], places: Sequence[tuple[int, int]], builder: ImportBuilder
) -> relax.Expr:
    """An int64 tensor with the sizes of (tensor, axis)."""
    dims = [shape_of(values[index])[axis] for index, axis in places]
    return materialize(known(as_objects(dims, (len(dims),)), "int64"), builder)


def _emit_marker(
    name: str, arguments: Sequence[relax.Expr], types: list[Any], builder: ImportBuilder
) -> list[relax.Expr]:
    call = builder.emit(relax.call_dps_packed(name, relax.Tuple(list(arguments)), types))
    if len(types) == 1:
        return [call]
    return [builder.emit(relax.TupleGetItem(call, index)) for index in range(len(types))]


def loop(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[relax.Expr, ...]:
    """A graph again and again: at most input 0 times, while its condition holds.

    inputs: trip count and first condition, both optional, then the states. The graph takes the
    round's number, the condition and the states, and returns the condition, the states and the
    elements of the stacked outputs. The sizes of states may change, those of elements may not.
    Source: https://onnx.ai/onnx/operators/onnx__Loop.html
    """
    graph: onnx.GraphProto = node.attributes["body"]
    names = [value.name for value in graph.input]
    initial = inputs[2:]
    if len(names) != len(initial) + 2 or len(graph.output) < len(initial) + 1:
        raise node.error(
            f"body takes {len(names)} and returns {len(graph.output)} values for "
            f"{len(initial)} states"
        )
    trips = inputs[0] if node.has_input(0, inputs) else None
    condition = inputs[1] if node.has_input(1, inputs) else None
    first = node.known[1] if condition is not None else None
    if first is not None and first.is_constant and first.elements.all():
        condition = None

    def body(inner: _Inner, iteration: relax.Expr, states: list[relax.Expr]) -> _Round:
        given = dict(zip(names, [iteration, _true(), *states], strict=True))
        results = inner.convert(graph, given)
        goes_on = inner.scope.known(graph.output[0].name)
        endless = goes_on is not None and goes_on.is_constant and bool(goes_on.elements.all())
        width = len(states)
        return _Round(results[0], results[1 : width + 1], results[width + 1 :], endless)

    known_trips = node.known[0] if trips is not None else None
    count = known_trips.flat()[0] if known_trips is not None and condition is None else None
    return _loop(node, builder, initial, trips, condition, count, body)


def _true() -> Known:
    return known(np.array(True))


@dataclass
class _Round:
    """What a round of a loop results in."""

    condition: relax.Expr
    states: list[relax.Expr]
    elements: list[relax.Expr]
    endless: bool
    """Whether the condition is always true."""


def _loop(
    node: Node,
    builder: ImportBuilder,
    initial: Sequence[relax.Expr],
    trips: relax.Expr | None,
    condition: relax.Expr | None,
    count: Any,
    body: Callable[[_Inner, relax.Expr, list[relax.Expr]], _Round],
) -> tuple[relax.Expr, ...]:
    """Emit a loop; `count` is the number of rounds where no condition ends it earlier, if known.

    Which sizes of states change is found out by importing the body with the sizes that the initial
    states have, then with symbols for those that came out different, until none does. The symbols'
    values are one more state.
    """
    varying: list[tuple[int, int]] = []
    kept_graphs = len(builder.shared.subgraphs)
    while True:
        with _Inner(builder) as inner:
            iteration = inner.param("iteration", [], "int64")
            symbols = inner.builder.new_dims(len(varying))
            types = _with_symbols([x.ty for x in initial], dict(zip(varying, symbols, strict=True)))
            states = [
                inner.param(f"state{index}", ty.shape.values, ty.dtype)
                for index, ty in enumerate(types)
            ]
            if varying:
                sizes = inner.param("sizes", [len(varying)], "int64")
                inner.builder.define_dims(symbols, sizes)
            result = body(inner, iteration, states)
            changed = _changed(node, states, result.states, varying)
            if not changed:
                return _finish_loop(
                    builder, inner, initial, trips, condition, count, varying, result
                )
        del builder.shared.subgraphs[kept_graphs:]
        varying = sorted({*varying, *changed})


def _finish_loop(
    builder: ImportBuilder,
    inner: _Inner,
    initial: Sequence[relax.Expr],
    trips: relax.Expr | None,
    condition: relax.Expr | None,
    count: Any,
    varying: list[tuple[int, int]],
    result: _Round,
) -> tuple[relax.Expr, ...]:
    """Emit the marker for an imported body."""
    initial, following = list(initial), list(result.states)
    types = [x.ty for x in initial]
    if varying:
        following.append(_sizes(result.states, varying, inner.builder))
        initial.append(_sizes(initial, varying, builder))
        types.append(initial[-1].ty)
    hidden = _hidden(result.elements, builder)
    if hidden:
        sizes = _sizes(result.elements, hidden, inner.builder)
        following.append(_unchanged(hidden, sizes, inner))
        initial.append(constant(np.full(len(hidden), -1, np.int64)))
        types.append(initial[-1].ty)
    number = inner.finish([result.condition, *following, *result.elements])
    counted: list[tirx.Var] = []
    if count is None or not result.endless or (not is_symbolic(count) and count < 0):
        counted = builder.new_dims(1)
        count = counted[0]
    finals = builder.new_dims(len(varying))
    types = _with_symbols(types, dict(zip(varying, finals, strict=True)))
    element_dims = builder.new_dims(len(hidden))
    types += [
        relax.TensorType([count, *ty.shape.values], ty.dtype)
        for ty in _with_symbols(
            [x.ty for x in result.elements], dict(zip(hidden, element_dims, strict=True))
        )
    ]
    types.append(relax.TensorType([1], "int64"))
    bounds = [bound for bound in (trips, condition) if bound is not None]
    numbers = [number, trips is not None, condition is not None, len(initial)]
    arguments = [*bounds, *initial, *inner.captured]
    outputs = _emit_marker(marker(LOOP, numbers), arguments, types, builder)
    rounds = outputs.pop()
    if hidden:
        last_sizes = outputs.pop(len(initial) - 1)
        zero = scalar(0, "int64")
        builder.define_dims(element_dims, builder.emit(R.maximum(last_sizes, zero)))
    if counted:
        builder.define_dims(counted, rounds)
    if varying:
        builder.define_dims(finals, outputs.pop(len(initial) - bool(hidden) - 1))
    return tuple(outputs)


def _hidden(elements: Sequence[relax.Expr], builder: ImportBuilder) -> list[tuple[int, int]]:
    """The sizes (element, axis) that only the body knows."""
    return [
        (index, axis)
        for index, element in enumerate(elements)
        for axis, dim in enumerate(shape_of(element))
        if not _is_visible(dim, builder)
    ]


def _unchanged(hidden: Sequence[tuple[int, int]], sizes: relax.Expr, inner: _Inner) -> relax.Expr:
    """The sizes of a round's elements as a state: a round with others ends the run.

    Before the first round they are -1.
    """
    before = inner.param("element_sizes", [len(hidden)], "int64")
    values = inner.builder.late_values(before, len(hidden))
    now = inner.builder.late_values(sizes, len(hidden))
    for last, current in zip(values, now, strict=True):
        inner.builder.require(
            tirx.any(last < 0, tirx.EQ(last, current)),
            "a round's element has another shape than those before it",
        )
    return sizes


def _changed(
    node: Node,
    states: Sequence[relax.Expr],
    following: Sequence[relax.Expr],
    varying: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    """The sizes (state, axis) that a round changes and that are not `varying` yet."""
    places = []
    for index, (state, after) in enumerate(zip(states, following, strict=True)):
        dims, others = shape_of(state), shape_of(after)
        if len(dims) != len(others) or dtype_of(state) != dtype_of(after):
            raise node.error(
                f"state {index} is {dtype_of(state)}{dims} before a round and "
                f"{dtype_of(after)}{others} after it; only sizes may change"
            )
        for axis, (left, right) in enumerate(zip(dims, others, strict=True)):
            if (index, axis) not in varying and not is_equal(left, right):
                places.append((index, axis))
    return places


def scan(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[relax.Expr, ...]:
    """A graph for each slice of the inputs along an axis; states carried, results stacked.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html
    """
    graph: onnx.GraphProto = node.attributes["body"]
    scanned = node.int("num_scan_inputs")
    width = len(inputs) - scanned
    initial, sources = inputs[:width], inputs[width:]
    names = [value.name for value in graph.input]
    if len(names) != len(inputs) or len(graph.output) < width or scanned < 1:
        raise node.error(f"body takes {len(names)} values for {len(inputs)} inputs")
    stacked = len(graph.output) - width
    directions = node.ints("scan_input_directions", [0] * scanned)
    axes = [
        node.normalize_axis(axis, len(shape_of(x)), "scan_input_axes element")
        for axis, x in zip(node.ints("scan_input_axes", [0] * scanned), sources, strict=True)
    ]
    rounds = shape_of(sources[0])[axes[0]]
    for x, axis in zip(sources, axes, strict=True):
        builder.require_equal(shape_of(x)[axis], rounds)

    def body(inner: _Inner, iteration: relax.Expr, states: list[relax.Expr]) -> _Round:
        slices = []
        for x, axis, reverse in zip(sources, axes, directions, strict=True):
            whole = inner.scope.take(x)
            slices.append(_slice_at(whole, iteration, axis, bool(reverse), inner.builder))
        results = inner.convert(graph, dict(zip(names, [*states, *slices], strict=True)))
        return _Round(scalar(True, "bool"), results[:width], results[width:], True)

    trips = materialize(known(as_objects([rounds], ()), "int64"), builder)
    results = _loop(node, builder, initial, trips, None, rounds, body)
    finals, stacks = list(results[:width]), list(results[width:])
    output_axes = node.ints("scan_output_axes", [0] * stacked)
    output_directions = node.ints("scan_output_directions", [0] * stacked)
    for index, stack in enumerate(stacks):
        rank = len(shape_of(stack))
        axis = node.normalize_axis(output_axes[index], rank, "scan_output_axes element")
        if output_directions[index]:
            stack = _reversed(stack, builder)
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
            stack = builder.emit(R.permute_dims(stack, order))
        stacks[index] = stack
    return tuple([*finals, *stacks])


def _slice_at(
    x: relax.Expr, iteration: relax.Expr, axis: int, reverse: bool, builder: ImportBuilder
) -> relax.Expr:
    """The slice of x along `axis` of a round."""

    def kernel(data: te.Tensor, number: te.Tensor) -> te.Tensor:
        shape = (*data.shape[:axis], *data.shape[axis + 1 :])

        def element(*i: Any) -> Any:
            position = data.shape[axis] - 1 - number() if reverse else number()
            return data(*i[:axis], position, *i[axis:])

        return te.compute(shape, element, name="slice_at")

    return compute(builder, "slice_at", kernel, x, iteration)


def _reversed(x: relax.Expr, builder: ImportBuilder) -> relax.Expr:
    """X with its first axis backwards."""

    def kernel(data: te.Tensor) -> te.Tensor:
        last = data.shape[0] - 1
        return te.compute(data.shape, lambda *i: data(last - i[0], *i[1:]), name="backwards")

    return compute(builder, "backwards", kernel, x)


def _refuse_small(scope: GraphConverter, graph: onnx.GraphProto) -> None:
    """Raise CompileError for an inner graph's result that is carried as bytes."""
    for value in graph.output:
        if small := scope.small_type(value.name):
            raise CompileError(
                f"result {value.name!r} of an inner graph has element type {small}, which is not "
                "supported; put a Cast before"
            )
