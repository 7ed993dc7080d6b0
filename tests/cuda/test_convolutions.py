"""Convolutions as products in tiles, channels last, against the onnx reference."""

import re

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import athanor

from .test_operators import launches, model_of, rules
from .tiles import tiles

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ERRORS = {"fp32": 1e-5, "tf32": 4e-3, "fp16": 5e-3, "bf16": 4e-2, "float16": 5e-3}
"""Of an output, relative to the square root of the multiply-adds for one."""


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(nodes, feeds, constants, depth, precision="fp32", sizes=(), shapes=None):
    """Compile with these decisions, run, compare with float32; the artifact."""
    model = model_of(nodes, feeds, ["y"], constants, shapes)
    if not model.graph.output[0].type.WhichOneof(
        "value"
    ):  # ONNX infers none for GroupNormalization
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    with tiles(*sizes):
        artifact = athanor.compile(model, "cuda", precision=precision)
    (result,) = artifact.load(threads=1).run(feeds).values()
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    error = np.abs(result.astype(np.float64) - expected).max() / np.sqrt(depth)
    assert error < ERRORS[precision], error
    return artifact


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("data", "weight", "attributes", "sizes"),
    [
        ((2, 16, 9, 11), (24, 16, 3, 3), {"pads": [1, 1, 1, 1]}, (64, 64, 1, 2)),
        ((1, 3, 17, 15), (40, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}, (32, 64, 1, 3)),
        ((1, 8, 12, 10), (20, 8, 3, 2), {"pads": [0, 2, 1, 0], "dilations": [2, 3]}, ()),
        ((1, 72, 5, 5), (72, 72, 1, 1), {"strides": [2, 1]}, (16, 64, 1, 3)),
    ],
)
def test_convolutions(driver, data, weight, attributes, sizes, precision):
    feeds, constants = {"x": numbers(0, *data)}, {"w": numbers(1, *weight)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)]
    depth = int(np.prod(weight[1:]))
    artifact = check(nodes, feeds, constants, depth, precision, sizes)
    assert "CUDAConv2d" in rules(artifact)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("channels", "copied"), [(3, 4), (7, 8), (5, 1), (6, 2)])
def test_an_odd_number_of_channels_is_copied_four_at_once(driver, channels, copied, precision):
    """Where zeros for the rest are not too much work. One more launch would be for the padding."""
    feeds = {"x": numbers(0, 2, channels, 9, 7)}
    constants = {"w": numbers(1, 24, channels, 3, 3)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    model = model_of(nodes, feeds, ["y"], constants)
    artifact = athanor.compile(model, "cuda", precision=precision, keep_ir=True)
    (vectors,) = re.findall(r"athanor::convolution<([^>]*)>", artifact.metadata["ir"]["cuda"])
    assert vectors.split(", ")[-2] == str(copied)
    assert launches(artifact) == 3
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    (result,) = artifact.load(threads=1).run(feeds).values()
    error = np.abs(result - expected).max() / np.sqrt(9 * channels)
    assert error < ERRORS[precision]


@pytest.mark.parametrize("split", [1, 2])
def test_a_residual_block_turns_its_input_and_output_alone(driver, split):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["p"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["m"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Conv", ["m", "v", "b"], ["r"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r", "m"], ["s"]),
        helper.make_node("Clip", ["s", "low", "high"], ["y"]),
    ]
    feeds = {"x": numbers(0, 2, 32, 9, 9)}
    constants = {"w": numbers(1, 32, 32, 3, 3) / 8, "v": numbers(2, 32, 32, 3, 3) / 8}
    constants |= {"b": numbers(3, 32), "low": np.float32(0), "high": np.float32(6)}
    constants = {name: np.asarray(array) for name, array in constants.items()}
    artifact = check(nodes, feeds, constants, 288, "fp32", (16, 64, split, 3))
    # In, convolution, pooling, convolution, out.
    assert launches(artifact) == 5 + 2 * (split - 1)


def test_sizes_of_the_run(driver):
    feeds, constants = {"x": numbers(0, 3, 16, 7, 9)}, {"w": numbers(1, 24, 16, 3, 3)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])]
    shapes = {"x": ["batch", 16, "height", "width"]}
    artifact = check(nodes, feeds, constants, 144, "fp16", (32, 64, 1, 3), shapes)
    assert "CUDAConv2d" in rules(artifact)


@pytest.mark.parametrize("groups", [2, 16])
def test_groups_have_a_thread_for_each_output(driver, groups):
    feeds = {"x": numbers(0, 1, 16, 6, 5)}
    constants = {"w": numbers(1, 32, 16 // groups, 3, 3)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[1, 0, 1, 2])]
    check(nodes, feeds, constants, 144)


def test_a_float16_model(driver):
    feeds = {"x": numbers(0, 1, 16, 6, 5).astype(np.float16)}
    constants = {"w": numbers(1, 32, 16, 3, 3).astype(np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    artifact = athanor.compile(model_of(nodes, feeds, ["y"], constants), "cuda")
    (result,) = artifact.load(threads=1).run(feeds).values()
    wide = {name: array.astype(np.float32) for name, array in constants.items()}
    data = {"x": feeds["x"].astype(np.float32)}
    (expected,) = ReferenceEvaluator(model_of(nodes, data, ["y"], wide)).run(None, data)
    np.testing.assert_allclose(result.astype(np.float32), expected, rtol=2e-3, atol=2e-2)
    assert "CUDAConv2d" in rules(artifact)


def test_a_transposed_convolution_between_others_keeps_its_layout(driver):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["p", "t"], ["q"], strides=[2, 2]),
        helper.make_node("Conv", ["q", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    feeds = {"x": numbers(0, 1, 16, 5, 6)}
    constants = {"w": numbers(1, 16, 16, 3, 3) / 8, "t": numbers(2, 16, 16, 2, 2) / 8}
    check(nodes, feeds, constants, 144)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape"),
    [
        ("InstanceNormalization", {}, [16]),
        ("GroupNormalization", {"num_groups": 4}, [16]),
        ("LayerNormalization", {"axis": 1}, [16, 6, 5]),
    ],
)
def test_a_normalization_behind_finds_its_channels(driver, operator, attributes, shape):
    """Where they are last. Its factors are of the run, so that no constant is turned."""
    feeds = {"x": numbers(0, 2, 3, 6, 5), "s": numbers(1, *shape), "b": numbers(2, *shape)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["c", "s", "b"], ["y"], **attributes),
    ]
    check(nodes, feeds, {"w": numbers(3, 16, 3, 3, 3)}, 27)
