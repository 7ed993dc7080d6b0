"""The time loops of LSTM, GRU and RNN as TensorIR.

For each direction, every step is a matrix product block `<op>_recurrent_matmul` and elementwise
blocks; R is packed (`Cell.packed_shape`); the function carries the attribute "athanor.op", by
which a schedule rule can recognise it. Unscheduled it is correct already. With sequence lengths a
finished row keeps its state and writes zeros to Y, and the reverse direction starts at each row's
own last step.
"""

# The buffer types below are values of the enclosing function, which the TVMScript parser looks
# up when a kernel is built; so annotations must not be postponed in this file.

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T


@dataclass(frozen=True)
class Cell:
    """What distinguishes one recurrence kernel from another.

    `reverse` has one entry for each direction, and so has `activations`, in ONNX's order (f, g, h);
    `clip` bounds the input of activations; `coupled` makes the LSTM's forget gate 1 - input gate;
    `reset_after` is GRU's linear_before_reset.
    """

    hidden_size: int
    reverse: tuple[bool, ...]
    dtype: str
    activations: tuple[tuple[Callable[[Any], Any], ...], ...]
    clip: Callable[[Any], Any]
    coupled: bool
    reset_after: bool
    lengths: bool

    @property
    def directions(self) -> int:
        """How many run side by side."""
        return len(self.reverse)

    def activation(self, index: int) -> Callable[[Any, Any], Any]:
        """(direction, x) -> the activation f, g or h of x."""
        functions = [activations[index] for activations in self.activations]

        def apply(direction: Any, x: Any) -> Any:
            value = functions[-1](x)
            for place, function in enumerate(functions[:-1]):
                if function != functions[-1]:
                    value = tirx.Select(direction == place, function(x), value)
            return value

        return apply

    @property
    def panel(self) -> int:
        """Gates that lie together in the packed matrix: the most of a power of two, up to 128."""
        return math.gcd(self.hidden_size, 128)

    def packed_shape(self, gates: int) -> tuple[int, int, int, int]:
        """(D, G*H / panel, H, panel): the recurrence matrix R (D, G*H, H) as the kernels take it.

        A step multiplies h with whole rows of gates, so that sums are lanes of vectors.
        """
        size = self.hidden_size
        return (self.directions, gates * size // self.panel, size, self.panel)


def _position(cell: Cell, steps: Any) -> Callable[[Any, Any, Any], Any]:
    """Which time step a row reads and writes at loop step t, given direction and length."""

    def position(direction: Any, t: Any, length: Any) -> Any:
        if not any(cell.reverse):
            return t
        # after its last step a row idles on the positions past its end, each once
        back = tirx.Select(t < length, length - 1 - t, t) if cell.lengths else steps - 1 - t
        if all(cell.reverse):
            return back
        return tirx.Select(direction == cell.reverse.index(True), back, t)

    return position


def _select(cell: Cell) -> Callable[[Any, Any, Any, Any], Any]:
    """`new` while t < length, `old` after."""

    def select(t: Any, length: Any, new: Any, old: Any) -> Any:
        return tirx.Select(t < length, new, old) if cell.lengths else new

    return select


def lstm_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,4H), R, h0, c0 (D,B,H), P (D,3H), lengths) -> (Y (T,D,B,H), Y_h, Y_c (D,B,H)).

    X holds the projected inputs with all biases; gates i, o, f, c. Peepholes P are i, o, f.
    """
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    count = cell.directions
    f, g, h = (cell.activation(index) for index in range(3))
    position, select = _position(cell, steps), _select(cell)
    rows = batch if cell.lengths else 1
    coupled = cell.coupled

    def forget(i: Any, gate: Any) -> Any:
        return tirx.const(1, dtype) - i if coupled else gate

    @T.prim_func(private=True, s_tir=True)
    def lstm(
        X: T.Buffer((steps, batch, count, 4 * size), dtype),
        R: T.Buffer(cell.packed_shape(4), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        C0: T.Buffer((count, batch, size), dtype),
        P: T.Buffer((count, 3 * size), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        H: T.Buffer((count, batch, size), dtype),
        C: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "lstm"})
        G = T.sblock_alloc_buffer((count, batch, 4 * size), dtype)
        D = T.sblock_alloc_buffer((count, batch, size), dtype)
        for d in range(count):
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_initial_hidden"):
                    vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                    H[vd, vb, vj] = H0[vd, vb, vj]
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_initial_cell"):
                    vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                    C[vd, vb, vj] = C0[vd, vb, vj]
            for t in T.serial(steps):
                for b, j, k in T.grid(batch, 4 * size, size):
                    with T.sblock("lstm_recurrent_matmul"):
                        vd, vb, vj, vk = T.axis.remap("SSSR", [d, b, j, k])
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj] + H[vd, vb, vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("lstm_gates"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        D[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            forget(
                                f(
                                    vd,
                                    clip(
                                        G[vd, vb, vj]
                                        + X[position(vd, vt, L[vb]), vb, vd, vj]
                                        + P[vd, vj] * C[vd, vb, vj]
                                    ),
                                ),
                                f(
                                    vd,
                                    clip(
                                        G[vd, vb, vj + 2 * size]
                                        + X[position(vd, vt, L[vb]), vb, vd, vj + 2 * size]
                                        + P[vd, vj + 2 * size] * C[vd, vb, vj]
                                    ),
                                ),
                            )
                            * C[vd, vb, vj]
                            + f(
                                vd,
                                clip(
                                    G[vd, vb, vj]
                                    + X[position(vd, vt, L[vb]), vb, vd, vj]
                                    + P[vd, vj] * C[vd, vb, vj]
                                ),
                            )
                            * g(
                                vd,
                                clip(
                                    G[vd, vb, vj + 3 * size]
                                    + X[position(vd, vt, L[vb]), vb, vd, vj + 3 * size]
                                ),
                            ),
                            C[vd, vb, vj],
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("lstm_cell"):
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        C[vd, vb, vj] = D[vd, vb, vj]
                for b, j in T.grid(batch, size):
                    with T.sblock("lstm_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            f(
                                vd,
                                clip(
                                    G[vd, vb, vj + size]
                                    + X[position(vd, vt, L[vb]), vb, vd, vj + size]
                                    + P[vd, vj + size] * C[vd, vb, vj]
                                ),
                            )
                            * h(vd, C[vd, vb, vj]),
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("lstm_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )

    return lstm


def gru_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,3H), R, h0 (D,B,H), Rb (D,3H), lengths) -> (Y (T,D,B,H), Y_h (D,B,H)).

    X holds the projected inputs with the input biases, and with the recurrence's biases Rb too
    unless `reset_after`; gates z, r, h.
    """
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    count = cell.directions
    f, g = (cell.activation(index) for index in range(2))
    position, select = _position(cell, steps), _select(cell)
    rows = batch if cell.lengths else 1
    after = cell.reset_after
    zero, one = tirx.const(0, dtype), tirx.const(1, dtype)

    def bias(value: Any) -> Any:
        return value if after else zero

    def operand(hidden: Any, reset: Any) -> Any:
        return hidden if after else hidden * reset

    def candidate(product: Any, own_bias: Any, reset: Any) -> Any:
        return (product + own_bias) * reset if after else product

    @T.prim_func(private=True, s_tir=True)
    def gru(
        X: T.Buffer((steps, batch, count, 3 * size), dtype),
        R: T.Buffer(cell.packed_shape(3), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        Rb: T.Buffer((count, 3 * size), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        H: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "gru"})
        G = T.sblock_alloc_buffer((count, batch, 2 * size), dtype)
        Z = T.sblock_alloc_buffer((count, batch, 2 * size), dtype)
        M = T.sblock_alloc_buffer((count, batch, size), dtype)
        Q = T.sblock_alloc_buffer((count, batch, size), dtype)
        for d in range(count):
            for b, j in T.grid(batch, size):
                with T.sblock("gru_initial_hidden"):
                    vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                    H[vd, vb, vj] = H0[vd, vb, vj]
            for t in T.serial(steps):
                for b, j, k in T.grid(batch, 2 * size, size):
                    with T.sblock("gru_recurrent_matmul"):
                        vd, vb, vj, vk = T.axis.remap("SSSR", [d, b, j, k])
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj] + H[vd, vb, vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(batch, 2 * size):
                    with T.sblock("gru_gates"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        Z[vd, vb, vj] = f(
                            vd,
                            clip(
                                G[vd, vb, vj]
                                + X[position(vd, vt, L[vb]), vb, vd, vj]
                                + bias(Rb[vd, vj])
                            ),
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("gru_operand"):
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        M[vd, vb, vj] = operand(H[vd, vb, vj], Z[vd, vb, vj + size])
                for b, j, k in T.grid(batch, size, size):
                    with T.sblock("gru_candidate_matmul"):
                        vd, vb, vj, vk = T.axis.remap("SSSR", [d, b, j, k])
                        with T.init():
                            Q[vd, vb, vj] = T.cast(0, dtype)
                        Q[vd, vb, vj] = (
                            Q[vd, vb, vj]
                            + M[vd, vb, vk] * R[vd, (vj + 2 * size) // panel, vk, vj % panel]
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("gru_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            (one - Z[vd, vb, vj])
                            * g(
                                vd,
                                clip(
                                    X[position(vd, vt, L[vb]), vb, vd, vj + 2 * size]
                                    + candidate(
                                        Q[vd, vb, vj], Rb[vd, vj + 2 * size], Z[vd, vb, vj + size]
                                    )
                                ),
                            )
                            + Z[vd, vb, vj] * H[vd, vb, vj],
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("gru_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )

    return gru


def rnn_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,H), R, h0 (D,B,H), lengths) -> (Y (T,D,B,H), Y_h (D,B,H)); X with all biases."""
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    count, f = cell.directions, cell.activation(0)
    position, select = _position(cell, steps), _select(cell)
    rows = batch if cell.lengths else 1

    @T.prim_func(private=True, s_tir=True)
    def rnn(
        X: T.Buffer((steps, batch, count, size), dtype),
        R: T.Buffer(cell.packed_shape(1), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        H: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "rnn"})
        G = T.sblock_alloc_buffer((count, batch, size), dtype)
        for d in range(count):
            for b, j in T.grid(batch, size):
                with T.sblock("rnn_initial_hidden"):
                    vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                    H[vd, vb, vj] = H0[vd, vb, vj]
            for t in T.serial(steps):
                for b, j, k in T.grid(batch, size, size):
                    with T.sblock("rnn_recurrent_matmul"):
                        vd, vb, vj, vk = T.axis.remap("SSSR", [d, b, j, k])
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj] + H[vd, vb, vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("rnn_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            f(vd, clip(G[vd, vb, vj] + X[position(vd, vt, L[vb]), vb, vd, vj])),
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(batch, size):
                    with T.sblock("rnn_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vb, vj = T.axis.remap("SSS", [d, b, j])
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )

    return rnn
