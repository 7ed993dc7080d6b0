"""Arithmetic, comparison, logic and activations against the onnx reference."""

import numpy as np
import pytest

from athanor.errors import CompileError

from .artifact import ours
from .execute import check, floats, one_node, run, same

UNARY = """Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign
Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Celu""".split()


@pytest.mark.parametrize("op", UNARY)
def test_unary(op):
    x = np.random.default_rng(1).uniform(0.05, 0.95, (3, 5)).astype(np.float32)
    if op in ("Acosh",):
        x = x + 1
    elif op not in ("Log", "Sqrt", "Reciprocal", "Acos", "Asin", "Atanh", "Tan"):
        x = x * 6 - 3
    check(op, [x], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "error"), [("float16", 5e-4), ("float32", 6e-7), ("float64", 1e-15)]
)
@pytest.mark.parametrize("op", ["Sinh", "Cosh"])
def test_hyperbolic_functions_are_as_exact_as_their_type(op, dtype, error):
    x = np.linspace(-6, 6, 4001).astype(dtype)
    x[:5] = np.nan, np.inf, -np.inf, 1e-5, -1e-7
    (result,) = ours(one_node(op, [x]), {"x0": x})
    wanted = getattr(np, op.lower())(x.astype(np.longdouble))
    np.testing.assert_allclose(result.astype(np.longdouble), wanted, rtol=error)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum"])
@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3)), ((2, 1, 4), (3, 1)), ((), (5,)), ((1,), (3,))]
)
def test_broadcast(op, shapes):
    a, b = (np.abs(floats(*s, seed=i)) + np.float32(0.5) for i, s in enumerate(shapes))
    check(op, [np.asarray(a, np.float32), np.asarray(b, np.float32)], rtol=1e-4)


def test_mean_broadcasts():
    a, b, c = floats(2, 1, 4), floats(3, 1, seed=1), floats(1, seed=2)
    (result,) = run(one_node("Mean", [a, b, c]), [a, b, c])
    np.testing.assert_allclose(result, (a + b + c) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Mod"])
def test_integers(op, dtype):
    a = np.array([[7, 100, 3, 0]], dtype)
    b = np.array([[2], [3], [5]], dtype)
    check(op, [a, b])


def test_integer_division_rounds_toward_zero():
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    (result,) = run(one_node("Div", [a, b]), [a, b])
    np.testing.assert_array_equal(result, [3, -3, -3, 3])


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_modulo_signs(dtype, fmod):
    a = np.array([7, -7, 7, -7, 6, -6], dtype)
    b = np.array([3, 3, -3, -3, 3, -3], dtype)
    expected = np.fmod(a, b) if fmod else np.mod(a, b)
    (result,) = run(one_node("Mod", [a, b], fmod=fmod), [a, b])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extremum_passes_nan_on(op):
    a = np.array([np.nan, 1, np.nan, -np.inf], np.float32)
    b = np.array([1, np.nan, np.nan, np.inf], np.float32)
    check(op, [a, b])


def test_round_goes_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4], np.float32)
    (result,) = run(one_node("Round", [x]), [x])
    np.testing.assert_array_equal(result, [0, 2, 2, -0, -2, -2, 2])


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_comparison(op, dtype):
    a, b = np.array([1, 2, 3], dtype), np.array([[2], [3]], dtype)
    check(op, [a, b])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op):
    check(op, [np.array([True, True, False, False]), np.array([True, False, True, False])])


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_bit_shift(direction, dtype):
    bits = np.dtype(dtype).itemsize * 8
    x = np.array([1, 200, 77, 3], dtype)
    check("BitShift", [x, np.array([0, 3, bits - 1, bits], dtype)], direction=direction)


def test_where_broadcasts_three_ways():
    condition = np.array([[True], [False]])
    check("Where", [condition, floats(3), floats(1, 1)])


@pytest.mark.parametrize("opset", [6, 11, 13])
def test_clip(opset):
    x = floats(4, 5)
    if opset < 11:
        check("Clip", [x], opset=opset, min=-0.5, max=0.25)
        return
    low, high = np.float32(-0.5), np.float32(0.25)
    check("Clip", [x, low, high], opset=opset, constants=(1, 2))
    check("Clip", [x, None, high], opset=opset, constants=(2,))
    check("Clip", [x, high, low], opset=opset)  # the upper bound wins


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    "opset, axis", [(9, 0), (9, 1), (9, 2), (13, 0), (13, 1), (13, 2), (13, -1)]
)
def test_softmax(op, opset, axis):
    x = floats(2, 3, 4)
    (result,) = run(one_node(op, [x], opset=opset, axis=axis), [x])
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1) if opset == 9 else np.moveaxis(x, axis, -1)
    powers = np.exp(flat - flat.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True)
    if op == "LogSoftmax":
        expected = np.log(expected)
    if op == "Hardmax":
        expected = (flat == flat.max(-1, keepdims=True)).astype(np.float32)
    expected = expected.reshape(x.shape) if opset == 9 else np.moveaxis(expected, -1, axis)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    check("Gelu", [floats(50) * 3], approximate=approximate, rtol=1e-4)


@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", 7), ("float32", 9), ("int64", 1), ("bool", 1), ("float32", 10), ("float64", 6)],
)
def test_cast(source, target):
    check("Cast", [np.array([0, 1, -2.7, 3.9]).astype(source)], to=target, rtol=1e-3)


def test_wrong_attribute_is_named():
    x = np.ones(3, np.uint8)
    with pytest.raises(CompileError, match=r"BitShift 'node' \(opset 22\): direction='UP'"):
        run(one_node("BitShift", [x, x], direction="UP"), [x, x])


def test_operands_that_do_not_broadcast():
    with pytest.raises(CompileError, match=r"Add 'node' \(opset 22\)"):
        run(one_node("Add", [floats(3), floats(4)]), [floats(3), floats(4)])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_integers_by_zero_and_by_minus_one_do_not_stop_the_process(dtype):
    """By 0: 0, as in NumPy. The least integer by -1 wraps."""
    bounds = np.iinfo(dtype)
    numbers = np.array([bounds.min, -7 if bounds.min else 7, 0, 7, bounds.max], dtype)
    divisors = np.array([0, 1, 3, bounds.max], dtype)
    if bounds.min:
        divisors = np.append(divisors, np.array([-1, -3, bounds.min], dtype))
    a, b = np.repeat(numbers, len(divisors)), np.tile(divisors, len(numbers))
    # Python's integers do not overflow; their lowest bits are the wrapped result
    quotients, remainders = [], []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        quotient = abs(x) // abs(y) if y else 0
        quotients.append(-quotient if (x < 0) != (y < 0) else quotient)
        remainders.append(x % y if y else 0)
    expected = np.array([q & ((1 << bounds.bits) - 1) for q in quotients], np.uint64).astype(dtype)
    same(run(one_node("Div", [a, b], opset=14), [a, b])[0], expected)
    same(run(one_node("Mod", [a, b], opset=13), [a, b])[0], np.array(remainders, dtype))
