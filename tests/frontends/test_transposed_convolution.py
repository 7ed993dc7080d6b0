"""Transposed convolutions with constant weights, the whole way; against ONNX Runtime."""

import numpy as np
import pytest
from onnx import helper

import athanor
from athanor.compiler.passes import blocked_transposed

from .artifact import compare, compare_node
from .execute import floats, one_node

CASES = {
    "1-D, groups": dict(
        x=(2, 6, 5), w=(6, 2, 5), group=3, strides=[3], pads=[1, 2], output_padding=[2]
    ),
    "few channels": dict(x=(1, 18, 5, 7), w=(18, 3, 6, 5), strides=[3, 2], pads=[1, 2, 0, 1]),
    "of an image": dict(x=(1, 3, 5, 7), w=(3, 5, 3, 3), strides=[2, 2], pads=[1, 1, 0, 0]),
    "stride 1": dict(x=(1, 17, 5, 7), w=(17, 21, 3, 3), pads=[1, 1, 1, 1]),
    "stride 1, even": dict(x=(2, 17, 5, 7), w=(17, 21, 2, 2), pads=[1, 0, 1, 1]),
    "stride 1 of an axis": dict(x=(1, 4, 5, 7), w=(4, 3, 3, 3), strides=[1, 2]),
    "pads past the kernel": dict(x=(1, 3, 8, 8), w=(3, 4, 2, 2), pads=[3, 0, 0, 2]),
    "gaps": dict(x=(1, 3, 5, 5), w=(3, 4, 2, 1), strides=[3, 4], output_padding=[2, 1]),
    "groups": dict(x=(1, 8, 4, 5), w=(8, 5, 4, 4), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    "depthwise": dict(x=(1, 6, 4, 5), w=(6, 1, 4, 4), group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
    "full blocks": dict(x=(1, 16, 4, 5), w=(16, 32, 2, 2), strides=[2, 2], pads=[0, 1, 1, 0]),
    "dilated": dict(x=(1, 4, 4, 5), w=(4, 3, 3, 3), dilations=[2, 2]),
    "uneven phases": dict(
        x=(1, 20, 4, 5), w=(20, 16, 3, 5), strides=[2, 3], pads=[1, 2, 0, 1], output_padding=[1, 2]
    ),
    "uneven phases, plain input": dict(x=(2, 3, 5, 4), w=(3, 32, 3, 3), strides=[2, 2]),
    "phases without taps": dict(
        x=(1, 16, 4, 3), w=(16, 16, 2, 1), strides=[3, 2], pads=[1, 0, 0, 0]
    ),
    "one pixel, uneven": dict(x=(1, 16, 1, 1), w=(16, 16, 5, 3), strides=[2, 2], pads=[2, 1, 2, 1]),
    "one pixel": dict(x=(1, 20, 1, 1), w=(20, 7, 4, 4), strides=[2, 2]),
}


def prepared(case):
    options = dict(CASES[case])
    return [floats(*options.pop("x")), floats(*options.pop("w"), seed=1)], options


@pytest.mark.parametrize("case", CASES)
def test_transposed_convolution(case):
    inputs, options = prepared(case)
    compare_node("ConvTranspose", inputs, constants=(1,), rtol=1e-4, atol=1e-5, **options)


@pytest.mark.parametrize("case", ["few channels", "stride 1", "groups", "uneven phases"])
def test_symbolic_sizes(case):
    inputs, options = prepared(case)
    shapes = {0: ["batch", inputs[0].shape[1], "height", "width"]}
    options |= dict(constants=(1,), shapes=shapes, rtol=1e-4, atol=1e-5)
    compare_node("ConvTranspose", inputs, **options)


@pytest.mark.parametrize("case", [case for case in CASES if "pads past" not in case])
def test_an_infinity_stays_where_it_reaches(case):
    """Results that a kernel's taps do not connect with an infinite input are finite."""
    inputs, options = prepared(case)
    inputs[0][(0, 2, *(size // 2 for size in inputs[0].shape[2:]))] = np.inf
    (result,) = compare_node(
        "ConvTranspose", inputs, constants=(1,), rtol=1e-4, atol=1e-4, **options
    )
    assert np.isinf(result).any() and not np.isnan(result).any()


CUT = {
    "wasteful edges": dict(x=(1, 96, 3, 4), w=(96, 64, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "one row": dict(x=(2, 64, 1, 5), w=(64, 112, 6, 4), strides=[3, 2], pads=[2, 1, 1, 1]),
}


@pytest.mark.parametrize("case", CUT)
def test_rows_that_are_cut_off_are_not_computed(case, monkeypatch):
    monkeypatch.setattr(blocked_transposed, "PART_CYCLES", 0)
    options = dict(CUT[case])
    inputs = [floats(*options.pop("x")), floats(*options.pop("w"), seed=1)]
    options |= dict(constants=(1,))
    compare_node("ConvTranspose", inputs, rtol=1e-4, atol=1e-4, **options)
    artifact = athanor.compile(one_node("ConvTranspose", inputs, **options))
    kernels = [kernel["name"] for kernel in artifact.metadata["kernels"]]
    assert sum("conv2d" in name for name in kernels) > 1  # equal ones are one


@pytest.mark.parametrize("channels", [5, 16])
def test_with_readers_that_want_blocks(channels):
    """Bias, activation and a convolution behind, whose input is blocked or is not worth it."""
    weights = {
        "w": floats(18, channels, 4, 4, seed=1),
        "b": floats(channels, seed=2),
        "v": floats(24, channels, 3, 3, seed=3),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["t"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4),
    ]
    x = floats(1, 18, 5, 6)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info("y", 1, (1, 24, 10, 12))],
        [
            helper.make_tensor(name, 1, v.shape, v.tobytes(), raw=True)
            for name, v in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (result,) = compare(model, {"x": x}, rtol=1e-4, atol=1e-4)
    assert np.isfinite(result).all()
