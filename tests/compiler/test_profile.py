"""Profiling artifacts: the times of kernels, and what they are measured against."""

import numpy as np
import onnx
import pytest

import athanor
from athanor import RunError
from athanor.runtime.profile import EventRecorder

ROWS = 5


def dense_model(rows="rows"):
    """y = relu(x @ weight + bias), 64 -> 32."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>'
        f"small (float[{rows}, 64] x) => (float[{rows}, 32] y) {{"
        "[dense] product = Gemm (x, weight, bias) [activation] y = Relu (product) }"
    )
    weights = {"weight": (64, 32), "bias": (32,)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
        for name, shape in weights.items()
    )
    return model


@pytest.fixture(scope="module")
def dense():
    return athanor.compile(dense_model(), profile=True).load(threads=1)


def test_a_profile_has_times_and_work_of_each_kernel(dense):
    x = np.ones((ROWS, 64), np.float32)
    expected = dense.run({"x": x})["y"]
    profile = dense.profile({"x": x}, runs=3)
    (step,) = profile.steps
    assert len(profile.runs) == 3
    assert step.calls == 1
    assert 0 < step.milliseconds <= profile.milliseconds
    # rows are computed in tiles of 6 or more, so more of them than there are
    products = 2 * 64 * 32
    assert ROWS * products <= step.operations <= 2 * 8 * products + ROWS * 64
    assert step.bytes == 4 * (ROWS * 64 + 64 * 32 + 32 + ROWS * 32)
    np.testing.assert_array_equal(dense.run({"x": x})["y"], expected)


def test_a_profile_leaves_earlier_results_alone(dense):
    x = np.ones((ROWS, 64), np.float32)
    held = [dense.run({"x": x})["y"] for _ in range(3)]
    expected = held[0].copy()
    dense.profile({"x": 2 * x}, runs=3)
    for result in held:
        np.testing.assert_array_equal(result, expected)


def test_a_recorder_grows_with_the_events(dense):
    recorder = EventRecorder()
    recorder._room = recorder._room[:1]  # room for the whole run's event alone
    dense._execute([np.ones((ROWS, 64), np.float32)], recorder=recorder)
    (events,) = recorder.runs
    assert events["step"].tolist() == [-1, 0]
    assert (events["start_ns"] <= events["end_ns"]).all()


def test_the_library_refuses_an_ordinary_model(digits_artifact):
    model = athanor.load(digits_artifact, threads=1)
    recorder = EventRecorder()
    with pytest.raises(RunError, match="was not compiled for profiling"):
        model._execute([np.zeros((1, 1, 8, 8), np.float32)], recorder=recorder)
    assert not recorder.runs
    model.run({"image": np.zeros((1, 1, 8, 8), np.float32)})  # and stays usable


def test_only_a_model_compiled_for_profiling_has_a_profile():
    model = athanor.compile(dense_model(rows=2)).load(threads=1)
    with pytest.raises(RunError, match="not compiled for profiling"):
        model.profile({"x": np.ones((2, 64), np.float32)})
    assert "profile" not in model.metadata


def layers_model():
    """Two equal layers and their sum, so that the groups of both are one function."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "layers (float[3, 16] x) => (float[3, 16] sum, float[1, 48] last, float[16, 3] turned) {"
        "[first] a = MatMul (x, w1) [bias1] b = Add (a, c1) [act1] d = Relu (b)"
        "[second] e = MatMul (d, w2) [bias2] f = Add (e, c2) [act2] g = Relu (f)"
        "[residual] sum = Add (g, d) [flat] h = Flatten <axis = 0> (g) [last] last = Exp (h)"
        "[turn] turned = Transpose (d) }"
    )
    rng = np.random.default_rng(0)
    weights = {"w1": (16, 16), "c1": (16,), "w2": (16, 16), "c2": (16,)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
        for name, shape in weights.items()
    )
    return model


def nodes_by_kernel(model, **options):
    steps = athanor.compile(model, profile=True, **options).metadata["profile"]["steps"]
    return [(step["value"], step["nodes"]) for step in steps]


def test_fused_kernels_know_their_nodes():
    found = dict(nodes_by_kernel(layers_model()))
    assert found["d"] == ["MatMul first", "Add bias1", "Relu act1"]
    # Flatten is a view: its node goes to the kernel that reads it
    everything = [node for nodes in found.values() for node in nodes]
    assert sorted(everything) == sorted(set(everything))
    names = "MatMul first,Add bias1,Relu act1,MatMul second,Add bias2,Relu act2,Flatten flat"
    assert set(everything) == {*names.split(","), "Add residual", "Exp last", "Transpose turn"}
    (second,) = [nodes for nodes in found.values() if "MatMul second" in nodes]
    assert second[:3] == ["MatMul second", "Add bias2", "Relu act2"]


def test_nodes_of_folded_normalization_belong_to_the_convolution():
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "net (float[1, 16, 6, 6] x) => (float[1, 16, 4, 4] y) {"
        "[conv] a = Conv (x, w) [norm] b = BatchNormalization (a, s, s, s, s) [act] y = Relu (b) }"
    )
    for name, shape in {"w": (16, 16, 3, 3), "s": (16,)}.items():
        array = rng.uniform(0.5, 1, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = [nodes for _, nodes in nodes_by_kernel(model)]
    assert ["Conv conv", "BatchNormalization norm", "Relu act"] in found


def test_nodes_inside_control_flow():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "net (bool c, float[4] x) => (float[4] y) { [choice] y = If (c) <"
        "then_branch = t () => (float[4] a) { [left] a = Exp (x) },"
        "else_branch = e () => (float[4] b) { [right] b = Log (x) }> }"
    )
    artifact = athanor.compile(model, profile=True)
    x = np.ones(4, np.float32)
    for condition, node in ((True, "Exp left"), (False, "Log right")):
        inputs = {"c": np.array(condition), "x": x}
        steps = artifact.load(threads=1).profile(inputs, 2).steps
        assert [step.nodes for step in steps if step.kernel != "copy"] == [(node,)]
