"""The time loops of LSTM, GRU and RNN as TensorIR.

Every step is a matrix product block `<op>_recurrent_matmul` and elementwise blocks; the function
carries the attribute "athanor.op", by which a schedule rule can recognise it. Unscheduled it is
correct already. With sequence lengths a finished row keeps its state and writes zeros to Y, and
the reverse direction starts at each row's own last step.
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

    `activations` in ONNX's order (f, g, h); `clip` bounds the input of activations; `coupled`
    makes the LSTM's forget gate 1 - input gate; `reset_after` is GRU's linear_before_reset.
    """

    hidden_size: int
    reverse: bool
    dtype: str
    activations: tuple[Callable[[Any], Any], ...]
    clip: Callable[[Any], Any]
    coupled: bool
    reset_after: bool
    lengths: bool

    @property
    def panel(self) -> int:
        """Gates that lie together in the packed matrix: the most of a power of two, up to 128."""
        return math.gcd(self.hidden_size, 128)

    def packed_shape(self, gates: int) -> tuple[int, int, int]:
        """(G*H / panel, H, panel): the recurrence matrix R (G*H, H) as the kernels take it.

        A step multiplies h with whole rows of gates, so that sums are lanes of vectors.
        """
        size = self.hidden_size
        return (gates * size // self.panel, size, self.panel)


def _position(cell: Cell, steps: Any) -> Callable[[Any, Any], Any]:
    """Which time step a row reads and writes at loop step t, given the row's length."""

    def position(t: Any, length: Any) -> Any:
        if not cell.reverse:
            return t
        if not cell.lengths:
            return steps - 1 - t
        # after its last step a row idles on the positions past its end, each once
        return tirx.Select(t < length, length - 1 - t, t)

    return position


def _select(cell: Cell) -> Callable[[Any, Any, Any, Any], Any]:
    """`new` while t < length, `old` after."""

    def select(t: Any, length: Any, new: Any, old: Any) -> Any:
        return tirx.Select(t < length, new, old) if cell.lengths else new

    return select


def lstm_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,4H), R packed, h0, c0 (B,H), P (3H,), lengths) -> (Y (T,B,H), Y_h, Y_c (B,H)).

    X holds the projected inputs with all biases; gates i, o, f, c. Peepholes P are i, o, f.
    """
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    f, g, h = cell.activations
    position, select = _position(cell, steps), _select(cell)
    rows = batch if cell.lengths else 1
    coupled = cell.coupled

    def forget(i: Any, gate: Any) -> Any:
        return tirx.const(1, dtype) - i if coupled else gate

    @T.prim_func(private=True, s_tir=True)
    def lstm(
        X: T.Buffer((steps, batch, 4 * size), dtype),
        R: T.Buffer(cell.packed_shape(4), dtype),
        H0: T.Buffer((batch, size), dtype),
        C0: T.Buffer((batch, size), dtype),
        P: T.Buffer((3 * size,), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, batch, size), dtype),
        H: T.Buffer((batch, size), dtype),
        C: T.Buffer((batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "lstm"})
        G = T.sblock_alloc_buffer((batch, 4 * size), dtype)
        D = T.sblock_alloc_buffer((batch, size), dtype)
        for b, j in T.grid(batch, size):
            with T.sblock("lstm_initial_hidden"):
                vb, vj = T.axis.remap("SS", [b, j])
                H[vb, vj] = H0[vb, vj]
        for b, j in T.grid(batch, size):
            with T.sblock("lstm_initial_cell"):
                vb, vj = T.axis.remap("SS", [b, j])
                C[vb, vj] = C0[vb, vj]
        for t in T.serial(steps):
            for b, j, k in T.grid(batch, 4 * size, size):
                with T.sblock("lstm_recurrent_matmul"):
                    vb, vj, vk = T.axis.remap("SSR", [b, j, k])
                    with T.init():
                        G[vb, vj] = T.cast(0, dtype)
                    G[vb, vj] = G[vb, vj] + H[vb, vk] * R[vj // panel, vk, vj % panel]
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_gates"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    D[vb, vj] = select(
                        vt,
                        L[vb],
                        forget(
                            f(clip(G[vb, vj] + X[position(vt, L[vb]), vb, vj] + P[vj] * C[vb, vj])),
                            f(
                                clip(
                                    G[vb, vj + 2 * size]
                                    + X[position(vt, L[vb]), vb, vj + 2 * size]
                                    + P[vj + 2 * size] * C[vb, vj]
                                )
                            ),
                        )
                        * C[vb, vj]
                        + f(clip(G[vb, vj] + X[position(vt, L[vb]), vb, vj] + P[vj] * C[vb, vj]))
                        * g(clip(G[vb, vj + 3 * size] + X[position(vt, L[vb]), vb, vj + 3 * size])),
                        C[vb, vj],
                    )
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_cell"):
                    vb, vj = T.axis.remap("SS", [b, j])
                    C[vb, vj] = D[vb, vj]
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_hidden"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    H[vb, vj] = select(
                        vt,
                        L[vb],
                        f(
                            clip(
                                G[vb, vj + size]
                                + X[position(vt, L[vb]), vb, vj + size]
                                + P[vj + size] * C[vb, vj]
                            )
                        )
                        * h(C[vb, vj]),
                        H[vb, vj],
                    )
            for b, j in T.grid(batch, size):
                with T.sblock("lstm_output"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    Y[position(vt, L[vb]), vb, vj] = select(vt, L[vb], H[vb, vj], T.cast(0, dtype))

    return lstm


def gru_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,3H), R packed, h0 (B,H), Rb (3H,), lengths) -> (Y (T,B,H), Y_h (B,H)).

    X holds the projected inputs with the input biases, and with the recurrence's biases Rb too
    unless `reset_after`; gates z, r, h.
    """
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    f, g = cell.activations
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
        X: T.Buffer((steps, batch, 3 * size), dtype),
        R: T.Buffer(cell.packed_shape(3), dtype),
        H0: T.Buffer((batch, size), dtype),
        Rb: T.Buffer((3 * size,), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, batch, size), dtype),
        H: T.Buffer((batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "gru"})
        G = T.sblock_alloc_buffer((batch, 2 * size), dtype)
        Z = T.sblock_alloc_buffer((batch, 2 * size), dtype)
        M = T.sblock_alloc_buffer((batch, size), dtype)
        Q = T.sblock_alloc_buffer((batch, size), dtype)
        for b, j in T.grid(batch, size):
            with T.sblock("gru_initial_hidden"):
                vb, vj = T.axis.remap("SS", [b, j])
                H[vb, vj] = H0[vb, vj]
        for t in T.serial(steps):
            for b, j, k in T.grid(batch, 2 * size, size):
                with T.sblock("gru_recurrent_matmul"):
                    vb, vj, vk = T.axis.remap("SSR", [b, j, k])
                    with T.init():
                        G[vb, vj] = T.cast(0, dtype)
                    G[vb, vj] = G[vb, vj] + H[vb, vk] * R[vj // panel, vk, vj % panel]
            for b, j in T.grid(batch, 2 * size):
                with T.sblock("gru_gates"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    Z[vb, vj] = f(clip(G[vb, vj] + X[position(vt, L[vb]), vb, vj] + bias(Rb[vj])))
            for b, j in T.grid(batch, size):
                with T.sblock("gru_operand"):
                    vb, vj = T.axis.remap("SS", [b, j])
                    M[vb, vj] = operand(H[vb, vj], Z[vb, vj + size])
            for b, j, k in T.grid(batch, size, size):
                with T.sblock("gru_candidate_matmul"):
                    vb, vj, vk = T.axis.remap("SSR", [b, j, k])
                    with T.init():
                        Q[vb, vj] = T.cast(0, dtype)
                    Q[vb, vj] = Q[vb, vj] + M[vb, vk] * R[(vj + 2 * size) // panel, vk, vj % panel]
            for b, j in T.grid(batch, size):
                with T.sblock("gru_hidden"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    H[vb, vj] = select(
                        vt,
                        L[vb],
                        (one - Z[vb, vj])
                        * g(
                            clip(
                                X[position(vt, L[vb]), vb, vj + 2 * size]
                                + candidate(Q[vb, vj], Rb[vj + 2 * size], Z[vb, vj + size])
                            )
                        )
                        + Z[vb, vj] * H[vb, vj],
                        H[vb, vj],
                    )
            for b, j in T.grid(batch, size):
                with T.sblock("gru_output"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    Y[position(vt, L[vb]), vb, vj] = select(vt, L[vb], H[vb, vj], T.cast(0, dtype))

    return gru


def rnn_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,H), R packed, h0 (B,H), lengths) -> (Y (T,B,H), Y_h (B,H)); X with all biases."""
    size, panel, dtype, clip = cell.hidden_size, cell.panel, cell.dtype, cell.clip
    (f,) = cell.activations
    position, select = _position(cell, steps), _select(cell)
    rows = batch if cell.lengths else 1

    @T.prim_func(private=True, s_tir=True)
    def rnn(
        X: T.Buffer((steps, batch, size), dtype),
        R: T.Buffer(cell.packed_shape(1), dtype),
        H0: T.Buffer((batch, size), dtype),
        L: T.Buffer((rows,), "int32"),
        Y: T.Buffer((steps, batch, size), dtype),
        H: T.Buffer((batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "rnn"})
        G = T.sblock_alloc_buffer((batch, size), dtype)
        for b, j in T.grid(batch, size):
            with T.sblock("rnn_initial_hidden"):
                vb, vj = T.axis.remap("SS", [b, j])
                H[vb, vj] = H0[vb, vj]
        for t in T.serial(steps):
            for b, j, k in T.grid(batch, size, size):
                with T.sblock("rnn_recurrent_matmul"):
                    vb, vj, vk = T.axis.remap("SSR", [b, j, k])
                    with T.init():
                        G[vb, vj] = T.cast(0, dtype)
                    G[vb, vj] = G[vb, vj] + H[vb, vk] * R[vj // panel, vk, vj % panel]
            for b, j in T.grid(batch, size):
                with T.sblock("rnn_hidden"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    H[vb, vj] = select(
                        vt,
                        L[vb],
                        f(clip(G[vb, vj] + X[position(vt, L[vb]), vb, vj])),
                        H[vb, vj],
                    )
            for b, j in T.grid(batch, size):
                with T.sblock("rnn_output"):
                    vt = T.axis.opaque(steps, t)
                    vb, vj = T.axis.remap("SS", [b, j])
                    Y[position(vt, L[vb]), vb, vj] = select(vt, L[vb], H[vb, vj], T.cast(0, dtype))

    return rnn
