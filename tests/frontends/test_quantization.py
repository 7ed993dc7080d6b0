"""The quantized operators of the standard, the whole way, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

from athanor.errors import CompileError

from .artifact import compare_node, ours, reference, runtime
from .execute import floats, one_node


def integers(dtype, *shape, seed=0):
    """Seeded values over the whole range of the type."""
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(limits.min, limits.max, shape, endpoint=True)
    return np.asarray(values, dtype)


def scales(*shape, seed=0):
    """Seeded positive float32 values."""
    return np.asarray(np.random.default_rng(seed).uniform(0.01, 0.2, shape), np.float32)


EDGES = np.array(
    [0, -0.0, 0.25, 0.75, 1.25, -0.25, -0.75, 1e9, -1e9, np.inf, -np.inf, np.nan, 63.5, -64.25],
    np.float32,
)
TYPES = ["int8", "uint8", "int16", "uint16"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("constants", [(), (1, 2)], ids=["inputs", "constants"])
def test_quantize_edges(dtype, constants):
    """Ties to even, saturation, infinities and NaN, around a zero point."""
    inputs = [EDGES, np.array(0.5, np.float32), np.array(3, dtype)]
    compare_node("QuantizeLinear", inputs, opset=21, constants=constants)


AXES = [
    dict(x=(3, 5), scale=(5,), axis=1),
    dict(x=(3, 5), scale=(3,), axis=-2),
    dict(x=(2, 3, 4, 5), scale=(3,), axis=1),
    dict(x=(7,), scale=(7,), axis=0),
    dict(x=(7,), scale=(1,), axis=0),
    dict(x=(), scale=()),
    dict(x=(0, 3), scale=(3,), axis=1),
    dict(x=(2, 7, 3), scale=(2, 3, 3), axis=1, block_size=3),
    dict(x=(5, 8), scale=(5, 2), axis=-1, block_size=4),
    dict(x=(5, 2), scale=(2, 2), axis=0, block_size=3),
]


@pytest.mark.parametrize("case", AXES, ids=str)
@pytest.mark.parametrize("dtype", ["int8", "uint16"])
@pytest.mark.parametrize("with_point", [True, False])
def test_quantize_and_dequantize(case, dtype, with_point):
    options = {key: value for key, value in case.items() if key not in ("x", "scale")}
    scale = scales(*case["scale"])
    point = (
        [np.asarray(integers(dtype, *case["scale"], seed=2) // np.array(4, dtype))]
        if with_point
        else []
    )
    if not with_point:
        dtype = "uint8"
    x = integers(dtype, *case["x"], seed=1)
    # ONNX Runtime has no partial blocks
    against = reference if "block_size" in case else runtime
    compare_node("DequantizeLinear", [x, scale, *point], against, opset=21, **options)
    x = np.asarray(floats(*case["x"]) * np.float32(300))
    compare_node("QuantizeLinear", [x, scale, *point], against, opset=21, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_dequantize_constants_at_import(dtype):
    inputs = [integers(dtype, 4, 6), scales(6), integers(dtype, 6, seed=1)]
    compare_node("DequantizeLinear", inputs, opset=21, constants=(0, 1, 2), axis=1)


def test_dequantize_int32():
    inputs = [integers("int32", 4, 6), np.array(0.01, np.float32)]
    compare_node("DequantizeLinear", inputs, opset=13)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23, 25])
def test_every_opset(opset):
    point = np.array(-5, np.int8)
    scale = np.array(0.05, np.float32)
    compare_node("QuantizeLinear", [floats(3, 4), scale, point], reference, opset=opset)
    compare_node("DequantizeLinear", [integers("int8", 3, 4), scale, point], runtime, opset=opset)


@pytest.mark.parametrize("dtype", TYPES)
def test_output_dtype(dtype):
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [floats(3, 4) * 9, np.array(0.05, np.float32)]
    compare_node("QuantizeLinear", inputs, reference, opset=23, output_dtype=kind)


def test_output_dtype_of_dequantize():
    inputs = [integers("int8", 3, 4), np.array(0.05, np.float16), np.array(3, np.int8)]
    kind = onnx.TensorProto.FLOAT
    compare_node("DequantizeLinear", inputs, reference, opset=23, output_dtype=kind)
    compare_node("DequantizeLinear", inputs, reference, opset=23, rtol=1e-3)


def test_half_precision_divides_in_half():
    inputs = [floats(64).astype(np.float16), np.array(0.05, np.float16), np.array(3, np.uint8)]
    compare_node("QuantizeLinear", inputs, reference, opset=23)
    kind = onnx.TensorProto.FLOAT
    compare_node("QuantizeLinear", inputs, reference, opset=23, precision=kind)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1,), ()], ids=str)
@pytest.mark.parametrize("shift", [0.0, 9.0, -9.0])
def test_dynamic_quantize(shape, shift):
    x = np.asarray(floats(*shape) + np.float32(shift))
    compare_node("DynamicQuantizeLinear", [x], outputs=3, opset=11)


def test_dynamic_quantize_of_zeros():
    compare_node("DynamicQuantizeLinear", [np.zeros((3, 4), np.float32)], outputs=3, opset=11)


PRODUCTS = [
    ((1, 1), (1, 1)),
    ((3, 5), (5, 7)),
    ((17, 300), (300, 33)),
    ((2, 3, 5), (2, 5, 4)),
    ((2, 3, 5), (5, 4)),
    ((1, 64), (64, 128)),
]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("a", "b"), PRODUCTS, ids=str)
@pytest.mark.parametrize("kinds", [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
def test_matmul_integer(a, b, kinds, constant):
    left, right = integers(kinds[0], *a), integers(kinds[1], *b, seed=1)
    points = [np.array(7, kinds[0]), np.array(-9 if kinds[1] == "int8" else 9, kinds[1])]
    constants = (1, 2, 3) if constant else ()
    inputs = [left, right, *points]
    # ONNX Runtime's sums of uint8 times int8 saturate at 16 bits on processors without VNNI
    compare_node("MatMulInteger", inputs, reference, opset=10, constants=constants)


def test_matmul_integer_points_per_column():
    inputs = [integers("uint8", 3, 5), integers("int8", 5, 4), np.array(3, np.uint8)]
    points = integers("int8", 4, seed=3)
    compare_node("MatMulInteger", [*inputs, points], reference, opset=10)
    compare_node("MatMulInteger", inputs[:2], reference, opset=10)


def test_matmul_integer_points_per_row():
    inputs = [integers("uint8", 3, 5), integers("int8", 5, 4), integers("uint8", 3)]
    left = inputs[0].astype(np.int32) - inputs[2].astype(np.int32)[:, None]
    model = one_node("MatMulInteger", inputs, opset=10)
    (result,) = ours(model, {f"x{i}": value for i, value in enumerate(inputs)})
    np.testing.assert_array_equal(result, left @ inputs[1].astype(np.int32))


# ONNX Runtime has one scale per column only for matrices.
SCALED = [(*pair, many) for pair in PRODUCTS for many in (False, True)[: 1 + (len(pair[1]) <= 2)]]


@pytest.mark.parametrize(("a", "b", "per_column"), SCALED, ids=str)
def test_qlinear_matmul(a, b, per_column):
    count = b[-1:] if per_column else ()
    inputs = [
        integers("uint8", *a),
        np.array(0.02, np.float32),
        np.array(120, np.uint8),
        # 7 bits: see test_matmul_integer on ONNX Runtime's sums
        integers("int8", *b, seed=1) // np.int8(2),
        scales(*count, seed=2),
        np.zeros(count, np.int8),
        np.array(0.05 * a[-1] ** 0.5, np.float32),
        np.array(110, np.uint8),
    ]
    compare_node("QLinearMatMul", inputs, opset=21, constants=(3, 4, 5))


CONVOLUTIONS = [
    dict(x=(1, 1, 5, 5), w=(1, 1, 3, 3)),
    dict(x=(1, 3, 9, 8), w=(4, 3, 3, 2), pads=[1, 0, 2, 1], strides=[2, 1]),
    dict(x=(2, 4, 9, 8), w=(6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    dict(x=(1, 16, 7, 7), w=(16, 1, 3, 3), group=16, pads=[1, 1, 1, 1]),
    dict(x=(1, 32, 14, 14), w=(64, 32, 1, 1)),
    dict(x=(1, 16, 15, 13), w=(32, 16, 3, 3), pads=[1, 1, 1, 1]),
    dict(x=(1, 2, 9, 9), w=(3, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    dict(x=(1, 3, 9), w=(4, 3, 3), pads=[1, 1]),
    dict(x=(1, 2, 5, 6, 7), w=(3, 2, 2, 3, 3), pads=[0, 1, 1, 1, 0, 1]),
    dict(x=(1, 2, 9, 8), w=(3, 2, 3, 4), strides=[2, 3], auto_pad="SAME_UPPER"),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv_integer(case):
    options = {key: value for key, value in case.items() if key not in "xw"}
    inputs = [integers("uint8", *case["x"]), integers("uint8", *case["w"], seed=1)]
    points = [np.array(7, np.uint8), np.array(130, np.uint8)]
    compare_node("ConvInteger", [*inputs, *points], opset=10, constants=(1, 2, 3), **options)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(case, per_channel):
    options = {key: value for key, value in case.items() if key not in "xw"}
    outputs = case["w"][0]
    count = (outputs,) if per_channel else ()
    depth = int(np.prod(case["w"][1:]))
    inputs = [
        integers("uint8", *case["x"]),
        np.array(0.03, np.float32),
        np.array(100, np.uint8),
        # Seven bits: with eight, ONNX Runtime's sums of two products saturate on AVX2 machines.
        integers("int8", *case["w"], seed=1) // 2,
        scales(*count, seed=2),
        np.zeros(count, np.int8),
        np.array(0.2 * depth**0.5, np.float32),
        np.array(128, np.uint8),
        np.random.default_rng(3).integers(-3000, 3000, outputs).astype(np.int32),
    ]
    compare_node("QLinearConv", inputs, opset=10, constants=range(1, 9), **options)


def test_symbolic_dimensions():
    inputs = [floats(3, 4), scales(4), np.zeros(4, np.int8)]
    model = one_node("QuantizeLinear", inputs, opset=21, shapes={0: ["n", 4]}, constants=(1, 2))
    loaded = ours(model, {"x0": inputs[0]})[0]
    np.testing.assert_array_equal(loaded, runtime(model, {"x0": inputs[0]})[0])


REFUSED = [
    ("QuantizeLinear", [floats(3, 4), scales(3)], {}, "has 3 elements along an axis where 4"),
    ("QuantizeLinear", [floats(3, 4), scales(3, 4)], {}, "needs a block_size"),
    ("QuantizeLinear", [floats(3, 4), scales(3, 3)], dict(block_size=3), "where 2 are needed"),
    ("QuantizeLinear", [floats(3), scales().astype(np.float16)], {}, "set the attribute precision"),
    ("MatMulInteger", [integers("uint8", 2, 3), integers("uint8", 3, 4), integers("uint8", 4)], {},
     "does not fit the rows"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "options", "sentence"), REFUSED)
def test_refused(op, inputs, options, sentence):
    feeds = {f"x{i}": value for i, value in enumerate(inputs)}
    with pytest.raises(CompileError, match=sentence):
        ours(one_node(op, inputs, opset=23, **options), feeds)
