"""float8, float6, float4 and integers below a byte: Cast, quantization and data movement."""

import ml_dtypes
import numpy as np
import onnx
import pytest

from athanor.errors import CompileError

from .artifact import compare_node, ours, reference
from .execute import floats, one_node

FLOATS = [
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
]
INTEGERS = ["int4", "uint4", "int2", "uint2"]


def small(name):
    """The NumPy dtype."""
    return np.dtype(getattr(ml_dtypes, name))


def kind(name):
    """The number of the ONNX element type."""
    return onnx.helper.np_dtype_to_tensor_dtype(small(name))


def codes(name):
    """Every element of the type."""
    count = 1 << (ml_dtypes.iinfo if name in INTEGERS else ml_dtypes.finfo)(small(name)).bits
    return np.arange(count, dtype=np.uint8).view(small(name))


def cast(x, to, **attributes):
    """Our Cast of x, as float64."""
    model = one_node("Cast", [x], opset=28, to=to, **attributes)
    (result,) = ours(model, {"x0": x})
    return result


def values():
    """Magnitudes all over, halves between the codes among them, and the special ones."""
    random = np.random.default_rng(0)
    spread = np.exp2(random.uniform(-30, 20, 4000)) * random.choice([-1, 1], 4000)
    steps = np.arange(-4096, 4096) / np.float32(512)
    special = [0.0, -0.0, np.inf, -np.inf, 448, 464, 465, 480, 57344, 61439, 61440, 2**-10]
    return np.concatenate([spread, steps, special]).astype(np.float32)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("saturate", [1, 0])
def test_cast_to_floats(name, saturate):
    x = values()
    result = cast(x, kind(name), saturate=saturate)
    limits = ml_dtypes.finfo(small(name))
    clipped = np.clip(x, float(limits.min), float(limits.max)) if saturate else x
    with np.errstate(all="ignore"):
        expected = clipped.astype(small(name))
    assert result.dtype == small(name)
    numbers = ~np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(result.view(np.uint8)[numbers], expected.view(np.uint8)[numbers])
    np.testing.assert_array_equal(np.isnan(result.astype(np.float32)), ~numbers)


@pytest.mark.parametrize("name", FLOATS[:4])
def test_nan_stays_nan(name):
    result = cast(np.array([np.nan, -np.nan, 1], np.float32), kind(name))
    np.testing.assert_array_equal(np.isnan(result.astype(np.float32)), [True, True, False])


def test_float64_is_rounded_once():
    """0.0009765626 is above half of the least e4m3fn, but rounds to the half as a float32."""
    x = np.array([2.0**-10 * (1 + 2.0**-40), 464 * (1 + 2.0**-40)])
    result = cast(x, kind("float8_e4m3fn"), saturate=0)
    np.testing.assert_array_equal(result.view(np.uint8), [0x01, 0x7F])


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "float8_e8m0fnu"])
@pytest.mark.parametrize("constant", [False, True])
def test_cast_from_each_code(name, constant):
    x = np.arange(256, dtype=np.uint8).view(small(name)) if "e8m0" in name else codes(name)
    constants = (0,) if constant else ()
    results = ours(
        one_node("Cast", [x], opset=28, to=onnx.TensorProto.FLOAT, constants=constants),
        {} if constant else {"x0": x},
    )
    np.testing.assert_array_equal(results[0], x.astype(np.float32))


@pytest.mark.parametrize("name", INTEGERS)
def test_cast_to_integers(name):
    info = ml_dtypes.iinfo(small(name))
    x = np.linspace(info.min, info.max, 37).astype(np.float32)
    compare_node("Cast", [x], reference, opset=28, to=kind(name))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_cast_to_powers_of_two(mode):
    x = np.abs(values())
    x = np.append(x[np.isfinite(x)], np.float32([1e-40, 3e38, 1.5, 3.0]))
    to = onnx.TensorProto.FLOAT8E8M0
    compare_node("Cast", [x], reference, opset=28, to=to, round_mode=mode)


