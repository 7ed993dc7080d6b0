"""LSTM, GRU and RNN: one matrix product for the inputs of all steps, then a recurrence kernel.

    projected = X (T*B, I) @ W^T (I, G*H) + biases        # ordinary Relax operators
    Y, Y_h[, Y_c] = call_tir(recurrence, projected, R, ...)   # serial over time

Both directions are one product, of the stacked weights, and one kernel. Gate order is ONNX's:
iofc (LSTM), zrh (GRU).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx

from athanor.frontends.onnx.known import constant, is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.recurrent_activation import Activation, activation_of
from athanor.frontends.onnx.ops.recurrent_cell import Cell, rows_of_tile, worth_splitting
from athanor.frontends.onnx.ops.recurrent_kernel import gru_kernel, lstm_kernel, rnn_kernel
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
    count = len(directions)
    for position, operand in ((1, "W"), (2, "R")):
        if shape_of(inputs[position])[0] != count:
            raise node.error(f"{operand} {shape_of(inputs[position])} for {count} directions")
    steps, batch, _ = shape_of(x)
    cell = _cell(
        node, directions, hidden_size, steps, batch, dtype_of(x), node.has_input(4, inputs)
    )
    results = _run(node, cell, x, inputs, builder)
    if layout:
        results[0] = builder.emit(R.permute_dims(results[0], [2, 0, 1, 3]))
        results[1:] = [builder.emit(R.permute_dims(state, [1, 0, 2])) for state in results[1:]]
    return tuple(results)


def _directions(node: Node) -> list[bool]:
    """For each direction, whether it runs backwards."""
    kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    direction = node.string("direction", "forward")
    if direction not in kinds:
        raise node.error(f"direction={direction!r} is none of {sorted(kinds)}")
    return kinds[direction]


def _state(
    node: Node, inputs: Inputs, position: int, dims: list[Any], builder: Builder
) -> relax.Expr:
    """The initial state (D, B, H); zeros where it is not given."""
    if not node.has_input(position, inputs):
        return _zeros(dims, dtype_of(inputs[0]), builder)
    if node.int("layout", 0):  # (B, D, H)
        return builder.emit(R.permute_dims(inputs[position], [1, 0, 2]))
    return inputs[position]


def _zeros(dims: list[Any], dtype: str, builder: Builder) -> relax.Expr:
    if any(is_symbolic(dim) for dim in dims):
        return filled(dims, 0, dtype, builder)
    return constant(np.zeros(dims, np_dtype(dtype)))


def _cell(
    node: Node,
    directions: list[bool],
    hidden_size: int,
    steps: Any,
    batch: Any,
    dtype: str,
    lengths: bool,
) -> Cell:
    """The configuration of the kernel."""
    per_direction = len(_ACTIVATIONS[node.op])
    names = node.strings("activations", _ACTIVATIONS[node.op] * len(directions))
    if len(names) != per_direction * len(directions):
        raise node.error(f"activations={names}: {per_direction * len(directions)} expected")
    alphas, betas = node.floats("activation_alpha", []), node.floats("activation_beta", [])
    functions: list[Activation] = []
    for name in names:
        # alpha and beta lists hold values only for activations that take them, in order
        function, alphas, betas = activation_of(node, name, alphas, betas)
        functions.append(function)
    clip = node.float("clip", 0.0)

    def clipped(value: Any) -> Any:
        if not clip:
            return value
        bound = tirx.const(clip, dtype)
        return tirx.max(tirx.min(value, bound), -bound)

    # of a number of steps that only the run tells, one is certain
    rows = batch * (1 if is_symbolic(steps) else steps) if isinstance(batch, int) else 0
    split = worth_splitting(rows, _GATES[node.op] * hidden_size**2, np_dtype(dtype).itemsize)
    return Cell(
        hidden_size=hidden_size,
        reverse=tuple(directions),
        dtype=dtype,
        activations=tuple(
            tuple(functions[start : start + per_direction])
            for start in range(0, len(functions), per_direction)
        ),
        clip=clipped,
        coupled=bool(node.int("input_forget", 0)),
        reset_after=bool(node.int("linear_before_reset", 0)),
        lengths=lengths,
        tile_rows=rows_of_tile(batch, len(directions) if split else None),
        split=split,
        # the candidate of a GRU has a product of its own
        gates_together=1 if node.op == "GRU" else _GATES[node.op],
    )


def _run(
    node: Node, cell: Cell, x: relax.Expr, inputs: Inputs, builder: Builder
) -> list[relax.Expr]:
    steps, batch, width = shape_of(x)
    count, gates, hidden = cell.directions, _GATES[node.op], cell.hidden_size
    total = gates * cell.units

    def filled_up(value: relax.Expr, groups: int) -> relax.Expr:
        """(D, groups * H, ...) -> (D, groups * U, ...), zeros behind each group of H."""
        if cell.units == hidden:
            return value
        dims = shape_of(value)
        parts = reshape(value, [count, groups, hidden, *dims[2:]], builder)
        zeros = _zeros([count, groups, cell.units - hidden, *dims[2:]], cell.dtype, builder)
        joined = builder.emit(R.concat([parts, zeros], axis=2))
        return reshape(joined, [count, groups * cell.units, *dims[2:]], builder)

    if node.has_input(3, inputs):
        bias = filled_up(inputs[3], 2 * gates)
    else:
        bias = _zeros([count, 2 * total], cell.dtype, builder)
    halves = [
        builder.emit(R.strided_slice(bias, [1], [k * total], [(k + 1) * total])) for k in (0, 1)
    ]
    rows = reshape(x, [product([steps, batch]), width], builder)
    weight = reshape(filled_up(inputs[1], gates), [count * total, width], builder)
    projected = builder.emit(R.matmul(rows, builder.emit(R.permute_dims(weight))))
    projected = builder.emit(R.add(projected, reshape(halves[0], [count * total], builder)))
    separate = node.op == "GRU" and cell.reset_after
    if not separate:  # the recurrence's own bias can be added for all steps at once
        projected = builder.emit(R.add(projected, reshape(halves[1], [count * total], builder)))
    projected = reshape(projected, [steps, batch, count, total], builder)

    # kernels have shape variables of their own
    extents = [
        tirx.Var(name, "int64") if is_symbolic(dim) else dim
        for name, dim in (("steps", steps), ("batch", batch))
    ]
    _, panels, _, panel = cell.packed_shape(gates)
    matrix = reshape(filled_up(inputs[2], gates), [count, panels, panel, hidden], builder)
    matrix = builder.emit(R.permute_dims(matrix, [0, 1, 3, 2]))
    state = [count, batch, hidden]
    arguments = [projected, matrix, _state(node, inputs, 5, state, builder)]
    results = [[steps, count, batch, hidden], state]
    if node.op == "LSTM":
        function = lstm_kernel(cell, *extents)
        arguments.append(_state(node, inputs, 6, state, builder))
        given = node.has_input(7, inputs)
        none = _zeros([count, 3 * cell.units], cell.dtype, builder)
        arguments.append(filled_up(inputs[7], 3) if given else none)
        results.append(state)
    elif node.op == "GRU":
        function = gru_kernel(cell, *extents)
        arguments.append(halves[1])
    else:
        function = rnn_kernel(cell, *extents)
    # an operand that kernels without lengths never read
    unread = constant(np.zeros(1, np.int32))
    arguments.append(cast(inputs[4], "int32", builder) if cell.lengths else unread)
    types = [relax.TensorType(shape, cell.dtype) for shape in results]
    kernel = builder.add_func(function, node.op.lower())
    call = builder.emit(relax.call_tir(kernel, arguments, types))
    return [builder.emit(relax.TupleGetItem(call, k)) for k in range(len(results))]
