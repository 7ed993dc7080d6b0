"""LSTM, GRU and RNN: one matrix product for the inputs of all steps, then a recurrence kernel.

    projected = X (T*B, I) @ W^T (I, G*H) + biases        # ordinary Relax operators
    Y, Y_h[, Y_c] = call_tir(recurrence, projected, R, ...)   # serial over time

Both directions are two such pairs, stacked. Gate order is ONNX's: iofc (LSTM), zrh (GRU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx

from athanor.frontends.onnx.known import constant, is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.recurrent_activation import activation_of
from athanor.frontends.onnx.ops.recurrent_kernel import Cell, gru_kernel, lstm_kernel, rnn_kernel
from athanor.frontends.onnx.tensors import cast, dtype_of, filled, np_dtype, reshape, shape_of

R = relax.op
Inputs = list[Any]
Builder = relax.BlockBuilder

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS = {
    "RNN": ["Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
}


@dataclass(frozen=True)
class _Direction:
    """One direction's operands: weights without the leading num_directions dim."""

    weight: relax.Expr  # (G*H, I)
    recurrent: relax.Expr  # (G*H, H)
    bias: relax.Expr  # (2*G*H,): of the input, then of the recurrence
    hidden: relax.Expr  # (B, H)
    state: relax.Expr | None  # (B, H), LSTM
    peephole: relax.Expr | None  # (3*H,), LSTM


def recurrent(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr, ...]:
    """The converter of all three operators; they share inputs, attributes and layouts.

    inputs: X (T, B, I), W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), sequence_lens (B,),
    initial_h (D, B, H); LSTM also initial_c (D, B, H) and P (D, 3*H). layout=1 puts B first.
    Results: Y (T, D, B, H), Y_h (D, B, H); LSTM also Y_c (D, B, H).
    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
    """
    x, layout = inputs[0], node.int("layout", 0)
    if layout not in (0, 1):
        raise node.error(f"layout={layout} is neither 0 nor 1")
    if layout:  # (B, T, I)
        x = builder.emit(R.permute_dims(x, [1, 0, 2]))
    directions = _directions(node)
    hidden_size = shape_of(inputs[2])[-1]
    if node.int("hidden_size", hidden_size) != hidden_size:
        raise node.error(f"hidden_size={node.int('hidden_size')}, R is {shape_of(inputs[2])}")
    lengths = inputs[4] if node.has_input(4, inputs) else None
    if lengths is not None:
        lengths = cast(lengths, "int32", builder)
    outputs: list[list[relax.Expr]] = []
    for index in range(len(directions)):
        operands = _operands(node, inputs, index, len(directions), shape_of(x), builder)
        cell = _cell(node, index, directions, hidden_size, dtype_of(x), lengths is not None)
        outputs.append(_run(node, cell, x, operands, lengths, builder))
    sequence = _stack([result[0] for result in outputs], 1, builder)  # (T, D, B, H)
    states = [
        _stack([result[k] for result in outputs], 0, builder) for k in range(1, len(outputs[0]))
    ]
    if layout:
        sequence = builder.emit(R.permute_dims(sequence, [2, 0, 1, 3]))
        states = [builder.emit(R.permute_dims(state, [1, 0, 2])) for state in states]
    return (sequence, *states)


def _directions(node: Node) -> list[bool]:
    """For each direction, whether it runs backwards."""
    kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    direction = node.string("direction", "forward")
    if direction not in kinds:
        raise node.error(f"direction={direction!r} is none of {sorted(kinds)}")
    return kinds[direction]


def _operands(
    node: Node, inputs: Inputs, index: int, count: int, dims: list[Any], builder: Builder
) -> _Direction:
    x, gates = inputs[0], _GATES[node.op]
    hidden_size, dtype = shape_of(inputs[2])[-1], dtype_of(x)
    if shape_of(inputs[1])[0] != count:
        raise node.error(f"W {shape_of(inputs[1])} for {count} directions")

    def part(position: int) -> relax.Expr | None:
        if not node.has_input(position, inputs):
            return None
        return _direction_of(inputs[position], index, builder)

    def zeros(*shape: Any) -> relax.Expr:
        if any(is_symbolic(dim) for dim in shape):
            return filled(shape, 0, dtype, builder)
        return constant(np.zeros(shape, np_dtype(dtype)))

    weight, weight_r, bias = part(1), part(2), part(3)
    assert weight is not None and weight_r is not None
    states: list[relax.Expr | None] = []
    for position in (5, 6) if node.op == "LSTM" else (5,):
        if not node.has_input(position, inputs):
            states.append(zeros(dims[1], hidden_size))
            continue
        state = inputs[position]
        if node.int("layout", 0):  # (B, D, H)
            state = builder.emit(R.permute_dims(state, [1, 0, 2]))
        states.append(_direction_of(state, index, builder))
    hidden = states[0]
    assert hidden is not None
    return _Direction(
        weight,
        weight_r,
        bias if bias is not None else zeros(2 * gates * hidden_size),
        hidden,
        states[1] if node.op == "LSTM" else None,
        (part(7) if node.has_input(7, inputs) else zeros(3 * hidden_size))
        if node.op == "LSTM"
        else None,
    )


