"""Products of two values of the run, the whole way; against ONNX Runtime."""

import numpy as np
import pytest
from onnx import helper

import athanor

from .artifact import compare_node
from .execute import floats


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 300), (300, 1024)),  # one row, lines of b 4 KiB apart
        ((7, 64), (64, 130)),
        ((16, 20), (20, 33)),
        ((3, 5, 20), (3, 20, 16)),
        ((2, 3, 1, 9), (2, 3, 9, 70)),
        ((4, 9), (9, 7)),  # columns that fill no vector
        ((1, 1), (1, 1)),
        ((0, 4), (4, 40)),
        ((3, 0), (0, 40)),
    ],
    ids=str,
)
def test_few_rows(a, b):
    compare_node("MatMul", [floats(*a), floats(*b, seed=1)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 20), (33, 20)),
        ((40, 7), (5, 7)),
        ((29, 64), (100, 64)),
        ((1, 1), (1, 1)),
        ((0, 4), (40, 4)),
        ((6, 30, 17), (6, 50, 17)),
        ((2, 3, 1, 40), (2, 3, 67, 40)),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["native", "x86-64-v3", "x86-64-v2"])
def test_a_transposed_right_operand(a, b, target):
    axes = [*range(len(b) - 2), len(b) - 1, len(b) - 2]
    nodes = [
        helper.make_node("Transpose", ["b"], ["t"], perm=axes),
        helper.make_node("MatMul", ["a", "t"], ["p"]),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    feeds = {"a": floats(*a), "b": floats(*b, seed=1)}
    inputs = [helper.make_tensor_value_info(name, 1, x.shape) for name, x in feeds.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (result,) = athanor.compile(model, target).load(threads=1).run(feeds).values()
    wanted = np.maximum(feeds["a"] @ np.swapaxes(feeds["b"], -1, -2), 0)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)
