"""Seeded inputs: types, symbolic dimensions, and integers that are in range."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from athanor import RunError
from athanor.compiler.feeds import index_limits, make_feeds


def info(name, dtype, *shape):
    return SimpleNamespace(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_type_and_shape(dtype, shape):
    array = make_feeds([info("x", dtype, *shape)])["x"]
    assert array.dtype.name == dtype
    assert array.shape == shape


def test_seed():
    inputs = [info("x", "float32", 8), info("n", "int64", 8)]
    first, again, other = (make_feeds(inputs, seed=seed) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_a_given_input_leaves_the_values_of_others():
    inputs = [info("x", "float32", "n"), info("y", "float32", 5)]
    alone = make_feeds(inputs)
    given = np.zeros(1, np.float32)
    both = make_feeds(inputs, given={"x": given})
    assert both["x"] is given
    np.testing.assert_array_equal(alone["y"], both["y"])


def test_symbolic_dimensions():
    inputs = [info("x", "float32", "batch", 3), info("y", "float32", "batch", "length")]
    assert make_feeds(inputs)["y"].shape == (1, 1)
    assert make_feeds(inputs, dims={"batch": 4})["x"].shape == (4, 3)
    given = {"x": np.zeros((2, 3), np.float32)}
    assert make_feeds(inputs, given=given, dims={"length": 5})["y"].shape == (2, 5)


def test_unknown_dimension():
    with pytest.raises(RunError, match="no input has a symbolic dimension 'n'; symbolic are: b"):
        make_feeds([info("x", "float32", "b")], dims={"n": 2})


def test_an_unknown_input_is_passed_on():
    """The model's own check is to refuse it, and names what there is."""
    assert set(make_feeds([info("x", "float32", 1)], given={"z": np.zeros(1)})) == {"x", "z"}


def test_integers_are_in_range():
    inputs = [info("ids", "int64", 1000), info("pixels", "uint8", 1000), info("s", "int8", 1000)]
    feeds = make_feeds(inputs, limits={"ids": 7})
    assert feeds["ids"].min() == 0
    assert feeds["ids"].max() == 6
    assert feeds["pixels"].max() > 240
    assert feeds["s"].min() < -100


def test_meaningful_names():
    feeds = make_feeds(
        [
            info("attention_mask", "int64", 2, 3),
            info("token_type_ids", "int64", 2, 3),
            info("position_ids", "int64", 2, 3),
        ]
    )
    np.testing.assert_array_equal(feeds["attention_mask"], np.ones((2, 3)))
    np.testing.assert_array_equal(feeds["token_type_ids"], np.zeros((2, 3)))
    np.testing.assert_array_equal(feeds["position_ids"], [[0, 1, 2], [0, 1, 2]])


def test_index_limits():
    tables = {"wide": np.zeros((5, 9), np.float32), "narrow": np.zeros((3, 9), np.float32)}
    nodes = [
        helper.make_node("Cast", ["ids"], ["ids64"], to=TensorProto.INT64),
        helper.make_node("Gather", ["wide", "ids64"], ["a"]),
        helper.make_node("Gather", ["narrow", "ids64"], ["b"]),
        helper.make_node("Gather", ["wide", "columns"], ["c"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, [2]),
            helper.make_tensor_value_info("columns", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("free", TensorProto.INT64, [2]),
        ],
        [onnx.ValueInfoProto(name="a")],
        [numpy_helper.from_array(array, name) for name, array in tables.items()],
    )
    assert index_limits(helper.make_model(graph)) == {"ids": 3, "columns": 9}
