"""precision="bf16": products of rounded numbers, against their exact value."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import athanor
from athanor.errors import CompileError
from athanor.targets import TARGETS, target_for_precision
from athanor.targets.detect import cpu_features

torch = pytest.importorskip("torch")

TARGET = "x86-64-v4+avx512bf16"
runs_bf16 = pytest.mark.skipif(
    not cpu_features().issuperset(TARGETS[TARGET].cpu_features), reason="needs AVX512_BF16"
)


def random(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def rounded(array):
    return array.astype(ml_dtypes.bfloat16).astype("float64")


def model(nodes, inputs, weights, rank):
    """Inputs: shape by name; the output is `y`, of that rank."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    wanted = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{i}" for i in range(rank)])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values, [wanted], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compute(made, threads=1, **feeds):
    artifact = athanor.compile(made, precision="bf16")
    assert artifact.metadata["precision"] == "bf16"
    return artifact.load(threads=threads).run(feeds)["y"]


def close(actual, exact):
    scale = np.abs(exact[np.isfinite(exact)]).max(initial=1e-30)
    np.testing.assert_allclose(actual, exact, rtol=2e-6, atol=2e-6 * scale)


def product(rows, weight):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], {"x": rows}, {"w": weight}, len(rows))


SHAPES = [(5, 6, 33), (33, 64, 100), (1, 128, 40), (29, 700, 17), (3, 2, 64), (130, 96, 31)]


@runs_bf16
@pytest.mark.parametrize("m, k, n", SHAPES)
def test_matrix_product(m, k, n):
    x, weight = random(m, k), random(k, n, seed=4)
    close(compute(product([m, k], weight), x=x), rounded(x) @ rounded(weight))


@runs_bf16
@pytest.mark.parametrize("m", [1, 7, 40])
def test_symbolic_rows(m):
    x, weight = random(m, 50), random(50, 35, seed=4)
    close(compute(product(["rows", 50], weight), x=x), rounded(x) @ rounded(weight))


@runs_bf16
def test_an_odd_sum_stays_in_fp32():
    x, weight = random(9, 33), random(33, 40, seed=4)
    close(compute(product([9, 33], weight), x=x), x.astype("float64") @ weight)


@runs_bf16
def test_threads_agree():
    x, weight = random(96, 256), random(256, 200, seed=4)
    made = product([96, 256], weight)
    np.testing.assert_array_equal(compute(made, 2, x=x), compute(made, x=x))


CONVOLUTIONS = {
    # channels, height, width, outputs, kernel, stride, padding, dilation, groups, batch
    "1x1": (16, 5, 5, 16, 1, 1, 0, 1, 1, 1),
    "3x3 padded": (64, 7, 7, 64, 3, 1, 1, 1, 1, 1),
    "half-full blocks, strided": (40, 9, 11, 24, 3, 2, 1, 1, 1, 2),
    "1x1 strided, gathered": (64, 14, 14, 128, 1, 2, 0, 1, 1, 1),
    "dilated": (64, 13, 13, 64, 3, 1, 2, 2, 1, 1),
    "groups": (96, 7, 7, 96, 3, 1, 1, 1, 4, 1),
    "groups across blocks": (36, 7, 7, 44, 3, 1, 1, 1, 2, 1),
    "odd channels": (17, 6, 5, 19, 5, 1, 2, 1, 1, 3),
    "an image": (3, 17, 19, 20, 7, 2, 3, 1, 1, 1),
    "one channel, even kernel": (1, 9, 8, 16, 6, 1, 2, 1, 1, 2),
    "two channels in two groups": (2, 9, 8, 16, 7, 1, 2, 1, 2, 1),
    "three channels, dilated": (3, 9, 11, 16, 3, 1, 2, 2, 1, 1),
    "five channels, 1x1": (5, 9, 9, 16, 1, 1, 0, 1, 1, 1),
    "depthwise": (32, 9, 9, 32, 3, 1, 1, 1, 32, 1),
}
STAYS_FP32 = ("five channels, 1x1", "three channels, dilated", "depthwise")


