"""The random operators: type, shape, seed, and the distribution of what they draw."""

import numpy as np
import onnx
import pytest

from .execute import floats, one_node, run

COUNT = 40_000  # standard error of a mean of standard normals: 0.005


def draw(op, opset=22, **attributes):
    node = onnx.helper.make_node(op, [], ["y"], name="node", **attributes)
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", 1, attributes["shape"])]
    )
    kind = attributes.get("dtype", 1)
    graph.output[0].type.tensor_type.elem_type = kind
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (result,) = run(model, [])
    return result


def kolmogorov(sample, cdf):
    """The largest distance between a sample's distribution and the expected one."""
    values = np.sort(sample.reshape(-1).astype(np.float64))
    steps = np.arange(len(values) + 1) / len(values)
    exact = cdf(values)
    return max(np.abs(exact - steps[:-1]).max(), np.abs(exact - steps[1:]).max())


def normal_cdf(x):
    from math import erf

    return np.array([0.5 * (1 + erf(v / 2**0.5)) for v in x])


@pytest.mark.parametrize("seed", [0.0, 1.0, 2.5])
def test_uniform(seed):
    sample = draw("RandomUniform", shape=[200, COUNT // 200], seed=seed, low=-1.0, high=3.0)
    assert sample.dtype == np.float32 and sample.min() >= -1 and sample.max() <= 3
    # 1.95 / sqrt(n) is passed once in a thousand; the seeds are fixed
    assert kolmogorov(sample, lambda x: (x + 1) / 4) < 1.95 / COUNT**0.5


@pytest.mark.parametrize("seed", [0.0, 1.0, 2.5])
def test_normal(seed):
    sample = draw("RandomNormal", shape=[COUNT], seed=seed, mean=2.0, scale=3.0)
    assert kolmogorov((sample - 2) / 3, normal_cdf) < 1.95 / COUNT**0.5


def test_neighbours_and_bits_are_independent():
    sample = draw("RandomUniform", shape=[COUNT], seed=7.0)
    for lag in (1, 2, 7, 64):
        correlation = np.corrcoef(sample[:-lag], sample[lag:])[0, 1]
        assert abs(correlation) < 4 / COUNT**0.5
    bits = (sample.astype(np.float64) * 2**23).astype(np.int64)
    for bit in range(23):
        assert abs((bits >> bit & 1).mean() - 0.5) < 4 * 0.5 / COUNT**0.5


def test_seeds():
    one, same = (
        draw("RandomNormal", shape=[50], seed=1.0),
        draw("RandomNormal", shape=[50], seed=1.0),
    )
    other = draw("RandomNormal", shape=[50], seed=1.5)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).min() > 0


@pytest.mark.parametrize("dtype", [1, 10, 11])
def test_types(dtype):
    expected = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    for op in ("RandomNormal", "RandomUniform"):
        assert draw(op, shape=[3, 4], dtype=dtype).dtype == expected


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_like(op):
    x = floats(7, 5, dtype=np.float16)
    (result,) = run(one_node(op, [x], shapes={0: ["n", 5]}), [x])
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    (result,) = run(one_node(op, [x.astype(np.int32)], dtype=1), [x.astype(np.int32)])
    assert (result.shape, result.dtype) == (x.shape, np.float32)


def test_bernoulli():
    chances = np.repeat(np.array([0, 0.1, 0.5, 0.9, 1], np.float32), 8000).reshape(5, 8000)
    (result,) = run(one_node("Bernoulli", [chances], seed=3.0), [chances])
    assert result.dtype == np.float32 and set(np.unique(result)) == {0, 1}
    np.testing.assert_allclose(result.mean(axis=1), [0, 0.1, 0.5, 0.9, 1], atol=0.02)
    assert result[0].max() == 0 and result[4].min() == 1
    (result,) = run(one_node("Bernoulli", [chances], dtype=9), [chances])
    assert result.dtype == bool


@pytest.mark.parametrize("dtype", [6, 7])
def test_multinomial(dtype):
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.6, 0.4, 1e-9]], np.float32)) + 5
    options = dict(sample_size=20_000, dtype=dtype, seed=1.0)
    (result,) = run(one_node("Multinomial", [logits], **options), [logits])
    assert result.shape == (2, 20_000)
    assert result.dtype == onnx.helper.tensor_dtype_to_np_dtype(dtype)
    shares = [np.bincount(row, minlength=3) / row.size for row in result]
    np.testing.assert_allclose(shares, [[0.1, 0.2, 0.7], [0.6, 0.4, 0]], atol=0.015)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75])
@pytest.mark.parametrize("training", [True, False])
def test_dropout(ratio, training):
    x = np.ones((100, COUNT // 100), np.float32)
    inputs = [x, np.float32(ratio), np.bool_(training)]
    y, mask = run(one_node("Dropout", inputs, 2, 22, seed=3), inputs)
    if not training:
        ratio = 0.0
    np.testing.assert_allclose(y, mask / np.float32(1 - ratio), rtol=1e-6)
    deviation = (ratio * (1 - ratio) / COUNT) ** 0.5
    assert abs(mask.mean() - (1 - ratio)) <= 4 * deviation


def test_dropout_without_training():
    x = np.arange(6, dtype=np.float32)
    (y,) = run(one_node("Dropout", [x], 1, 22), [x])
    np.testing.assert_array_equal(y, x)
