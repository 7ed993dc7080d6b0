import numpy as np
import pytest
from tvm import tirx, topi

from athanor.frontends.onnx.ops.recurrent_kernel import Cell, gru_kernel, lstm_kernel
from athanor.schedules.rules.cpu_recurrent import CPURecurrent

from .scheduled import NATIVE, check, loops, placeholder, prim_func, random


def cell(hidden, *activations, reverse=(False,)):
    """`activations` of each direction in turn."""
    count = len(activations) // len(reverse)
    each = tuple(activations[i : i + count] for i in range(0, len(activations), count))
    return Cell(hidden, reverse, "float32", each, lambda v: v, False, False, False)


def pack(r):
    """(D, G*H, H) -> panels as the kernels read them."""
    count, _, hidden = r.shape
    return r.reshape(count, -1, np.gcd(hidden, 128), hidden).transpose(0, 1, 3, 2).copy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_lstm(x, r, h, c, squash=np.tanh):
    """One direction: x (T, B, 4H), r (4H, H) -> all h, last h, last c."""
    outputs = []
    for step in x:
        i, o, f, g = np.split(step + h @ r.T, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * squash(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), h, c


def check_lstm(kernel, x, r, h0, c0, wanted):
    count, hidden = r.shape[0], r.shape[2]
    zeros = np.zeros((count, 3 * hidden), "float32")
    arrays = [x, pack(r), h0, c0, zeros, np.zeros(1, "int32")]
    return check(kernel, "CPURecurrent", arrays, wanted, tolerance=1e-4)


@pytest.mark.parametrize(
    "steps, batch, hidden", [(4, 1, 16), (3, 2, 64), (1, 3, 96), (2, 6, 128), (2, 5, 256)]
)
def test_lstm(steps, batch, hidden):
    func = lstm_kernel(cell(hidden, tirx.sigmoid, tirx.tanh, tirx.tanh), steps, batch)
    x, r = random(steps, batch, 1, 4 * hidden), random(1, 4 * hidden, hidden) / 8
    h0, c0 = random(1, batch, hidden), random(1, batch, hidden) * 2
    y, h, c = run_lstm(x[:, :, 0], r[0], h0[0], c0[0])
    check_lstm(func, x, r, h0, c0, [y[:, None], h[None], c[None]])


@pytest.mark.parametrize("same", [True, False])
def test_directions_run_side_by_side(same):
    steps, batch, hidden = 3, 2, 32
    squash = tirx.tanh if same else lambda v: tirx.max(v, tirx.const(0, "float32"))
    functions = (tirx.sigmoid, tirx.tanh, tirx.tanh, tirx.sigmoid, squash, tirx.tanh)
    func = lstm_kernel(cell(hidden, *functions, reverse=(False, True)), steps, batch)
    x, r = random(steps, batch, 2, 4 * hidden), random(2, 4 * hidden, hidden) / 8
    h0, c0 = random(2, batch, hidden), random(2, batch, hidden) * 2
    there = run_lstm(x[:, :, 0], r[0], h0[0], c0[0])
    other = np.tanh if same else lambda v: np.maximum(v, 0)
    back = run_lstm(x[::-1, :, 1], r[1], h0[1], c0[1], other)
    y = np.stack([there[0], back[0][::-1]], axis=1)
    states = [np.stack(pair) for pair in zip(there[1:], back[1:], strict=True)]
    mod = check_lstm(func, x, r, h0, c0, [y, *states])
    assert loops(mod, "parallel") == 1


def test_gru():
    steps, batch, hidden = 3, 2, 32
    func = gru_kernel(cell(hidden, tirx.sigmoid, tirx.tanh), steps, batch)
    x, r = random(steps, batch, 1, 3 * hidden), random(1, 3 * hidden, hidden) / 6
    h0 = random(1, batch, hidden)
    h, outputs = h0[0], []
    for step in x[:, :, 0]:
        gates = sigmoid(step[:, : 2 * hidden] + h @ r[0, : 2 * hidden].T)
        z, reset = np.split(gates, 2, axis=1)
        candidate = np.tanh(step[:, 2 * hidden :] + (reset * h) @ r[0, 2 * hidden :].T)
        h = (1 - z) * candidate + z * h
        outputs.append(h[None])
    arrays = [x, pack(r), h0, np.zeros((1, 3 * hidden), "float32"), np.zeros(1, "int32")]
    check(func, "CPURecurrent", arrays, [np.stack(outputs), h[None]], tolerance=1e-4)


def test_declines_other_functions_and_odd_hidden_sizes():
    x = placeholder("x", 4, 8)
    assert CPURecurrent().apply(prim_func([x], [topi.nn.relu(x)]), NATIVE) is None
    odd = lstm_kernel(cell(5, tirx.sigmoid, tirx.tanh, tirx.tanh), 2, 1)
    assert CPURecurrent().apply(odd, NATIVE) is None
