"""Elementwise kernels on a GPU: vectors along the contiguous axis, transposes through tiles."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from .test_operators import compare, launches, model_of, numbers, rules


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (3, 40), (2, 3, 1024), (1,)])
def test_a_chain(driver, dtype, shape):
    feeds = {"x": numbers(*shape, dtype=dtype), "z": numbers(*shape, dtype=dtype)}
    nodes = [
        helper.make_node("Add", ["x", "z"], ["s"]),
        helper.make_node("Tanh", ["s"], ["t"]),
        helper.make_node("Mul", ["t", "x"], ["y"]),
    ]
    artifact = compare(model_of(nodes, feeds, ["y"]), feeds, 2e-2, 1e-2)
    assert rules(artifact) == {"CUDAElementwise"}
    assert launches(artifact) == 1


@pytest.mark.parametrize("other", [(6, 1, 1), (1,), (8,), (5, 1), (2, 1, 5, 1), ()])
def test_broadcasting(driver, other):
    feeds = {"x": numbers(2, 6, 5, 8), "z": numbers(*other)}
    nodes = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    assert rules(compare(model_of(nodes, feeds, ["y"]), feeds)) == {"CUDAElementwise"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_vector_of_a_row_lies_together_where_rows_repeat(driver, dtype):
    feeds = {"x": numbers(2, 3, 4, 8, dtype=dtype), "z": numbers(3, 1, 1, dtype=dtype)}
    nodes = [helper.make_node("Mul", ["x", "z"], ["y"])]
    compare(model_of(nodes, feeds, ["y"]), feeds)
    feeds["z"] = numbers(1, dtype=dtype)
    compare(model_of(nodes, feeds, ["y"]), feeds)


@pytest.mark.parametrize("rows", [1, 300])
def test_run_time_sizes(driver, rows):
    feeds = {"x": numbers(rows, 24), "z": numbers(24)}
    nodes = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Exp", ["s"], ["y"])]
    compare(model_of(nodes, feeds, ["y"], shapes={"x": ["rows", 24]}), feeds)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_integers(driver, dtype):
    feeds = {"x": np.arange(96).astype(dtype)}
    nodes = [helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Add", ["s", "x"], ["y"])]
    compare(model_of(nodes, feeds, ["y"]), feeds)


def test_types_of_different_widths(driver):
    feeds = {"x": numbers(3, 64)}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Greater", ["x", "z"], ["c"]),
        helper.make_node("Where", ["c", "h", "h2"], ["y"]),
    ]
    constants = {"z": np.array(0, np.float32), "h2": numbers(64, dtype=np.float16)}
    compare(model_of(nodes, feeds, ["h", "y"], constants), feeds, 1e-3, 1e-3)


def test_maxima_hand_nan_on(driver):
    x = numbers(4, 64)
    x[0, 3], x[1], x[2, 5], x[3, 9] = np.nan, np.nan, np.inf, -np.inf
    feeds = {"x": x}
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Max", ["x", "low"], ["m"]),
    ]
    constants = {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}
    compare(model_of(nodes, feeds, ["y", "c", "m"], constants), feeds)


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((40, 33), [1, 0]),
        ((2, 50, 3, 17), [0, 2, 3, 1]),
        ((64, 64), [1, 0]),
        ((3, 20, 70), [2, 0, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_transposes(driver, shape, perm, dtype):
    feeds = {"x": numbers(*shape, dtype=dtype)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=perm),
        helper.make_node("Neg", ["t"], ["y"]),
    ]
    artifact = compare(model_of(nodes, feeds, ["y"]), feeds)
    assert rules(artifact) == {"CUDATranspose"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenations_and_gathers(driver, axis):
    feeds = {"x": numbers(3, 8, 16), "z": numbers(3, 8, 16)}
    nodes = [
        helper.make_node("Concat", ["x", "z"], ["c"], axis=axis),
        helper.make_node("Gather", ["c", "places"], ["y"], axis=axis),
        helper.make_node("Split", ["c"], ["a", "b"], axis=axis, num_outputs=2),
        helper.make_node("Sub", ["a", "b"], ["d"]),
    ]
    constants = {"places": np.array([[0, -1, 2], [1, 1, 0]], np.int64)}
    compare(model_of(nodes, feeds, ["y", "d"], constants), feeds)


@pytest.mark.parametrize("warps", [4, 16])
def test_transposes_by_other_warps_are_equal(driver, warps, monkeypatch):
    monkeypatch.setattr("athanor.schedules.rules.cuda_transpose.decide", lambda *_options: warps)
    x = np.random.default_rng(0).standard_normal((3, 50, 70)).astype(np.float32)
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])]
    artifact = compare(model_of(nodes, {"x": x}, ["y"]), {"x": x})
    (kernel,) = artifact.metadata["device"]["kernels"].values()
    assert kernel["launches"][0]["extents"][3:] == ["32", str(warps), "1"]
