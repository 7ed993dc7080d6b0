import numpy as np
import pytest
from tvm import tirx, topi

from athanor.frontends.onnx.ops.recurrent_cell import Cell, rows_of_tile, worth_splitting
from athanor.frontends.onnx.ops.recurrent_kernel import gru_kernel, lstm_kernel
from athanor.schedules.rules.cpu_recurrent import CPURecurrent

from .scheduled import NATIVE, check, loops, placeholder, prim_func, random


def cell(hidden, *activations, reverse=(False,), batch=1, together=4, split=False):
    """`activations` of each direction in turn."""
    count = max(len(activations) // len(reverse), 1)
    each = tuple(activations[i : i + count] for i in range(0, len(activations), count))
    rows = rows_of_tile(batch, len(reverse) if split else None)
    more = {"tile_rows": rows, "gates_together": together, "split": split}
    return Cell(hidden, reverse, "float32", each, lambda v: v, False, False, False, **more)


def fill_up(a, gates, units):
    """The axis of G*H filled up to G*U, zeros behind each gate's H."""
    hidden = a.shape[-1] // gates
    parts = a.reshape(*a.shape[:-1], gates, hidden)
    widths = [(0, 0)] * (parts.ndim - 1) + [(0, units - hidden)]
    return np.pad(parts, widths).reshape(*a.shape[:-1], gates * units)


def pack(kind, r):
    """(D, G*H, H) -> panels as the kernels read them."""
    count, total, hidden = r.shape
    filled = fill_up(r.transpose(0, 2, 1), total // hidden, kind.units)
    return filled.reshape(count, hidden, -1, kind.panel).transpose(0, 2, 1, 3).copy()


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


def check_lstm(kind, x, r, h0, c0, wanted):
    steps, batch, count, _ = x.shape
    kernel = lstm_kernel(kind, steps, batch)
    zeros = np.zeros((count, 3 * kind.units), "float32")
    filled = fill_up(x, 4, kind.units)
    arrays = [filled, pack(kind, r), h0, c0, zeros, np.zeros(1, "int32")]
    return check(kernel, "CPURecurrent", arrays, wanted, tolerance=1e-4)


@pytest.mark.parametrize(
    "steps, batch, hidden",
    [
        *[(4, 1, 16), (3, 2, 64), (1, 3, 96), (2, 6, 128), (2, 5, 256)],
        *[(3, 1, 5), (2, 3, 100), (2, 11, 24), (1, 13, 200), (2, 32, 40)],
    ],
)
def test_lstm(steps, batch, hidden):
    kind = cell(hidden, tirx.sigmoid, tirx.tanh, tirx.tanh, batch=batch)
    x, r = random(steps, batch, 1, 4 * hidden), random(1, 4 * hidden, hidden) / 8
    h0, c0 = random(1, batch, hidden), random(1, batch, hidden) * 2
    y, h, c = run_lstm(x[:, :, 0], r[0], h0[0], c0[0])
    check_lstm(kind, x, r, h0, c0, [y[:, None], h[None], c[None]])


@pytest.mark.parametrize("batch, chunks", [(2, 1), (8, 2), (13, 2), (24, 4), (32, 4)])
def test_chunks_of_rows_run_side_by_side(batch, chunks):
    steps, hidden = 3, 40
    kind = cell(hidden, tirx.sigmoid, tirx.tanh, tirx.tanh, batch=batch, split=True)
    assert kind.chunks(batch) == chunks
    x, r = random(steps, batch, 1, 4 * hidden), random(1, 4 * hidden, hidden) / 8
    h0, c0 = random(1, batch, hidden), random(1, batch, hidden) * 2
    y, h, c = run_lstm(x[:, :, 0], r[0], h0[0], c0[0])
    mod = check_lstm(kind, x, r, h0, c0, [y[:, None], h[None], c[None]])
    assert loops(mod, "parallel") == (chunks > 1)


def test_little_work_and_large_matrices_are_not_split():
    assert worth_splitting(640, 4 * 200**2, 4) and worth_splitting(80, 4 * 768**2, 4)
    assert not worth_splitting(80, 4 * 16**2, 4) and not worth_splitting(80, 4 * 1024**2, 4)


@pytest.mark.parametrize("batch, directions, rows", [(8, 1, 4), (8, 2, 8), (8, None, 8), (6, 1, 3)])
def test_one_core_loses_nothing_by_smaller_tiles(batch, directions, rows):
    assert rows_of_tile(batch, directions) == rows


@pytest.mark.parametrize("same", [True, False])
def test_directions_run_side_by_side(same):
    steps, batch, hidden = 3, 2, 32
    squash = tirx.tanh if same else lambda v: tirx.max(v, tirx.const(0, "float32"))
    functions = (tirx.sigmoid, tirx.tanh, tirx.tanh, tirx.sigmoid, squash, tirx.tanh)
    kind = cell(hidden, *functions, reverse=(False, True), batch=batch)
    x, r = random(steps, batch, 2, 4 * hidden), random(2, 4 * hidden, hidden) / 8
    h0, c0 = random(2, batch, hidden), random(2, batch, hidden) * 2
    there = run_lstm(x[:, :, 0], r[0], h0[0], c0[0])
    other = np.tanh if same else lambda v: np.maximum(v, 0)
    back = run_lstm(x[::-1, :, 1], r[1], h0[1], c0[1], other)
    y = np.stack([there[0], back[0][::-1]], axis=1)
    states = [np.stack(pair) for pair in zip(there[1:], back[1:], strict=True)]
    mod = check_lstm(kind, x, r, h0, c0, [y, *states])
    assert loops(mod, "parallel") == 1


@pytest.mark.parametrize("batch, hidden", [(2, 32), (9, 20), (1, 100)])
def test_gru(batch, hidden):
    steps = 3
    kind = cell(hidden, tirx.sigmoid, tirx.tanh, batch=batch, together=1)
    func = gru_kernel(kind, steps, batch)
    x, r = random(steps, batch, 1, 3 * hidden), random(1, 3 * hidden, hidden) / 6
    h0 = random(1, batch, hidden)
    h, outputs = h0[0], []
    for step in x[:, :, 0]:
        gates = sigmoid(step[:, : 2 * hidden] + h @ r[0, : 2 * hidden].T)
        z, reset = np.split(gates, 2, axis=1)
        candidate = np.tanh(step[:, 2 * hidden :] + (reset * h) @ r[0, 2 * hidden :].T)
        h = (1 - z) * candidate + z * h
        outputs.append(h[None])
    biases = np.zeros((1, 3 * kind.units), "float32")
    arrays = [fill_up(x, 3, kind.units), pack(kind, r), h0, biases, np.zeros(1, "int32")]
    check(func, "CPURecurrent", arrays, [np.stack(outputs), h[None]], tolerance=1e-4)


def test_declines_other_functions():
    x = placeholder("x", 4, 8)
    assert CPURecurrent().apply(prim_func([x], [topi.nn.relu(x)]), NATIVE) is None


@pytest.mark.parametrize("hidden", [1, 7, 16, 50, 100, 200, 333, 512])
@pytest.mark.parametrize("batch", [1, 3, 8, 11, 64])
@pytest.mark.parametrize("together", [1, 4])
def test_panels_divide_the_gates(hidden, batch, together):
    kind = cell(hidden, batch=batch, together=together)
    assert hidden <= kind.units < hidden * 1.15 + 16
    assert together * kind.units % kind.panel == 0 == kind.rows(batch) % kind.tile_rows
    assert kind.rows(batch) < 1.2 * batch + 1