def _direction_of(value: relax.Expr, index: int, builder: Builder) -> relax.Expr:
    """`value[index]`."""
    dims = shape_of(value)
    if dims[0] != 1:
        value = builder.emit(R.strided_slice(value, [0], [index], [index + 1]))
    return reshape(value, dims[1:], builder)


def _cell(
    node: Node,
    index: int,
    directions: list[bool],
    hidden_size: int,
    dtype: str,
    lengths: bool,
) -> Cell:
    """The configuration of one direction's kernel."""
    per_direction = len(_ACTIVATIONS[node.op])
    names = node.strings("activations", _ACTIVATIONS[node.op] * len(directions))
    if len(names) != per_direction * len(directions):
        raise node.error(f"activations={names}: {per_direction * len(directions)} expected")
    alphas, betas = node.floats("activation_alpha", []), node.floats("activation_beta", [])
    functions: list[Callable[[Any], Any]] = []
    for position, name in enumerate(names):
        # alpha and beta lists hold values only for activations that take them, in order
        function, alphas, betas = activation_of(node, name, alphas, betas)
        if position // per_direction == index:
            functions.append(function)
    clip = node.float("clip", 0.0)

    def clipped(value: Any) -> Any:
        if not clip:
            return value
        bound = tirx.const(clip, dtype)
        return tirx.max(tirx.min(value, bound), -bound)

    return Cell(
        hidden_size=hidden_size,
        reverse=directions[index],
        dtype=dtype,
        activations=tuple(functions),
        clip=clipped,
        coupled=bool(node.int("input_forget", 0)),
        reset_after=bool(node.int("linear_before_reset", 0)),
        lengths=lengths,
    )


def _run(
    node: Node,
    cell: Cell,
    x: relax.Expr,
    operands: _Direction,
    lengths: relax.Expr | None,
    builder: Builder,
) -> list[relax.Expr]:
    steps, batch, width = shape_of(x)
    gates, hidden = _GATES[node.op], cell.hidden_size
    halves = [
        builder.emit(
            R.strided_slice(operands.bias, [0], [k * gates * hidden], [(k + 1) * gates * hidden])
        )
        for k in (0, 1)
    ]
    rows = reshape(x, [product([steps, batch]), width], builder)
    weight = builder.emit(R.permute_dims(operands.weight))
    projected = builder.emit(R.matmul(rows, weight))
    projected = builder.emit(R.add(projected, halves[0]))
    separate = node.op == "GRU" and cell.reset_after
    if not separate:  # the recurrence's own bias can be added for all steps at once
        projected = builder.emit(R.add(projected, halves[1]))
    projected = reshape(projected, [steps, batch, gates * hidden], builder)

    # kernels have shape variables of their own
    extents = [
        tirx.Var(name, "int64") if is_symbolic(dim) else dim
        for name, dim in (("steps", steps), ("batch", batch))
    ]
    panels, _, panel = cell.packed_shape(gates)
    matrix = reshape(operands.recurrent, [panels, panel, hidden], builder)
    matrix = builder.emit(R.permute_dims(matrix, [0, 2, 1]))
    arguments = [projected, matrix, operands.hidden]
    results = [[steps, batch, hidden], [batch, hidden]]
    if node.op == "LSTM":
        function = lstm_kernel(cell, *extents)
        arguments += [operands.state, operands.peephole]
        results.append([batch, hidden])
    elif node.op == "GRU":
        function = gru_kernel(cell, *extents)
        arguments.append(halves[1])
    else:
        function = rnn_kernel(cell, *extents)
    # an operand that kernels without lengths never read
    arguments.append(constant(np.zeros(1, np.int32)) if lengths is None else lengths)
    types = [relax.TensorType(shape, cell.dtype) for shape in results]
    kernel = builder.add_func(function, node.op.lower())
    call = builder.emit(relax.call_tir(kernel, arguments, types))
    return [builder.emit(relax.TupleGetItem(call, k)) for k in range(len(results))]


def _stack(parts: list[relax.Expr], axis: int, builder: Builder) -> relax.Expr:
    """The parts along a new axis."""
    dims = shape_of(parts[0])
    single = [reshape(part, [*dims[:axis], 1, *dims[axis:]], builder) for part in parts]
    return single[0] if len(single) == 1 else builder.emit(R.concat(single, axis=axis))
