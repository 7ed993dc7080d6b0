"""Axes that arrive with the inputs: one artifact serves every choice."""

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

import athanor

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def compiled(operator, count, dims, out_rank, opset=20, **attributes):
    node = helper.make_node(operator, ["x", "axes"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("axes", TensorProto.INT64, [count] if count else []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * out_rank)],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return athanor.compile(model).load(threads=1)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    "operator, reference", [("ReduceSum", np.sum), ("ReduceMean", np.mean), ("ReduceMax", np.max)]
)
def test_reductions(operator, reference, keepdims):
    model = compiled(operator, 2, [2, 3, 4], 3 if keepdims else 1, keepdims=keepdims)
    for axes in ([0, 1], [2, 0], [-1, -2], [1, -3]):
        result = model.run({"x": X, "axes": np.array(axes)})["y"]
        expected = reference(X, axis=tuple(axes), keepdims=bool(keepdims))
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "operator, reference",
    [("ReduceSum", np.sum), ("ReduceProd", np.prod), ("ReduceMean", np.mean)],
)
def test_reductions_of_nothing(operator, reference):
    model = compiled(operator, 1, [2, 0, 4], 3)
    x = np.zeros((2, 0, 4), np.float32)
    for axis in (0, 1, 2):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference(x, axis=axis, keepdims=True)
        np.testing.assert_array_equal(model.run({"x": x, "axes": np.array([axis])})["y"], expected)


def test_extremes_of_nothing():
    for operator, expected in (("ReduceMax", -np.inf), ("ReduceMin", np.inf)):
        model = compiled(operator, 1, [2, 0], 1, keepdims=0)
        result = model.run({"x": np.zeros((2, 0), np.float32), "axes": np.array([1])})["y"]
        np.testing.assert_array_equal(result, np.full(2, expected, np.float32))


def test_reductions_of_named_sizes():
    model = compiled("ReduceSum", 2, ["a", 3, "c"], 1, keepdims=0)
    for shape in ((2, 3, 5), (1, 3, 1)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        for axes in ([0, 1], [2, 0], [-1, -2]):
            result = model.run({"x": x, "axes": np.array(axes)})["y"]
            np.testing.assert_allclose(result, x.sum(tuple(axes)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [[3, 0], [0, -4], [1, 1], [2, -1]])
def test_axes_outside_or_twice_are_refused(axes):
    model = compiled("ReduceSum", 2, [2, 3, 4], 1, keepdims=0)
    with pytest.raises(athanor.RunError):
        model.run({"x": X, "axes": np.array(axes)})


def test_unsqueeze():
    model = compiled("Unsqueeze", 2, [2, 3, 4], 5)
    for axes in ([0, 1], [0, -1], [4, 2], [-5, 3]):
        result = model.run({"x": X, "axes": np.array(axes)})["y"]
        np.testing.assert_array_equal(result, np.expand_dims(X, tuple(axes)))


def test_squeeze_of_what_is_not_one_is_refused():
    model = compiled("Squeeze", 1, [2, 1, 3], 2)
    with pytest.raises(athanor.RunError):
        model.run({"x": X[:, :1, :3], "axes": np.array([0])})


def test_squeeze():
    x = X.reshape(2, 1, 3, 1, 4)
    model = compiled("Squeeze", 1, [2, 1, 3, 1, 4], 4)
    for axis in (1, 3, -2, -4):
        result = model.run({"x": x, "axes": np.array([axis])})["y"]
        np.testing.assert_array_equal(result, np.squeeze(x, axis))


def test_cumulative_sum():
    model = compiled("CumSum", 0, [2, 3, 4], 3)
    for axis in (0, 1, 2, -1, -3):
        result = model.run({"x": X, "axes": np.array(axis)})["y"]
        np.testing.assert_allclose(result, np.cumsum(X, axis), rtol=1e-5, atol=1e-6)
