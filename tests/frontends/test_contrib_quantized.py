"""Operators of the com.microsoft domain on 8-bit tensors, against ONNX Runtime.

ONNX Runtime multiplies by reciprocals or looks values up where the definition divides, so results
may differ by one step.
"""

import numpy as np
import pytest

from .artifact import compare_node, ours, runtime
from .execute import floats, one_node
from .test_quantization import integers, scales

MS = "com.microsoft"


def within_one_step(op, inputs, **options):
    """Equal up to one step of the result, in at most a fiftieth of the elements."""
    model = one_node(op, inputs, domain=MS, **options)
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    feeds = {value.name: feeds[value.name] for value in model.graph.input}
    (mine,), (theirs,) = ours(model, feeds), runtime(model, feeds)
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    steps = np.abs(mine.astype(int) - theirs.astype(int))
    assert steps.max(initial=0) <= 1 and np.count_nonzero(steps) <= max(1, steps.size // 50)


def real(value):
    """A scale."""
    return np.array(value, np.float32)


def point(dtype, value=5):
    """A zero point."""
    return np.array(value, dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shapes", [((3, 5), (3, 5)), ((2, 3, 7), (7,)), ((3, 1), (4,))], ids=str)
def test_binary(op, shapes, dtype):
    a, b = (integers(dtype, *shape, seed=i) for i, shape in enumerate(shapes))
    inputs = [
        a,
        real(0.0313),
        point(dtype),
        b,
        real(0.0517),
        point(dtype, 2),
        real(0.0619),
        point(dtype),
    ]
    within_one_step(op, inputs)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_unary(op, dtype):
    x = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    inputs = [x, real(0.0517), point(dtype), real(0.0207), point(dtype, 3)]
    within_one_step(op, inputs, constants=(1, 2, 3, 4))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("last", [0, 1])
def test_pools(dtype, last):
    x = integers(dtype, 2, 7, 6, 5)
    inputs = [x, real(0.0517), point(dtype), real(0.0313), point(dtype, 3)]
    within_one_step("QLinearGlobalAveragePool", inputs, channels_last=last)
    options = dict(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], channels_last=last)
    within_one_step("QLinearAveragePool", inputs, constants=(1, 2, 3, 4), **options)


@pytest.mark.parametrize("axis", [0, -1])
def test_concat(axis):
    parts = [integers("uint8", 2, 3), integers("uint8", 2, 3, seed=1)]
    inputs = [real(0.0517), point("uint8"), parts[0], real(0.0313), point("uint8", 9)]
    inputs += [parts[1], real(0.0517), point("uint8")]
    constants = (0, 1, 3, 4, 6, 7)
    within_one_step("QLinearConcat", inputs, axis=axis, constants=constants)


def test_quantize_and_dequantize():
    x = floats(3, 4) * 9
    for scale, zero, options in (
        (real(0.0517), point("int8"), {}),
        (scales(4), integers("int8", 4), dict(axis=1)),
    ):
        inputs = [x, scale, zero]
        compare_node("QuantizeLinear", inputs, domain=MS, **options)
        inputs = [integers("int8", 3, 4), scale, zero]
        compare_node("DequantizeLinear", inputs, domain=MS, **options)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 33), (1, 1)], ids=str)
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_products_as_float(shape, per_column, bias):
    count = (6,) if per_column else ()
    # 7 bits: ONNX Runtime's sums saturate on processors without VNNI
    b = integers("int8", shape[-1], 6, seed=1) // np.int8(2)
    b_scale, b_point = scales(*count), np.zeros(count, np.int8)
    add = [floats(6, seed=2)] if bias else []
    inputs = [floats(*shape), b, b_scale, b_point, *add]
    options = dict(domain=MS, rtol=1e-4, atol=1e-4)
    compare_node("DynamicQuantizeMatMul", inputs, constants=(1, 2, 3), **options)
    inputs = [integers("uint8", *shape), b, real(0.0207), b_scale, point("uint8", 9), b_point, *add]
    compare_node("MatMulIntegerToFloat", inputs, constants=(1, 3, 5), **options)


BITS = [
    dict(K=32, N=4, block_size=16),
    dict(K=50, N=7, block_size=16),
    dict(K=33, N=5, block_size=32, zero="packed"),
    dict(K=50, N=7, block_size=16, zero="packed"),
    dict(K=50, N=7, block_size=16, zero="float"),
    dict(K=50, N=7, block_size=16, zero="packed", bits=8),
    dict(K=32, N=4, block_size=32, bits=8),
    dict(K=128, N=16, block_size=64, bias=True),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("case", BITS, ids=str)
def test_matmul_n_bits(case, constant):
    options = {key: case[key] for key in ("K", "N", "block_size")}
    bits = case.get("bits", 4)
    blocks = -(-case["K"] // case["block_size"])
    width = case["N"]
    packed = integers("uint8", width, blocks, case["block_size"] * bits // 8)
    inputs = [floats(3, case["K"]), packed, scales(width * blocks)]
    zero = case.get("zero")
    if zero == "packed":
        inputs.append(integers("uint8", width * -(-blocks * bits // 8), seed=3))
    if zero == "float":
        inputs.append(floats(width * blocks, seed=3) + np.float32(8))
    if case.get("bias"):
        inputs += [None, None, floats(width, seed=4)]
    constants = range(1, len(inputs)) if constant else ()
    model = one_node("MatMulNBits", inputs, domain=MS, constants=constants, bits=bits, **options)
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    feeds = {value.name: feeds[value.name] for value in model.graph.input}
    expected = runtime(
        one_node(
            "MatMulNBits", inputs, domain=MS, constants=range(1, len(inputs)), bits=bits, **options
        ),
        {"x0": inputs[0]},
    )
    np.testing.assert_allclose(ours(model, feeds)[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("past", [False, True])
def test_quantized_attention(past):
    weight = integers("int8", 8, 24, seed=1) // np.int8(2)
    inputs = [integers("uint8", 2, 3, 8), weight, floats(24, seed=2), real(0.0103), real(0.0127)]
    inputs += [None, point("uint8", 120), point("int8", 0)]
    if past:
        inputs.append(floats(2, 2, 2, 4, 4, seed=3))
    options = dict(num_heads=2, unidirectional=1, outputs=2, constants=(1, 3, 4, 6, 7))
    compare_node("QAttention", inputs, domain=MS, rtol=1e-4, atol=1e-4, **options)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_gemm(per_column, quantized):
    count = (6,) if per_column else ()
    b = integers("int8", 6, 5, seed=1) // np.int8(2)
    bias = np.arange(-300, 300, 100).astype(np.int32)
    inputs = [integers("uint8", 3, 5), real(0.0207), point("uint8", 9), b, scales(*count)]
    inputs += [np.zeros(count, np.int8), bias]
    options = dict(transB=1, alpha=0.7, constants=range(1, 7))
    if quantized:
        inputs += [real(0.2), point("uint8", 100)]
        within_one_step("QGemm", inputs, **options)
    else:
        compare_node("QGemm", inputs, domain=MS, rtol=1e-4, atol=1e-4, **options)
