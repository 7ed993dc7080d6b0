"""Profiling artifacts: the times of kernels, and what they are measured against."""

import numpy as np
import onnx
import pytest

import athanor
from athanor import RunError

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


def test_only_a_model_compiled_for_profiling_has_a_profile():
    model = athanor.compile(dense_model(rows=2)).load(threads=1)
    with pytest.raises(RunError, match="not compiled for profiling"):
        model.profile({"x": np.ones((2, 64), np.float32)})
    assert "profile" not in model.metadata
