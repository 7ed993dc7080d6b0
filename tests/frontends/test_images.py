"""Convolution, pooling, normalization and resizing against the onnx reference."""

import numpy as np
import onnxruntime
import pytest

from .execute import check, floats, one_node, run, same


def compare(op, inputs, rtol=1e-4, atol=1e-5, **options):
    """Against ONNX Runtime, which has more of these attributes than the onnx reference."""
    model = one_node(op, inputs, **options)
    model.ir_version = 10
    names = {value.name for value in model.graph.input}
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = run(model, list(feeds.values()))
    for ours, theirs in zip(results, session.run(None, feeds), strict=True):
        same(ours, theirs, rtol, atol)


CONV = [
    dict(x=(1, 3, 9), w=(4, 3, 3), pads=[1, 2], strides=[2]),
    dict(x=(2, 3, 9, 8), w=(4, 3, 3, 2)),
    dict(x=(1, 4, 9, 8), w=(6, 2, 3, 3), group=2, pads=[1, 0, 2, 1], strides=[2, 1]),
    dict(x=(1, 6, 7, 7), w=(6, 1, 3, 3), group=6, pads=[1, 1, 1, 1]),
    dict(x=(1, 2, 9, 9), w=(3, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    dict(x=(1, 2, 9, 8), w=(3, 2, 3, 4), strides=[2, 3], auto_pad="SAME_UPPER"),
    dict(x=(1, 2, 10, 9), w=(3, 2, 4, 4), strides=[2, 3], auto_pad="SAME_LOWER"),
    dict(x=(1, 2, 5, 6, 7), w=(3, 2, 2, 3, 3), pads=[0, 1, 1, 1, 0, 1]),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONV, ids=str)
def test_conv(case, bias):
    options = {key: value for key, value in case.items() if key not in "xw"}
    inputs = [floats(*case["x"]), floats(*case["w"], seed=1)]
    if bias:
        inputs.append(floats(case["w"][0], seed=2))
    compare("Conv", inputs, constants=(1, 2) if bias else (1,), **options)


TRANSPOSED = [
    dict(x=(1, 3, 5), w=(3, 2, 3), strides=[2]),
    dict(x=(1, 3, 5, 6), w=(3, 4, 2, 2), strides=[2, 2]),
    dict(x=(1, 4, 5, 6), w=(4, 3, 3, 3), group=2, strides=[2, 1], pads=[1, 0, 1, 2]),
    dict(x=(1, 2, 4, 4), w=(2, 3, 3, 3), strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]),
    dict(x=(1, 2, 4, 4), w=(2, 3, 3, 3), dilations=[2, 2]),
    dict(x=(1, 2, 4, 4), w=(2, 3, 3, 3), strides=[3, 2], output_shape=[10, 8]),
    dict(x=(1, 2, 4, 5), w=(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    dict(x=(1, 2, 3, 4, 4), w=(2, 1, 2, 3, 3), strides=[2, 1, 2]),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(case):
    options = {key: value for key, value in case.items() if key not in "xw"}
    compare("ConvTranspose", [floats(*case["x"]), floats(*case["w"], seed=1)], **options)


POOL = [
    dict(x=(1, 2, 9), kernel_shape=[3], strides=[2]),
    dict(x=(1, 2, 9, 8), kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 2]),
    dict(x=(1, 2, 10, 10), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    dict(x=(1, 2, 7, 7), kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    dict(x=(1, 2, 8, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    dict(x=(1, 2, 8, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    dict(x=(1, 2, 9, 9), kernel_shape=[2, 3], dilations=[2, 2]),
    dict(x=(1, 2, 4, 5, 6), kernel_shape=[2, 2, 3], strides=[1, 2, 2]),
]


@pytest.mark.parametrize("case", POOL, ids=str)
def test_max_pool(case):
    options = {key: value for key, value in case.items() if key != "x"}
    compare("MaxPool", [floats(*case["x"])], **options)


@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_indices(order):
    x = np.random.default_rng(0).permutation(2 * 3 * 6 * 5).reshape(2, 3, 6, 5).astype(np.float32)
    options = dict(kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], storage_order=order)
    compare("MaxPool", [x], outputs=2, **options)


# ONNX Runtime and the standard differ on whether to count the pads that auto_pad makes.
AVERAGE = [(case, include) for case in POOL for include in (0, 1)[: 1 + ("auto_pad" not in case)]]


@pytest.mark.parametrize("case, include", AVERAGE, ids=str)
def test_average_pool(case, include):
    options = {key: value for key, value in case.items() if key != "x"}
    check("AveragePool", [floats(*case["x"])], count_include_pad=include, rtol=1e-4, **options)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 4, 5, 6), (1, 2, 3, 4, 5)])
def test_global_pool(op, shape):
    compare(op, [floats(*shape)], opset=20)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p):
    compare("LpPool", [floats(1, 2, 8, 7)], kernel_shape=[3, 2], strides=[2, 2], p=p)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 16, 17])
@pytest.mark.parametrize("image", [(3, 4), (13, 13)])
def test_lrn(size, image):
    """Against NumPy: the onnx reference leaves channels out, ONNX Runtime has no even sizes."""
    x = floats(2, 7, *image)
    model = one_node("LRN", [x], size=size, alpha=0.3, beta=0.6, bias=1.5)
    (result,) = run(model, [x])
    squares = np.zeros_like(x)
    for channel in range(7):
        first, last = channel - (size - 1) // 2, channel + size // 2
        squares[:, channel] = (x[:, max(first, 0) : last + 1] ** 2).sum(axis=1)
    np.testing.assert_allclose(result, x / (1.5 + 0.3 / size * squares) ** 0.6, rtol=1e-4)


@pytest.mark.parametrize("constant", [False, True])
def test_batch_normalization(constant):
    vectors = [floats(5, seed=i) for i in range(1, 4)] + [np.abs(floats(5, seed=4))]
    constants = (1, 2, 3, 4) if constant else ()
    inputs = [floats(2, 5, 3, 4), *vectors]
    check("BatchNormalization", inputs, constants=constants, epsilon=1e-2, rtol=1e-4)


def test_batch_normalization_in_training():
    """By the batch's own statistics; what it learns of them are the results that follow."""
    vectors = [floats(5, seed=i) for i in range(1, 4)] + [np.abs(floats(5, seed=4))]
    inputs = [floats(2, 5, 3, 4), *vectors]
    options = dict(outputs=3, training_mode=1, momentum=0.8)
    check("BatchNormalization", inputs, rtol=1e-4, atol=1e-5, **options)


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(axis, bias):
    x = floats(2, 3, 4) + 100  # a large mean: one-pass variance would lose its digits
    shape = x.shape[axis:]
    inputs = [x, floats(*shape, seed=1)] + ([floats(*shape, seed=2)] if bias else [])
    check("LayerNormalization", inputs, axis=axis, outputs=3, rtol=1e-3, atol=1e-4)


def test_layer_normalization_scale_that_broadcasts():
    check("LayerNormalization", [floats(2, 3, 4), floats(4, seed=1)], axis=1, rtol=1e-4)


def test_instance_normalization():
    inputs = [floats(2, 3, 5, 4), floats(3, seed=1), floats(3, seed=2)]
    check("InstanceNormalization", inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("opset", "count"), [(21, 6)])
def test_group_normalization(opset, count):
    inputs = [floats(2, 6, 5, 4), floats(count, seed=1), floats(count, seed=2)]
    check("GroupNormalization", inputs, opset=opset, num_groups=2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p):
    compare("LpNormalization", [floats(3, 4, 2)], axis=1, p=p)


RESIZE = [
    dict(scales=[1, 1, 2, 3]),
    dict(scales=[1, 1, 0.6, 0.4], nearest_mode="floor"),
    dict(sizes=[1, 2, 7, 9], nearest_mode="round_prefer_ceil"),
    dict(scales=[1, 1, 2, 2], mode="linear"),
    dict(sizes=[1, 2, 7, 9], mode="linear", coordinate_transformation_mode="align_corners"),
    dict(sizes=[1, 2, 3, 3], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    dict(scales=[1, 1, 2, 2], mode="cubic"),
    dict(sizes=[1, 2, 9, 3], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    dict(scales=[1, 1, 2, 2], mode="linear", coordinate_transformation_mode="asymmetric"),
    dict(sizes=[1, 2, 2, 3], mode="linear", antialias=1),
    dict(sizes=[1, 2, 2, 3], mode="cubic", antialias=1),
]


@pytest.mark.parametrize("case", RESIZE, ids=str)
def test_resize(case):
    options = {key: value for key, value in case.items() if key not in ("scales", "sizes")}
    scales = np.array(case["scales"], np.float32) if "scales" in case else None
    sizes = np.array(case["sizes"], np.int64) if "sizes" in case else None
    inputs = [floats(1, 2, 5, 6), None, scales, sizes]
    check("Resize", inputs, opset=19, constants=(2, 3), rtol=1e-4, atol=1e-5, **options)
