"""Vectors are loaded and stored where their size divides the address; a GPU takes no others."""

import numpy as np
import pytest
from onnx import helper

from .test_operators import compare, model_of, numbers


@pytest.mark.parametrize("shapes", [((3, 5), (3, 12)), ((2, 8), (3, 8))])
def test_parts_of_a_concatenation(driver, shapes):
    axis = int(shapes[0][0] == shapes[1][0])
    feeds = {f"x{i}": numbers(1, *shape) for i, shape in enumerate(shapes)}
    nodes = [helper.make_node("Softmax", [name], [f"s{name}"], axis=-1) for name in feeds]
    nodes.append(helper.make_node("Concat", ["sx0", "sx1"], ["c"], axis=1 + axis))
    nodes.append(helper.make_node("Exp", ["c"], ["y"]))
    compare(model_of(nodes, feeds, ["y"]), feeds)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_slice_begins_anywhere(driver, start):
    feeds = {"x": numbers(6, 100)}
    nodes = [
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["s"]),
        helper.make_node("Tanh", ["s"], ["t"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    constants = {
        "starts": np.array([start], np.int64),
        "ends": np.array([start + 64], np.int64),
        "axes": np.array([1], np.int64),
    }
    compare(model_of(nodes, feeds, ["t", "y"], constants), feeds)
