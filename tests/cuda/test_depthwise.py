"""Depthwise convolutions with windows in registers, against the onnx reference."""

import math
from unittest import mock

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import athanor
from athanor.schedules.decisions import nearest
from athanor.targets import cuda_images

from .test_convolutions import check, numbers
from .test_operators import launches, model_of, rules


def tile_of(pixels, channels, threads):
    """Within it, depthwise kernels have these sizes or the nearest there are."""
    wanted = {"pixels": pixels, "channels": channels, "threads": threads}

    def decide(_sch, name, candidates, _preferred):
        return nearest(candidates, wanted[name])

    return mock.patch("athanor.schedules.rules.cuda_depthwise.decide", decide)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("data", "kernel", "attributes"),
    [
        ((2, 24, 9, 11), (3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 20, 12, 13), (3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
        ((1, 7, 8, 8), (5, 5), {"pads": [2, 2, 2, 2]}),
        ((2, 16, 15, 10), (5, 3), {"strides": [1, 2], "dilations": [2, 1], "pads": [4, 0, 4, 0]}),
        ((1, 12, 6, 5), (2, 1), {}),
    ],
)
def test_sizes(driver, data, kernel, attributes, precision):
    channels = data[1]
    feeds, constants = {"x": numbers(0, *data)}, {"w": numbers(1, channels, 1, *kernel)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=channels, **attributes)]
    artifact = check(nodes, feeds, constants, math.prod(kernel), precision)
    assert "CUDADepthwise" in rules(artifact)


@pytest.mark.parametrize(
    ("pixels", "channels", "threads"), [(1, 1, 32), (4, 4, 64), (8, 2, 128), (2, 4, 256)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tiles_and_what_follows(driver, precision, pixels, channels, threads):
    """A bias and an activation in the launch; a width that the pixels of a thread do not divide."""
    feeds = {"x": numbers(0, 2, 24, 7, 13)}
    constants = {"w": numbers(1, 24, 1, 3, 3), "b": numbers(2, 24)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], group=24, pads=[1] * 4),
        helper.make_node("HardSwish", ["c"], ["y"]),
    ]
    with tile_of(pixels, channels, threads):
        artifact = check(nodes, feeds, constants, 9, precision)
    assert launches(artifact) == 3  # two for the layout


def test_models_of_16_bits(driver):
    feeds = {"x": numbers(0, 1, 16, 9, 8).astype(np.float16)}
    constants = {"w": numbers(1, 16, 1, 3, 3).astype(np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=16, pads=[1] * 4)]
    model = model_of(nodes, feeds, ["y"], constants)
    artifact = athanor.compile(model, "cuda")
    assert "CUDADepthwise" in rules(artifact)
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    (result,) = artifact.load(threads=1).run(feeds).values()
    np.testing.assert_allclose(result, expected, rtol=5e-3, atol=1e-2)


def test_an_infinity_stays_where_it_is(driver):
    """What lies outside is zero, not zero times something."""
    x = numbers(0, 1, 8, 6, 6)
    x[0, 3, 0, 0] = np.inf
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1] * 4)]
    constants = {"w": np.abs(numbers(1, 8, 1, 3, 3))}
    artifact = athanor.compile(model_of(nodes, {"x": x}, ["y"], constants), "cuda")
    (result,) = artifact.load(threads=1).run({"x": x}).values()
    assert np.isinf(result[0, 3, :2, :2]).all() and np.isinf(result).sum() == 4


@pytest.mark.parametrize(
    ("weight", "group"),
    [((32, 1, 3, 3), 16), ((16, 1, 8, 8), 16)],
)
def test_others_have_a_thread_for_each_output(driver, weight, group):
    """More results than channels; a window of 64 taps."""
    feeds, constants = {"x": numbers(0, 1, 16, 9, 9)}, {"w": numbers(1, *weight)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=group)]
    artifact = check(nodes, feeds, constants, math.prod(weight[2:]))
    assert "CUDADepthwise" not in rules(artifact)


@pytest.mark.skipif(
    cuda_images.compiler_name() is None, reason="neither NVRTC nor nvcc is installed"
)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_images_spill_nothing(kernel, stride):
    w = helper.make_tensor(
        "w", TensorProto.FLOAT, [144, 1, kernel, kernel], [0.5] * 144 * kernel**2
    )
    value = helper.make_tensor_value_info
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], group=144, strides=[stride] * 2, pads=[kernel // 2] * 4
    )
    shape = [8, 144, 56 // stride, 56 // stride]
    x, y = value("x", 1, [8, 144, 56, 56]), value("y", 1, shape)
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [w]),
        opset_imports=[helper.make_opsetid("", 22)],
    )
    artifact = athanor.compile(model, "cuda -arch=sm_80,sm_90a", precision="fp16")
    device = artifact.metadata["device"]
    (launch,) = [
        launch
        for each in device["kernels"].values()
        if each["rule"] == "CUDADepthwise"
        for launch in each["launches"]
    ]
    for image in device["images"][:2]:
        used = image["functions"][launch["function"]]
        assert used["stack_bytes"] == 0 and used["registers"] <= 128
