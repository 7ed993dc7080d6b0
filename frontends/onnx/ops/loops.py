"""The loop that Loop and Scan are: states of sizes that may change, and stacked outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx

from athanor.frontends.onnx.import_builder import LOOP, ImportBuilder, marker
from athanor.frontends.onnx.known import constant, is_equal, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.inner_graph import (
    InnerGraph,
    emit_marker,
    is_visible,
    sizes_of,
    with_symbols,
)
from athanor.frontends.onnx.tensors import dtype_of, scalar, shape_of

R = relax.op


@dataclass
class Round:
    """What a round of a loop results in."""

    condition: relax.Expr
    states: list[relax.Expr]
    elements: list[relax.Expr]
    endless: bool
    """Whether the condition is always true."""


def emit_loop(
    node: Node,
    builder: ImportBuilder,
    initial: Sequence[relax.Expr],
    trips: relax.Expr | None,
    condition: relax.Expr | None,
    count: Any,
    body: Callable[[InnerGraph, relax.Expr, list[relax.Expr]], Round],
) -> tuple[relax.Expr, ...]:
    """Emit a loop; `count` is the number of rounds where no condition ends it earlier, if known.

    Which sizes of states change is found out by importing the body with the sizes that the initial
    states have, then with symbols for those that came out different, until none does. The symbols'
    values are one more state.
    """
    varying: list[tuple[int, int]] = []
    kept_graphs = len(builder.shared.subgraphs)
    while True:
        with InnerGraph(builder) as inner:
            iteration = inner.param("iteration", [], "int64")
            symbols = inner.builder.new_dims(len(varying))
            types = with_symbols([x.ty for x in initial], dict(zip(varying, symbols, strict=True)))
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
    inner: InnerGraph,
    initial: Sequence[relax.Expr],
    trips: relax.Expr | None,
    condition: relax.Expr | None,
    count: Any,
    varying: list[tuple[int, int]],
    result: Round,
) -> tuple[relax.Expr, ...]:
    """Emit the marker for an imported body."""
    initial, following = list(initial), list(result.states)
    types = [x.ty for x in initial]
    if varying:
        following.append(sizes_of(result.states, varying, inner.builder))
        initial.append(sizes_of(initial, varying, builder))
        types.append(initial[-1].ty)
    hidden = _hidden(result.elements, builder)
    if hidden:
        sizes = sizes_of(result.elements, hidden, inner.builder)
        following.append(_unchanged(hidden, sizes, inner))
        initial.append(constant(np.full(len(hidden), -1, np.int64)))
        types.append(initial[-1].ty)
    number = inner.finish([result.condition, *following, *result.elements])
    counted: list[tirx.Var] = []
    if count is None or not result.endless or (not is_symbolic(count) and count < 0):
        counted = builder.new_dims(1)
        count = counted[0]
    finals = builder.new_dims(len(varying))
    types = with_symbols(types, dict(zip(varying, finals, strict=True)))
    element_dims = builder.new_dims(len(hidden))
    types += [
        relax.TensorType([count, *ty.shape.values], ty.dtype)
        for ty in with_symbols(
            [x.ty for x in result.elements], dict(zip(hidden, element_dims, strict=True))
        )
    ]
    types.append(relax.TensorType([1], "int64"))
    bounds = [bound for bound in (trips, condition) if bound is not None]
    numbers = [number, trips is not None, condition is not None, len(initial)]
    arguments = [*bounds, *initial, *inner.captured]
    outputs = emit_marker(marker(LOOP, numbers), arguments, types, builder)
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
        if not is_visible(dim, builder)
    ]


def _unchanged(
    hidden: Sequence[tuple[int, int]], sizes: relax.Expr, inner: InnerGraph
) -> relax.Expr:
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
