"""If, Loop and Scan: the graphs inside become modules of their own (see inner_graph)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from tvm import relax, te

from athanor.frontends.onnx.graph import GraphConverter
from athanor.frontends.onnx.import_builder import IF, ImportBuilder, marker
from athanor.frontends.onnx.known import (
    Known,
    as_objects,
    is_equal,
    is_symbolic,
    known,
    materialize,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.inner_graph import (
    InnerGraph,
    emit_marker,
    is_visible,
    joined_forms,
    refuse_small,
    sizes_of,
    with_symbols,
)
from athanor.frontends.onnx.ops.loops import Round, emit_loop
from athanor.frontends.onnx.ops.value_forms import Form, flattened, form_of, values_of
from athanor.frontends.onnx.sequence_value import SEQUENCE, TENSOR, PackedOptional
from athanor.frontends.onnx.tensors import compute, dtype_of, reshape, scalar, shape_of

R = relax.op
Inputs = list[Any]


def branch(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """One of two graphs, by a condition; their results may have different sizes.

    A condition that is known at import leaves only its graph.
    Source: https://onnx.ai/onnx/operators/onnx__If.html
    """
    graphs = [node.attributes["then_branch"], node.attributes["else_branch"]]
    condition = node.known[0]
    if condition is not None and condition.is_constant:
        return _inlined(graphs[0] if condition.elements.reshape(-1)[0] else graphs[1], builder)
    with InnerGraph(builder) as then, InnerGraph(builder) as otherwise:
        return _branch(node, inputs[0], [then, otherwise], graphs, builder)


def _branch(
    node: Node,
    condition: relax.Expr,
    inner: list[InnerGraph],
    graphs: list[onnx.GraphProto],
    builder: ImportBuilder,
) -> Any:
    values = [body.convert(graph, {}) for body, graph in zip(inner, graphs, strict=True)]
    forms = joined_forms(node, [[form_of(value) for value in row] for row in values])
    results = [flattened(row, forms, body.builder) for row, body in zip(values, inner, strict=True)]
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
            if not is_equal(left, right) or not is_visible(left, builder):
                varying.append((index, axis))
        types.append(relax.TensorType(dims, dtype_of(then)))
    symbols = builder.new_dims(len(varying))
    types = with_symbols(types, dict(zip(varying, symbols, strict=True)))
    if varying:
        types.append(relax.TensorType([len(varying)], "int64"))
        for body, values in zip(inner, results, strict=True):
            values.append(sizes_of(values, varying, body.builder))
    # builders are left in the reverse order of their opening
    numbers = [inner[1].finish(results[1]), inner[0].finish(results[0])][::-1]
    captured = [value for body in inner for value in body.captured]
    name = marker(IF, [*numbers, len(inner[0].captured)])
    outputs = emit_marker(name, [condition, *captured], types, builder)
    if varying:
        builder.define_dims(symbols, outputs.pop())
    return tuple(values_of(forms, outputs))


def _inlined(graph: onnx.GraphProto, builder: ImportBuilder) -> tuple[Any, ...]:
    """The results of a graph whose nodes are converted in the graph around it."""
    scope: GraphConverter = builder.scope
    for weight in graph.initializer:
        scope.define_weight(weight.name, weight)
    scope.convert(graph.node)
    refuse_small(scope, graph)
    return tuple(scope.result(value.name) for value in graph.output)


def loop(node: Node, inputs: list[Any], builder: ImportBuilder) -> tuple[Any, ...]:
    """A graph again and again: at most input 0 times, while its condition holds.

    inputs: trip count and first condition, both optional, then the states. The graph takes the
    round's number, the condition and the states, and returns the condition, the states and the
    elements of the stacked outputs. The sizes of states may change, those of elements may not.
    A state may be a sequence or an optional; what is known of its elements is found out as sizes
    are, by importing the body again until it hands on nothing but what it was imported for.
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

    width = len(initial)
    forms = [form_of(value) for value in initial]
    last: list[Form] = []

    def body(inner: InnerGraph, iteration: relax.Expr, states: list[relax.Expr]) -> Round:
        given = dict(zip(names, [iteration, _true(), *values_of(forms, states)], strict=True))
        results = inner.convert(graph, given)
        following = results[1 : width + 1]
        last[:] = [form_of(value) for value in following]
        joined = joined_forms(node, [forms, last])
        if any(a != b and a.kind != TENSOR for a, b in zip(joined, forms, strict=True)):
            raise _Widened(joined)
        if any(form_of(value).kind != TENSOR for value in results[width + 1 :]):
            raise node.error("a stacked output is a sequence or an optional")
        goes_on = inner.scope.known(graph.output[0].name)
        endless = goes_on is not None and goes_on.is_constant and bool(goes_on.elements.all())
        states = flattened(following, forms, inner.builder)
        return Round(results[0], states, results[width + 1 :], endless)

    known_trips = node.known[0] if trips is not None else None
    count = known_trips.flat()[0] if known_trips is not None and condition is None else None
    kept_graphs = len(builder.shared.subgraphs)
    while True:
        try:
            states = flattened(initial, forms, builder)
            results = list(emit_loop(node, builder, states, trips, condition, count, body))
            break
        except _Widened as wider:
            del builder.shared.subgraphs[kept_graphs:]
            forms = wider.forms
    finals = values_of(forms, results[: len(states)])
    for index, (value, form) in enumerate(zip(finals, last, strict=True)):
        # the type may say optional where every round results in a sequence
        if isinstance(value, PackedOptional) and form.kind == SEQUENCE:
            finals[index] = value.content
    return (*finals, *results[len(states) :])


