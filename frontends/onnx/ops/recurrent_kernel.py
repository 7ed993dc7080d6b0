"""The time loops of LSTM, GRU and RNN as TensorIR.

For each direction and each chunk of the batch's rows, which run side by side, every step is a
matrix product block `<op>_recurrent_matmul` and elementwise blocks, over `Cell.units` hidden
units; R is packed (`Cell.packed_shape`); the function carries the attribute "athanor.op", by
which a schedule rule can recognise it. Unscheduled it is correct already. With sequence lengths a
finished row keeps its state and writes zeros to Y, and the reverse direction starts at each row's
own last step.
"""

# The buffer types below are values of the enclosing function, which the TVMScript parser looks
# up when a kernel is built; so annotations must not be postponed in this file.

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.ops.recurrent_cell import Cell, position_of, select_of


def lstm_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,4U), R, h0, c0 (D,B,H), P (D,3U), lengths) -> (Y (T,D,B,H), Y_h, Y_c (D,B,H)).

    X holds the projected inputs with all biases; gates i, o, f, c. Peepholes P are i, o, f.
    """
    size, units, panel = cell.hidden_size, cell.units, cell.panel
    dtype, clip = cell.dtype, cell.clip
    count = cell.directions
    f, g, h = (cell.activation(index) for index in range(3))
    position, select = position_of(cell, steps), select_of(cell)
    known = batch if cell.lengths else 1
    rows, within = cell.rows(batch), cell.within(batch)
    chunks = cell.chunks(batch)
    own = rows // chunks
    coupled = cell.coupled

    def forget(i: Any, gate: Any) -> Any:
        return tirx.const(1, dtype) - i if coupled else gate

    @T.prim_func(private=True, s_tir=True)
    def lstm(
        X: T.Buffer((steps, batch, count, 4 * units), dtype),
        R: T.Buffer(cell.packed_shape(4), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        C0: T.Buffer((count, batch, size), dtype),
        P: T.Buffer((count, 3 * units), dtype),
        L: T.Buffer((known,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        HN: T.Buffer((count, batch, size), dtype),
        CN: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "lstm"})
        H = T.sblock_alloc_buffer((count, batch, units), dtype)
        C = T.sblock_alloc_buffer((count, batch, units), dtype)
        G = T.sblock_alloc_buffer((count, rows, 4 * units), dtype)
        D = T.sblock_alloc_buffer((count, batch, units), dtype)
        for d, c in T.grid(count, chunks):
            for b, j in T.grid(own, units):
                with T.sblock("lstm_initial_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    H[vd, vb, vj] = T.if_then_else(vj < size, H0[vd, vb, vj], T.cast(0, dtype))
            for b, j in T.grid(own, units):
                with T.sblock("lstm_initial_cell"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    C[vd, vb, vj] = T.if_then_else(vj < size, C0[vd, vb, vj], T.cast(0, dtype))
            for t in T.serial(steps):
                for b, j, k in T.grid(own, 4 * units, size):
                    with T.sblock("lstm_recurrent_matmul"):
                        vd, vj, vk = T.axis.remap("SSR", [d, j, k])
                        vb = T.axis.spatial(rows, c * own + b)
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj]
                            + H[vd, within(vb), vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(own, units):
                    with T.sblock("lstm_gates"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
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
                                        G[vd, vb, vj + 2 * units]
                                        + X[position(vd, vt, L[vb]), vb, vd, vj + 2 * units]
                                        + P[vd, vj + 2 * units] * C[vd, vb, vj]
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
                                    G[vd, vb, vj + 3 * units]
                                    + X[position(vd, vt, L[vb]), vb, vd, vj + 3 * units]
                                ),
                            ),
                            C[vd, vb, vj],
                        )
                for b, j in T.grid(own, units):
                    with T.sblock("lstm_cell"):
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        C[vd, vb, vj] = D[vd, vb, vj]
                for b, j in T.grid(own, units):
                    with T.sblock("lstm_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            f(
                                vd,
                                clip(
                                    G[vd, vb, vj + units]
                                    + X[position(vd, vt, L[vb]), vb, vd, vj + units]
                                    + P[vd, vj + units] * C[vd, vb, vj]
                                ),
                            )
                            * h(vd, C[vd, vb, vj]),
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(own, size):
                    with T.sblock("lstm_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )
            for b, j in T.grid(own, size):
                with T.sblock("lstm_last_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    HN[vd, vb, vj] = H[vd, vb, vj]
            for b, j in T.grid(own, size):
                with T.sblock("lstm_last_cell"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    CN[vd, vb, vj] = C[vd, vb, vj]

    return lstm


def gru_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,3U), R, h0 (D,B,H), Rb (D,3U), lengths) -> (Y (T,D,B,H), Y_h (D,B,H)).

    X holds the projected inputs with the input biases, and with the recurrence's biases Rb too
    unless `reset_after`; gates z, r, h.
    """
    size, units, panel = cell.hidden_size, cell.units, cell.panel
    dtype, clip = cell.dtype, cell.clip
    count = cell.directions
    f, g = (cell.activation(index) for index in range(2))
    position, select = position_of(cell, steps), select_of(cell)
    known = batch if cell.lengths else 1
    rows, within = cell.rows(batch), cell.within(batch)
    chunks = cell.chunks(batch)
    own = rows // chunks
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
        X: T.Buffer((steps, batch, count, 3 * units), dtype),
        R: T.Buffer(cell.packed_shape(3), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        Rb: T.Buffer((count, 3 * units), dtype),
        L: T.Buffer((known,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        HN: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "gru"})
        H = T.sblock_alloc_buffer((count, batch, units), dtype)
        G = T.sblock_alloc_buffer((count, rows, 2 * units), dtype)
        Z = T.sblock_alloc_buffer((count, batch, 2 * units), dtype)
        M = T.sblock_alloc_buffer((count, batch, units), dtype)
        Q = T.sblock_alloc_buffer((count, rows, units), dtype)
        for d, c in T.grid(count, chunks):
            for b, j in T.grid(own, units):
                with T.sblock("gru_initial_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    H[vd, vb, vj] = T.if_then_else(vj < size, H0[vd, vb, vj], T.cast(0, dtype))
            for t in T.serial(steps):
                for b, j, k in T.grid(own, 2 * units, size):
                    with T.sblock("gru_recurrent_matmul"):
                        vd, vj, vk = T.axis.remap("SSR", [d, j, k])
                        vb = T.axis.spatial(rows, c * own + b)
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj]
                            + H[vd, within(vb), vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(own, 2 * units):
                    with T.sblock("gru_gates"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        Z[vd, vb, vj] = f(
                            vd,
                            clip(
                                G[vd, vb, vj]
                                + X[position(vd, vt, L[vb]), vb, vd, vj]
                                + bias(Rb[vd, vj])
                            ),
                        )
                for b, j in T.grid(own, units):
                    with T.sblock("gru_operand"):
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        M[vd, vb, vj] = operand(H[vd, vb, vj], Z[vd, vb, vj + units])
                for b, j, k in T.grid(own, units, size):
                    with T.sblock("gru_candidate_matmul"):
                        vd, vj, vk = T.axis.remap("SSR", [d, j, k])
                        vb = T.axis.spatial(rows, c * own + b)
                        with T.init():
                            Q[vd, vb, vj] = T.cast(0, dtype)
                        Q[vd, vb, vj] = (
                            Q[vd, vb, vj]
                            + M[vd, within(vb), vk]
                            * R[vd, (vj + 2 * units) // panel, vk, vj % panel]
                        )
                for b, j in T.grid(own, units):
                    with T.sblock("gru_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            (one - Z[vd, vb, vj])
                            * g(
                                vd,
                                clip(
                                    X[position(vd, vt, L[vb]), vb, vd, vj + 2 * units]
                                    + candidate(
                                        Q[vd, vb, vj], Rb[vd, vj + 2 * units], Z[vd, vb, vj + units]
                                    )
                                ),
                            )
                            + Z[vd, vb, vj] * H[vd, vb, vj],
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(own, size):
                    with T.sblock("gru_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )
            for b, j in T.grid(own, size):
                with T.sblock("gru_last_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    HN[vd, vb, vj] = H[vd, vb, vj]

    return gru


def rnn_kernel(cell: Cell, steps: Any, batch: Any) -> tirx.PrimFunc:
    """(X (T,B,D,U), R, h0 (D,B,H), lengths) -> (Y (T,D,B,H), Y_h (D,B,H)); X with all biases."""
    size, units, panel = cell.hidden_size, cell.units, cell.panel
    dtype, clip = cell.dtype, cell.clip
    count, f = cell.directions, cell.activation(0)
    position, select = position_of(cell, steps), select_of(cell)
    known = batch if cell.lengths else 1
    rows, within = cell.rows(batch), cell.within(batch)
    chunks = cell.chunks(batch)
    own = rows // chunks

    @T.prim_func(private=True, s_tir=True)
    def rnn(
        X: T.Buffer((steps, batch, count, units), dtype),
        R: T.Buffer(cell.packed_shape(1), dtype),
        H0: T.Buffer((count, batch, size), dtype),
        L: T.Buffer((known,), "int32"),
        Y: T.Buffer((steps, count, batch, size), dtype),
        HN: T.Buffer((count, batch, size), dtype),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "athanor.op": "rnn"})
        H = T.sblock_alloc_buffer((count, batch, units), dtype)
        G = T.sblock_alloc_buffer((count, rows, units), dtype)
        for d, c in T.grid(count, chunks):
            for b, j in T.grid(own, units):
                with T.sblock("rnn_initial_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    H[vd, vb, vj] = T.if_then_else(vj < size, H0[vd, vb, vj], T.cast(0, dtype))
            for t in T.serial(steps):
                for b, j, k in T.grid(own, units, size):
                    with T.sblock("rnn_recurrent_matmul"):
                        vd, vj, vk = T.axis.remap("SSR", [d, j, k])
                        vb = T.axis.spatial(rows, c * own + b)
                        with T.init():
                            G[vd, vb, vj] = T.cast(0, dtype)
                        G[vd, vb, vj] = (
                            G[vd, vb, vj]
                            + H[vd, within(vb), vk] * R[vd, vj // panel, vk, vj % panel]
                        )
                for b, j in T.grid(own, units):
                    with T.sblock("rnn_hidden"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        H[vd, vb, vj] = select(
                            vt,
                            L[vb],
                            f(vd, clip(G[vd, vb, vj] + X[position(vd, vt, L[vb]), vb, vd, vj])),
                            H[vd, vb, vj],
                        )
                for b, j in T.grid(own, size):
                    with T.sblock("rnn_output"):
                        vt = T.axis.opaque(steps, t)
                        vd, vj = T.axis.remap("SS", [d, j])
                        vb = T.axis.spatial(batch, c * own + b)
                        T.where(c * own + b < batch)
                        Y[position(vd, vt, L[vb]), vd, vb, vj] = select(
                            vt, L[vb], H[vd, vb, vj], T.cast(0, dtype)
                        )
            for b, j in T.grid(own, size):
                with T.sblock("rnn_last_hidden"):
                    vd, vj = T.axis.remap("SS", [d, j])
                    vb = T.axis.spatial(batch, c * own + b)
                    T.where(c * own + b < batch)
                    HN[vd, vb, vj] = H[vd, vb, vj]

    return rnn