MOVES = [
    ("Transpose", (), {}),
    ("Reshape", (np.array([4, 4], np.int64),), {}),
    ("Gather", (np.array([1, 0], np.int64),), {}),
    ("Identity", (), {}),
]


@pytest.mark.parametrize(("op", "others", "attributes"), MOVES)
@pytest.mark.parametrize("name", ["int4", "float4_e2m1fn"])
def test_data_movement(op, others, attributes, name):
    x = codes(name).reshape(2, 8)
    constants = range(1, len(others) + 1)
    model = one_node(op, [x, *others], opset=25, constants=constants, **attributes)
    (result,) = ours(model, {"x0": x})
    expected = reference(model, {"x0": x})[0]
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(result.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("constants", [(), (1, 2)], ids=["inputs", "constants"])
def test_quantize_to_integers(name, constants):
    x = np.append(floats(30) * 5, np.float32([np.inf, -np.inf, 0.75, 1.25])).astype(np.float32)
    inputs = [x, np.array(0.5, np.float32), np.array(1, small(name))]
    finite = [np.nan_to_num(x, posinf=1e6, neginf=-1e6), *inputs[1:]]
    compare_node("QuantizeLinear", finite, reference, opset=25, constants=constants)
    model = one_node("QuantizeLinear", inputs, opset=25)
    (result,) = ours(model, dict(zip(("x0", "x1", "x2"), inputs, strict=True)))
    low, high = codes(name).astype(int).min(), codes(name).astype(int).max()
    np.testing.assert_array_equal(result[30:32].astype(int), [high, low])


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("constants", [(), (0, 1)], ids=["inputs", "constants"])
def test_dequantize(name, constants):
    x = codes(name)
    x = x[np.isfinite(x.astype(np.float32))]
    inputs = [x, np.array(0.3, np.float32)]
    compare_node("DequantizeLinear", inputs, reference, opset=25, constants=constants)


def test_dequantize_blocks_of_weights():
    """The shape that 4-bit language models have."""
    random = np.random.default_rng(0)
    x = random.integers(-8, 8, (6, 32)).astype(small("int4"))
    zero_point = random.integers(-8, 8, (6, 2)).astype(small("int4"))
    scale = random.uniform(0.01, 0.1, (6, 2)).astype(np.float32)
    options = dict(opset=25, axis=1, block_size=16)
    for constants in ((), (0, 1, 2)):
        inputs = [x, scale, zero_point]
        compare_node("DequantizeLinear", inputs, reference, constants=constants, **options)


@pytest.mark.parametrize("name", FLOATS[:4])
def test_quantize_to_floats(name):
    inputs = [values()[:5000], np.array(2, np.float32)]
    options = dict(opset=25, output_dtype=kind(name))
    compare_node("QuantizeLinear", inputs, reference, **options)


def test_what_computes_with_small_types_is_refused():
    x = np.arange(4).astype(small("int4"))
    with pytest.raises(CompileError, match="element type int4 is not supported"):
        ours(one_node("Relu", [x], opset=25), {"x0": x})


@pytest.mark.parametrize("constant", [True, False])
def test_a_zero_point_of_a_float_is_added(constant):
    dtype = small("float8_e5m2")
    x, scale, zero = floats(40), np.array(2, np.float32), np.array(1, dtype)
    model = one_node("QuantizeLinear", [x, scale, zero], opset=25, constants=(2,) * constant)
    feeds = {"x0": x, "x1": scale} | ({} if constant else {"x2": zero})
    (result,) = ours(model, feeds)
    np.testing.assert_array_equal(result, (x / 2 + np.float32(1)).astype(dtype))


@pytest.mark.parametrize("name", ["int4", "uint2", "float6_e2m3fn", "float8_e5m2"])
def test_external_data(name, tmp_path):
    x = codes(name)[:-1]
    model = one_node("Cast", [x], opset=28, constants=(0,), to=onnx.TensorProto.FLOAT)
    path = tmp_path / "model.onnx"
    options = dict(save_as_external_data=True, location="weights", size_threshold=0)
    onnx.save_model(model, path, **options)
    (result,) = ours(path, {})
    np.testing.assert_array_equal(result, x.astype(np.float32))
