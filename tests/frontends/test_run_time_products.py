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
        ((2, 40, 33), (2, 33, 1)),
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
        ((3, 50, 21), (3, 1, 21)),  # one column: rows of a are what is summed up
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["native", "x86-64-v3", "x86-64-v2"])
def test_a_transposed_right_operand(a, b, target):
    check_product(floats(*a), floats(*b, seed=1), True, target=target)


BROADCAST = [
    ((4, 20, 33), (33, 50)),  # rows of every batch are rows of one product
    ((3, 1, 9, 17), (5, 17, 40)),
    ((2, 3, 40, 7), (2, 1, 7, 65)),
    ((20, 30), (4, 30, 17)),
    ((1, 2, 1, 3, 64), (3, 1, 4, 64, 21)),
    ((0, 3, 5, 8), (1, 8, 20)),
    ((3, 5, 0), (0, 20)),
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("a", "b"), BROADCAST, ids=str)
def test_batches_that_one_side_lacks(a, b, swapped):
    right = floats(*b, seed=1)
    check_product(floats(*a), np.swapaxes(right, -1, -2).copy() if swapped else right, swapped)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("a", "b"), BROADCAST[:2], ids=str)
def test_batches_of_a_symbol(a, b, swapped):
    right = floats(*b, seed=1)
    right = np.swapaxes(right, -1, -2).copy() if swapped else right
    check_product(floats(*a), right, swapped, ["batch", *a[1:]])


def check_product(a, b, swapped, shape=None, target="native"):
    """relu(a @ b), or relu(a @ b^T) where swapped, with an `a` of that declared shape."""
    axes = [*range(b.ndim - 2), b.ndim - 1, b.ndim - 2]
    nodes = [
        helper.make_node("Transpose", ["b"], ["t"], perm=axes),
        helper.make_node("MatMul", ["a", "t" if swapped else "b"], ["p"]),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, 1, dims)
        for name, dims in (("a", shape or a.shape), ("b", b.shape))
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (result,) = athanor.compile(model, target).load(threads=1).run({"a": a, "b": b}).values()
    wanted = np.maximum(a @ (np.swapaxes(b, -1, -2) if swapped else b), 0)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)
