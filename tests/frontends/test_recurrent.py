"""LSTM, GRU and RNN against ONNX Runtime: directions, lengths, activations, layouts."""

import numpy as np
import onnxruntime
import pytest

from .execute import floats, one_node, run, same

STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def compare(
    op,
    direction="forward",
    lengths=None,
    bias=True,
    states=True,
    peephole=False,
    batch=BATCH,
    hidden=HIDDEN,
    **more,
):
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    inputs = [
        floats(STEPS, batch, INPUT),
        floats(count, gates * hidden, INPUT, seed=1) * np.float32(0.5),
        floats(count, gates * hidden, hidden, seed=2) * np.float32(min(0.5, 5 / hidden)),
        floats(count, 2 * gates * hidden, seed=3) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        floats(count, batch, hidden, seed=4) if states else None,
    ]
    if op == "LSTM":
        inputs.append(floats(count, batch, hidden, seed=5) if states else None)
        inputs.append(floats(count, 3 * hidden, seed=6) if peephole else None)
    outputs = 3 if op == "LSTM" else 2
    options = dict(direction=direction, hidden_size=hidden, **more)
    model = one_node(op, inputs, outputs=outputs, opset=14, constants=(1, 2, 3), **options)
    model.ir_version = 10
    names = [value.name for value in model.graph.input]
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for ours, theirs in zip(
        run(model, list(feeds.values())), session.run(None, feeds), strict=True
    ):
        same(ours, theirs, 1e-4, 1e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_directions(op, direction, lengths):
    compare(op, direction, lengths)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_defaults(op):
    compare(op, bias=False, states=False)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("batch, hidden", [(1, 100), (11, 36), (9, 200)])
def test_units_and_rows_that_fill_no_tile(op, batch, hidden):
    compare(op, "bidirectional", batch=batch, hidden=hidden)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "batch, direction, lengths", [(8, "forward", None), (13, "reverse", [3, 1, 5])]
)
def test_rows_that_run_side_by_side(op, batch, direction, lengths):
    lengths = None if lengths is None else [lengths[row % 3] for row in range(batch)]
    more = {"peephole": True} if op == "LSTM" else {}
    compare(op, direction, lengths, batch=batch, hidden=100, clip=0.8, **more)


def test_peepholes_and_coupled_gates():
    compare("LSTM", peephole=True)
    compare("LSTM", "bidirectional", input_forget=1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gru_reset_after(direction):
    compare("GRU", direction, linear_before_reset=1)


def test_clip():
    compare("LSTM", clip=0.5)
    compare("GRU", clip=0.5)


def test_activations():
    compare("LSTM", activations=["HardSigmoid", "Softsign", "Relu"])
    compare("GRU", activations=["HardSigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.1])
    compare("RNN", "bidirectional", activations=["Relu", "Tanh"])