def convolution(case, batch=None):
    channels, height, width, outputs, kernel, stride, padding, dilation, groups, images = case
    weight = random(outputs, channels // groups, kernel, kernel, seed=5)
    node = helper.make_node(
        "Conv", ["x", "w"], ["c"], strides=[stride] * 2, pads=[padding] * 4,
        dilations=[dilation] * 2, group=groups,
    )  # fmt: skip
    shape = [batch or images, channels, height, width]
    made = model([node, helper.make_node("Relu", ["c"], ["y"])], {"x": shape}, {"w": weight}, 4)
    return made, random(images, channels, height, width), weight


def exact(case, x, weight):
    *_, stride, padding, dilation, groups, _ = case
    operands = (torch.tensor(np.asarray(a, "float64")) for a in (x, weight))
    made = torch.nn.functional.conv2d(*operands, None, stride, padding, dilation, groups)
    return torch.relu(made).numpy()


@runs_bf16
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    case = CONVOLUTIONS[name]
    made, x, weight = convolution(case)
    operands = (x, weight) if name in STAYS_FP32 else (rounded(x), rounded(weight))
    close(compute(made, x=x), exact(case, *operands))


@runs_bf16
def test_symbolic_batch():
    case = (*CONVOLUTIONS["3x3 padded"][:-1], 3)
    made, x, weight = convolution(case, batch="n")
    close(compute(made, x=x), exact(case, rounded(x), rounded(weight)))


@runs_bf16
def test_what_is_added_later_is_kept_rounded():
    """A residual block: the convolution reads x in bfloat16, and so does the addition."""
    weight, first = random(16, 16, 3, 3, seed=5), random(16, 16, 1, 1, seed=6)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "a"], ["y"]),
    ]
    made = model(nodes, {"x": [1, 16, 6, 6]}, {"w": weight, "v": first}, 4)
    x = random(1, 16, 6, 6)
    tensors = (torch.tensor(rounded(array)) for array in (x, first, weight))
    data, one, two = tensors
    conv = torch.nn.functional.conv2d
    kept = rounded(conv(data, one).numpy().astype("float32"))
    wanted = conv(torch.tensor(kept), two, padding=1).numpy() + kept
    actual = compute(made, x=x)
    # what float32 and float64 round differently is off by a unit of bfloat16
    assert np.abs(actual - wanted).max() <= 4e-3 * np.abs(wanted).max()
    assert np.mean(np.abs(actual - wanted)) <= 1e-4 * np.abs(wanted).max()


@runs_bf16
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_pixels_of_an_image(value):
    """A tap that is in two pairs counts once: an infinity does not meet a zero."""
    case = (3, 11, 11, 16, 5, 1, 2, 1, 1, 1)
    made, x, weight = convolution(case)
    x[0, 1, 4, 6] = value
    actual, wanted = compute(made, x=x), exact(case, rounded(x), rounded(weight))
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(wanted))
    assert not np.isnan(actual).any()
    close(actual[np.isfinite(wanted)], wanted[np.isfinite(wanted)])


EXTREMES = [np.nan, np.inf, -np.inf, 3.4e38, 1e-40, -0.0]


@runs_bf16
@pytest.mark.parametrize("value", EXTREMES)
def test_extreme_values(value):
    """Rounded as NumPy's bfloat16 is: 3.4e38 becomes infinite; denormal numbers count as zeros."""
    x, weight = random(20, 64), random(64, 48, seed=4)
    x[7, 9] = value
    left = rounded(x)
    left[np.abs(left) < 1e-38] = 0
    with np.errstate(invalid="ignore"):
        wanted = left @ rounded(weight)
    actual = compute(product([20, 64], weight), x=x)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    known = np.isfinite(wanted)
    np.testing.assert_array_equal(actual[~known], wanted[~known])
    close(actual[known], wanted[known])


@runs_bf16
def test_a_nan_of_all_ones_stays_one():
    x = random(4, 64)
    x.view(np.uint32)[2, 5] = 0x7FFFFFFF
    actual = compute(product([4, 64], random(64, 48, seed=4)), x=x)
    assert np.isnan(actual[2]).all() and not np.isnan(actual[[0, 1, 3]]).any()


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_targets_without_dot_products_are_refused(target):
    message = rf"precision='bf16': target '{target}' .* has no dot .*compile for '{TARGET}', or"
    with pytest.raises(CompileError, match=message.replace("+", r"\+")):
        athanor.compile(product([2, 4], random(4, 4)), target, precision="bf16")


def test_unknown_precision():
    with pytest.raises(CompileError, match=r"precision='int8': expected fp32 or tf32"):
        athanor.compile(product([2, 4], random(4, 4)), precision="int8")


def test_a_target_by_name_compiles_anywhere():
    target = target_for_precision(TARGET, "bf16")
    assert "avx512_bf16" in target.cpu_features
    artifact = athanor.compile(product([8, 64], random(64, 64)), TARGET, precision="bf16")
    assert "avx512_bf16" in artifact.metadata["target"]["cpu_features"]


def test_fp32_asks_for_no_more_than_before():
    artifact = athanor.compile(product([8, 64], random(64, 64)))
    assert "avx512_bf16" not in artifact.metadata["target"]["cpu_features"]
    assert artifact.metadata["precision"] == "fp32"