class _Widened(Exception):
    """A loop's body hands on values of wider forms than it was imported for."""

    def __init__(self, forms: list[Form]) -> None:
        super().__init__()
        self.forms = forms


def _true() -> Known:
    return known(np.array(True))


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

    def body(inner: InnerGraph, iteration: relax.Expr, states: list[relax.Expr]) -> Round:
        slices = []
        for x, axis, reverse in zip(sources, axes, directions, strict=True):
            whole = inner.scope.take(x)
            slices.append(_slice_at(whole, iteration, axis, bool(reverse), inner.builder))
        results = inner.convert(graph, dict(zip(names, [*states, *slices], strict=True)))
        return Round(scalar(True, "bool"), results[:width], results[width:], True)

    trips = materialize(known(as_objects([rounds], ()), "int64"), builder)
    results = emit_loop(node, builder, initial, trips, None, rounds, body)
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


_BATCH_LIMIT = 16
"""Largest batch of a Scan of opset 8, whose rows are loops one after the other."""


def scan_8(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[relax.Expr, ...]:
    """Opset 8: a scan for each row of a batch, along axis 1 of all inputs.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html
    """
    if node.has_input(0, inputs):
        raise node.error("sequence_lens is not supported; convert the model to a newer opset")
    values = inputs[1:]
    batch = shape_of(values[0])[0] if values and shape_of(values[0]) else 0
    if is_symbolic(batch) or not 1 <= batch <= _BATCH_LIMIT:
        raise node.error(f"a batch of {batch}; it has to be fixed, and at most {_BATCH_LIMIT}")
    scanned = node.int("num_scan_inputs")
    directions = node.ints("directions", [0] * scanned)
    attributes = {"body": node.attributes["body"], "num_scan_inputs": scanned}
    one = replace(node, attributes={**attributes, "scan_input_directions": directions})
    rows = []
    for number in range(batch):
        parts = [R.strided_slice(x, [0], [number], [number + 1]) for x in values]
        row = [
            reshape(builder.emit(part), shape_of(x)[1:], builder)
            for part, x in zip(parts, values, strict=True)
        ]
        rows.append(scan(one, row, builder))
    stacked = [R.stack(list(column), axis=0) for column in zip(*rows, strict=True)]
    return tuple(builder.emit(each) for each in stacked)


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
