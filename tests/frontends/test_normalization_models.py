"""Normalizations compiled the whole way, alone and between convolutions, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import parser

from .artifact import compare, compare_node
from .execute import floats

LOOSE = dict(rtol=1e-3, atol=1e-4)
SHAPES = [(2, 6, 1), (1, 6, 33), (2, 6, 13, 11), (1, 12, 40, 40), (1, 6, 3, 5, 7), (1, 6, 64, 80)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_instance_normalization(shape):
    inputs = [floats(*shape) + 50, floats(shape[1], seed=1), floats(shape[1], seed=2)]
    compare_node("InstanceNormalization", inputs, **LOOSE)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_group_normalization(shape, groups):
    inputs = [floats(*shape) + 3, floats(shape[1], seed=1), floats(shape[1], seed=2)]
    compare_node("GroupNormalization", inputs, opset=21, num_groups=groups, **LOOSE)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 4, 96), (1, 2, 1)], ids=str)
def test_rms_normalization(shape, axis):
    inputs = [floats(*shape), floats(*shape[axis:], seed=1)]
    compare_node("RMSNormalization", inputs, opset=23, axis=axis, **LOOSE)


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_spoils_its_own_channels_alone(op, value):
    x = floats(1, 6, 9, 7)
    x[0, 3, 4, 5] = value
    options = dict(opset=21, num_groups=3) if op == "GroupNormalization" else {}
    (result,) = compare_node(op, [x, floats(6, seed=1), floats(6, seed=2)], **LOOSE, **options)
    assert np.isnan(result).any() and np.isfinite(result).any()


def test_a_batch_and_sides_that_only_the_run_knows():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[n, 6, h, w] x, float[6] s, float[6] b)
            => (float[n, 6, h, w] y, float[n, 6, h, w] z)
        { y = GroupNormalization <num_groups = 3> (x, s, b)  z = InstanceNormalization (x, s, b) }
    """)
    feeds = {"x": floats(2, 6, 9, 11), "s": floats(6, seed=1), "b": floats(6, seed=2)}
    compare(model, feeds, **LOOSE)


@pytest.mark.parametrize("channels", [20, 32])
def test_instance_normalization_stays_in_blocks_of_channels(channels):
    """Between convolutions; 20 channels leave a block of 16 with lanes that hold nothing."""
    model = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[1, {channels}, 19, 17] x) => (float[1, {channels}, 19, 17] y) {{
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
            b = InstanceNormalization (a, s, o)
            c = Relu (b)
            d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, w)
            e = InstanceNormalization (d, s, o)
            y = Add (e, x)
        }}
    """)
    weights = dict(w=(channels, channels, 3, 3), s=(channels,), o=(channels,))
    for seed, (name, shape) in enumerate(weights.items()):
        array = floats(*shape, seed=seed) * np.float32(0.2)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    compare(model, {"x": floats(1, channels, 19, 17)}, **LOOSE)
