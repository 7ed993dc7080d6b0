"""Maxima, minima and where they are, along any axes, with NaN and infinities, as NumPy has them."""

import numpy as np
import pytest
from tvm.ir import Op

from .artifact import ours
from .execute import one_node, same

SHAPES = [
    ((3, 7, 33), 2),
    ((2, 50, 4), 1),
    ((5, 127), 1),
    ((4, 1000), 1),
    ((9, 40), 0),
    ((1, 1), 1),
]
TYPES = ["float32", "float16", "float64", "int32", "uint8", "int64"]


def numbers(shape, dtype):
    generator = np.random.default_rng(5)
    x = generator.integers(0, 12, shape).astype(dtype)
    if x.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf, np.nan):
            x.flat[generator.integers(x.size)] = value
    return x


@pytest.mark.parametrize(
    "shape, axes", [*SHAPES, ((3, 5, 28, 9), (0, 2, 3)), ((3, 5, 8), (0, 1, 2))]
)
@pytest.mark.parametrize("op, reference", [("ReduceMax", np.max), ("ReduceMin", np.min)])
def test_extremum(op, reference, shape, axes):
    x, places = numbers(shape, "float32"), np.atleast_1d(axes).astype("int64")
    model = one_node(op, [x, places], constants=(1,))
    same(ours(model, {"x0": x})[0], reference(x, axis=axes, keepdims=True), rtol=0, atol=0)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_of_infinities_only(op):
    start = -np.inf if op == "ReduceMax" else np.inf
    x = np.full((3, 70), start, "float32")
    model = one_node(op, [x, np.array([1])], constants=(1,))
    same(ours(model, {"x0": x})[0], x[:, :1], rtol=0, atol=0)


def index(op, x, axis, last):
    find = {"ArgMax": np.argmax, "ArgMin": np.argmin}[op]
    if not last:
        return find(x, axis=axis, keepdims=True)
    return x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=True)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_index(op, shape, axis, last):
    x = numbers(shape, "float32")
    model = one_node(op, [x], axis=axis, select_last_index=last)
    same(ours(model, {"x0": x})[0], index(op, x, axis, last), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_index_of_types(dtype):
    x = numbers((3, 100), dtype)
    model = one_node("ArgMin", [x], axis=1)
    same(ours(model, {"x0": x})[0], index("ArgMin", x, 1, False), rtol=0, atol=0)


def test_index_along_an_axis_of_the_run():
    x = numbers((3, 100), "float32")
    model = one_node("ArgMax", [x], axis=1, shapes={0: [3, "n"]})
    same(ours(model, {"x0": x})[0], index("ArgMax", x, 1, False), rtol=0, atol=0)


@pytest.mark.parametrize("shape, axis", SHAPES)
def test_hardmax(shape, axis):
    x = numbers(shape, "float32")
    wanted = np.zeros_like(x)
    np.put_along_axis(wanted, x.argmax(axis, keepdims=True), 1, axis)
    same(ours(one_node("Hardmax", [x], axis=axis), {"x0": x})[0], wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    "shapes", [((5, 70), (5, 1)), ((5, 70), (70,)), ((70,), (3, 1)), ((), (90,))]
)
@pytest.mark.parametrize("op, reference", [("Max", np.maximum), ("Min", np.minimum)])
def test_broadcast(op, reference, shapes):
    a, b = (numbers(shape, "float32") if shape else np.float32(5) for shape in shapes)
    same(ours(one_node(op, [a, b]), {"x0": a, "x1": b})[0], reference(a, b), rtol=0, atol=0)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_index_of_nothing_but_lines_of_none(op):
    """Sizes of 0 stay where they are, the reduced one becomes 1."""
    x = np.zeros((3, 0, 4), np.float32)
    (result,) = ours(one_node(op, [x], axis=0, keepdims=1), {"x0": x})
    assert result.shape == (1, 0, 4)


@pytest.mark.parametrize("size", [1, 8, 33])
def test_nan_among_lines_of_a_length_that_only_the_run_knows(size):
    x = numbers((5, 3, 2, size), "float32")
    model = one_node("ReduceMax", [x, np.array([1])], constants=(1,), keepdims=1)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "n"
    same(ours(model, {"x0": x})[0], x.max(axis=1, keepdims=True), rtol=0, atol=0)


def test_questions_for_nan_are_vectors_for_processors_alone():
    """What is said of an operator is said for every target: CUDA has no comparison of vectors."""
    x = numbers((7, 33), "float32")
    ours(one_node("Max", [x, x[:1]]), {"x0": x, "x1": x[:1]})
    assert Op.get("tirx.isnan").get_attr("TVectorizable") is None
