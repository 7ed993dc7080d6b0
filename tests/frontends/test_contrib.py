"""Operators of the com.microsoft domain, the whole way, against ONNX Runtime."""

import numpy as np
import pytest

from athanor.errors import CompileError

from .artifact import compare_node, ours
from .execute import floats, one_node

MS = "com.microsoft"


def compare(op, inputs, rtol=1e-4, atol=1e-5, **options):
    """One node of com.microsoft against ONNX Runtime."""
    return compare_node(op, inputs, domain=MS, rtol=rtol, atol=atol, **options)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 33)], ids=str)
def test_gelu(shape):
    x, bias = floats(*shape) * 3, floats(shape[-1], seed=1)
    compare("Gelu", [x])
    compare("QuickGelu", [x])
    compare("QuickGelu", [x], alpha=0.7)
    compare("BiasGelu", [x, bias])
    compare("FastGelu", [x])
    compare("FastGelu", [x, bias])


@pytest.mark.parametrize("skip", [(2, 3, 8), (1, 3, 8), (3, 8)], ids=str)
@pytest.mark.parametrize("extra", ["", "beta", "beta bias", "bias"])
def test_skip_layer_normalization(skip, extra):
    inputs = [floats(2, 3, 8), floats(*skip, seed=1), floats(8, seed=2)]
    inputs.append(floats(8, seed=3) if "beta" in extra else None)
    inputs.append(floats(8, seed=4) if "bias" in extra else None)
    options = dict(epsilon=1e-5)
    compare("SkipLayerNormalization", inputs, **options)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_sum_of_skip_normalizations(op):
    """Results 1 and 2 are left out: only training asks for them."""
    inputs = [floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8, seed=2)]
    model = one_node(op, inputs, domain=MS, outputs=4)
    for index in (2, 1):
        model.graph.node[0].output[index] = ""
        del model.graph.output[index]
    total = inputs[0] + inputs[1]
    results = ours(model, {f"x{i}": value for i, value in enumerate(inputs)})
    np.testing.assert_allclose(results[1], total, rtol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_skip_simplified_layer_normalization(bias):
    inputs = [floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8, seed=2)]
    compare("SkipSimplifiedLayerNormalization", inputs + [floats(8, seed=3)] * bias, epsilon=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalization(axis):
    x = floats(2, 3, 8)
    inputs = [x, floats(*x.shape[axis:], seed=1)]
    compare_node("SimplifiedLayerNormalization", inputs, axis=axis, outputs=2, opset=17, rtol=1e-4)


def test_layer_normalization_before_the_standard_had_it():
    inputs = [floats(2, 3, 8), floats(8, seed=1), floats(8, seed=2)]
    compare_node("LayerNormalization", inputs, opset=11, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_embed_layer_normalization(segments, places, mask):
    random = np.random.default_rng(0)
    ids = random.integers(0, 20, (2, 5)).astype(np.int32)
    inputs = [
        ids,
        random.integers(0, 2, (2, 5)).astype(np.int32) if segments else None,
        floats(20, 8, seed=1),
        floats(9, 8, seed=2),
        floats(2, 8, seed=3) if segments else None,
        floats(8, seed=4),
        floats(8, seed=5),
        np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32) if mask else None,
        random.integers(0, 9, (2, 5)).astype(np.int32) if places else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    compare("EmbedLayerNormalization", inputs, outputs=2)


FUSED_MATMUL = [
    dict(a=(3, 5), b=(5, 4)),
    dict(a=(5, 3), b=(5, 4), transA=1, alpha=0.5),
    dict(a=(2, 5, 3), b=(2, 4, 5), transA=1, transB=1, alpha=-2.0),
    dict(a=(2, 3, 5), b=(5, 4)),
    dict(a=(3, 2, 5), b=(2, 5, 4), transBatchA=1),
    dict(a=(2, 3, 5), b=(5, 2, 4), transBatchB=1),
]


@pytest.mark.parametrize("case", FUSED_MATMUL, ids=str)
def test_fused_matmul(case):
    options = {key: value for key, value in case.items() if key not in "ab"}
    compare("FusedMatMul", [floats(*case["a"]), floats(*case["b"], seed=1)], **options)


@pytest.mark.parametrize(
    "activation", [dict(activation="Relu"), dict(activation="LeakyRelu", activation_alpha=0.2)]
)
def test_fused_gemm(activation):
    inputs = [floats(3, 5), floats(4, 5, seed=1), floats(4, seed=2)]
    compare("FusedGemm", inputs, transB=1, alpha=0.5, beta=2.0, **activation)


ACTIVATIONS = [
    dict(activation="Relu"),
    dict(activation="Tanh"),
    dict(activation="Sigmoid"),
    dict(activation="LeakyRelu", activation_params=[0.2]),
    dict(activation="Clip", activation_params=[-0.5, 0.75]),
    dict(activation="HardSigmoid", activation_params=[0.3, 0.4]),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_fused_conv(activation, residual):
    inputs = [floats(1, 3, 7, 6), floats(4, 3, 3, 3, seed=1), floats(4, seed=2)]
    if residual:
        inputs.append(floats(1, 4, 7, 6, seed=3))
    compare("FusedConv", inputs, pads=[1, 1, 1, 1], **activation)


def test_nhwc_conv():
    """Against Conv: ONNX Runtime has NhwcConv on other devices only."""
    x, weight, bias = floats(1, 7, 6, 3), floats(4, 3, 3, 3, seed=1), floats(4, seed=2)
    options = dict(pads=[1, 0, 1, 0], strides=[2, 1])
    model = one_node("NhwcConv", [x, weight, bias], domain=MS, **options)
    (result,) = ours(model, {"x0": x, "x1": weight, "x2": bias})
    swapped = [np.ascontiguousarray(np.moveaxis(value, -1, 1)) for value in (x, weight)]
    feeds = {"x0": swapped[0], "x1": swapped[1], "x2": bias}
    (expected,) = ours(one_node("Conv", [*swapped, bias], **options), feeds)
    np.testing.assert_allclose(result, np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


def test_an_activation_that_is_not_known_is_refused():
    model = one_node("FusedGemm", [floats(3, 5), floats(5, 4)], domain=MS, activation="Gelu")
    with pytest.raises(CompileError, match="activation='Gelu'"):
        ours(model, {"x0": floats(3, 5), "x1": floats(5, 4)})
