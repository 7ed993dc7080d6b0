import numpy as np
import pytest
from tvm import tirx, topi

from athanor.frontends.onnx.ops.recurrent_kernel import Cell, gru_kernel, lstm_kernel
from athanor.schedules.rules.cpu_recurrent import CPURecurrent

from .scheduled import NATIVE, check, placeholder, prim_func, random


def cell(hidden, activations):
    return Cell(hidden, False, "float32", activations, lambda v: v, False, False, False)


def pack(r):
    """(G*H, H) -> panels as the kernels read them."""
    panel = np.gcd(r.shape[1], 128)
    return r.reshape(-1, panel, r.shape[1]).transpose(0, 2, 1).copy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "steps, batch, hidden", [(4, 1, 16), (3, 2, 64), (1, 3, 96), (2, 6, 128), (2, 5, 256)]
)
def test_lstm(steps, batch, hidden):
    func = lstm_kernel(cell(hidden, (tirx.sigmoid, tirx.tanh, tirx.tanh)), steps, batch)
    x, r = random(steps, batch, 4 * hidden), random(4 * hidden, hidden) / 8
    h0, c0 = random(batch, hidden), random(batch, hidden) * 2
    h, c, outputs = h0, c0, []
    for step in x:
        i, o, f, g = np.split(step + h @ r.T, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    arrays = [x, pack(r), h0, c0, np.zeros(3 * hidden, "float32"), np.zeros(1, "int32")]
    check(func, "CPURecurrent", arrays, [np.stack(outputs), h, c], tolerance=1e-4)


def test_gru():
    steps, batch, hidden = 3, 2, 32
    func = gru_kernel(cell(hidden, (tirx.sigmoid, tirx.tanh)), steps, batch)
    x, r, h0 = random(steps, batch, 3 * hidden), random(3 * hidden, hidden) / 6, random(batch, 32)
    h, outputs = h0, []
    for step in x:
        gates = sigmoid(step[:, : 2 * hidden] + h @ r[: 2 * hidden].T)
        z, reset = np.split(gates, 2, axis=1)
        candidate = np.tanh(step[:, 2 * hidden :] + (reset * h) @ r[2 * hidden :].T)
        h = (1 - z) * candidate + z * h
        outputs.append(h)
    arrays = [x, pack(r), h0, np.zeros(3 * hidden, "float32"), np.zeros(1, "int32")]
    check(func, "CPURecurrent", arrays, [np.stack(outputs), h], tolerance=1e-4)


def test_declines_other_functions_and_odd_hidden_sizes():
    x = placeholder("x", 4, 8)
    assert CPURecurrent().apply(prim_func([x], [topi.nn.relu(x)]), NATIVE) is None
    odd = lstm_kernel(cell(5, (tirx.sigmoid, tirx.tanh, tirx.tanh)), 2, 1)
    assert CPURecurrent().apply(odd, NATIVE) is None
