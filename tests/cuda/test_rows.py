"""Reductions, softmax and normalizations on a GPU: rows shared by threads, in one launch."""

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from .test_operators import compare, launches, model_of, numbers, rules


def one_launch(op, feeds, constants=None, shapes=None, expected=None, rtol=1e-4, **attributes):
    """A model of one operator, compared with the reference or `expected`."""
    node = helper.make_node(op, [*feeds, *(constants or {})], ["y"], **attributes)
    model = model_of([node], feeds, ["y"], constants, shapes)
    artifact = compare(model, feeds, rtol, rtol / 10, expected)
    assert rules(artifact) == {"CUDARows"}
    assert launches(artifact) == 1


@pytest.mark.parametrize("shape", [(3, 1), (5, 7), (300, 33), (2, 3, 1000), (2, 4099), (1, 70000)])
def test_softmax(driver, shape):
    one_launch("Softmax", {"x": numbers(*shape)}, axis=-1)


def test_the_logarithm_of_softmax(driver):
    one_launch("LogSoftmax", {"x": numbers(5, 70)}, axis=-1)


@pytest.mark.parametrize("shape", [(3, 70, 5), (1, 1200, 33), (7, 1, 9)])
def test_softmax_of_columns(driver, shape):
    one_launch("Softmax", {"x": numbers(*shape)}, axis=1)


@pytest.mark.parametrize("count", [1, 77, 3000])
def test_softmax_of_run_time_sizes(driver, count):
    for shape in ((5, count), (count, 64)):
        names = [size if size != count else "n" for size in shape]
        one_launch("Softmax", {"x": numbers(*shape)}, shapes={"x": names}, axis=-1)


def test_softmax_hands_nan_on_within_its_row(driver):
    x = numbers(4, 100)
    x[1, 37], x[2, 3], x[3] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        one_launch("Softmax", {"x": x}, axis=-1)


@pytest.mark.parametrize("shape", [(7, 130), (3, 2, 768), (2, 5001), (40, 8)])
def test_layer_normalization(driver, shape):
    constants = {"scale": numbers(shape[-1]), "bias": numbers(shape[-1])}
    one_launch("LayerNormalization", {"x": numbers(*shape)}, constants)


def test_float64(driver):
    one_launch("Softmax", {"x": numbers(9, 200, dtype=np.float64)}, axis=-1)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceProd"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((4, 600), [1]), ((600, 4), [0]), ((3, 50, 9), [1]), ((5, 1), [1])],
)
def test_reductions(driver, op, shape, axes):
    x = 1 + numbers(*shape) / 50
    one_launch(op, {"x": x}, {"axes": np.array(axes, np.int64)})


@pytest.mark.parametrize("shape", [(1, 60_000), (33_000, 3)])
def test_a_reduction_of_few_long_rows_is_done_in_parts(driver, shape):
    axis = int(np.argmax(shape))
    x = {"x": numbers(*shape)}
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"])
    model = model_of([node], x, ["y"], {"axes": np.array([axis], np.int64)})
    artifact = compare(model, x, 1e-3, 1e-2)
    assert rules(artifact) == {"CUDARows"}
    assert launches(artifact) == 2


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_maximum_hands_nan_on(driver, op, axis):
    x = numbers(40, 50)
    x[3, 4], x[39, 49], x[5, 20], x[7, 21] = np.nan, np.nan, np.inf, -np.inf
    one_launch(op, {"x": x}, {"axes": np.array([axis], np.int64)})


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((5, 300), 1), ((300, 5), 0), ((3, 40, 70), 1)])
def test_places_of_extremes(driver, op, last, shape, axis):
    x = np.round(numbers(*shape))  # with many equal
    one_launch(op, {"x": x}, axis=axis, select_last_index=last)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_the_place_of_an_extreme_is_that_of_the_first_nan(driver, op):
    x = numbers(4, 100)
    x[1, 37] = x[1, 80] = np.nan
    expected = {"ArgMax": np.argmax, "ArgMin": np.argmin}[op](x, axis=1, keepdims=True)
    one_launch(op, {"x": x}, expected=[expected], axis=1)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_integers(driver, dtype):
    x = np.random.default_rng(0).integers(0, 100, (6, 130)).astype(dtype)
    one_launch("ReduceMax", {"x": x}, {"axes": np.array([1], np.int64)})
    one_launch("ArgMin", {"x": x}, axis=0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [64, 201])
def test_narrow_floats_are_widened_within_the_kernel(driver, dtype, width):
    x = {"x": numbers(9, width, dtype=dtype)}
    bias = (20 + numbers(width)).astype(dtype)  # so that no sum cancels
    one_launch("Softmax", x, rtol=2e-2, axis=-1)
    constants = {"scale": numbers(width, dtype=dtype), "bias": bias}
    one_launch("LayerNormalization", x, constants, rtol=2e-2)
