"""All of float32 in steps, random mantissas and the edges, against NumPy in float64."""

import math
import platform

import numpy as np
import pytest
from tvm import te, tirx

from athanor.targets import find_target
from athanor.targets.rules import schedule

from ..schedules.kernel import Kernel

EDGES = [
    *[0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 3.4028235e38, 1e-45, 1.1754944e-38],
    *[88.72283, 88.72284, 89.0, -87.34, -103.97, -103.98, -105.0, 128.0, -149.0, -150.0, 38.6],
]


def samples():
    generator = np.random.default_rng(3)
    exponents = np.arange(256, dtype=np.uint32)[:, None] << 23
    bits = exponents | generator.integers(0, 1 << 23, (256, 100), dtype=np.uint32)
    every = bits.ravel().view("float32")
    near = generator.uniform(-110, 110, 20000).astype("float32")
    return np.concatenate([every, -every, near, near / 50, np.array(EDGES, "float32")])


def kernel_of(function, shape, dtype="float32", target="native"):
    """`function` over an array of that shape, compiled."""
    source = te.placeholder(shape, dtype, "x")
    result = te.compute(shape, lambda i: function(source[i]), "y")
    sch, _ = schedule(te.create_prim_func([source, result], "int64"), find_target(target))
    return Kernel(sch.mod["main"], find_target(target))


def evaluate(function, x, dtype="float32", target="native"):
    """`function` of every element; an odd length, so that the tail is tested too."""
    out = np.zeros(x.shape, x.dtype)
    kernel_of(function, x.shape, dtype, target)(x, out)
    return out


def vector_erf(x):
    return np.array([math.erf(v) if v == v else v for v in x])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def c_root(x):
    """pow(x, 0.5) of C; NumPy takes sqrt, which differs at -0 and -infinity."""
    return np.where(np.isneginf(x), np.inf, np.sqrt(x) + 0.0)


FUNCTIONS = {
    "exp": (tirx.exp, np.exp),
    "exp2": (tirx.exp2, np.exp2),
    "exp10": (tirx.exp10, lambda x: 10.0**x),
    "log": (tirx.log, np.log),
    "log2": (tirx.log2, np.log2),
    "log10": (tirx.log10, np.log10),
    "log1p": (tirx.log1p, np.log1p),
    "sigmoid": (tirx.sigmoid, sigmoid),
    "tanh": (tirx.tanh, np.tanh),
    "erf": (tirx.erf, vector_erf),
    "asin": (tirx.asin, np.arcsin),
    "acos": (tirx.acos, np.arccos),
    "atan": (tirx.atan, np.arctan),
    "asinh": (tirx.asinh, np.arcsinh),
    "acosh": (tirx.acosh, np.arccosh),
    "atanh": (tirx.atanh, np.arctanh),
    "rsqrt": (tirx.rsqrt, lambda x: 1 / np.sqrt(x)),
    "square": (lambda x: tirx.pow(x, tirx.const(2, "float32")), lambda x: x**2),
    "root": (lambda x: tirx.pow(x, tirx.const(0.5, "float32")), c_root),
}


def assert_close(got, exact):
    """Within 4 units in the last place or 1e-6; NaN, infinities and zeros' signs as they are."""
    wanted = exact.astype("float32")
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    usual = np.isfinite(wanted) & np.isfinite(got)
    np.testing.assert_array_equal(got[~usual], wanted[~usual])
    np.testing.assert_array_equal(np.signbit(got[wanted == 0]), np.signbit(wanted[wanted == 0]))
    error = np.abs(got[usual] - exact[usual])
    unit = np.spacing(np.abs(wanted[usual])).astype("float64")
    assert (error <= np.maximum(4 * unit, 1e-6 * np.abs(exact[usual]))).all()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_accuracy(name):
    function, reference = FUNCTIONS[name]
    x = samples()
    with np.errstate(all="ignore"):
        assert_close(evaluate(function, x), reference(x.astype("float64")))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="code for x86-64")
@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_accuracy_without_long_vectors(name, target):
    function, reference = FUNCTIONS[name]
    x = samples()
    with np.errstate(all="ignore"):
        assert_close(evaluate(function, x, target=target), reference(x.astype("float64")))


@pytest.mark.parametrize("name", ["asin", "acosh", "atanh", "exp"])
def test_float16(name):
    function, reference = FUNCTIONS[name]
    x = np.random.default_rng(4).uniform(-1.5, 2.5, 1003).astype("float16")
    with np.errstate(all="ignore"):
        wanted = reference(x.astype("float64"))
    np.testing.assert_allclose(evaluate(function, x, "float16"), wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize("name", ["exp", "sigmoid"])
def test_accuracy_of_short_vectors(name, lanes):
    """Rows with a gap between them, so that vectors are not longer than a row."""
    function, reference = FUNCTIONS[name]
    x = samples()
    rows = x.size // (lanes + 1)
    x = x[: rows * (lanes + 1)].reshape(rows, lanes + 1)
    source = te.placeholder(x.shape, "float32", "x")
    result = te.compute((rows, lanes), lambda i, j: function(source[i, j]), "y")
    sch, _ = schedule(te.create_prim_func([source, result], "int64"), find_target("native"))
    out = np.zeros((rows, lanes), "float32")
    Kernel(sch.mod["main"])(x, out)
    with np.errstate(all="ignore"):
        assert_close(out, reference(x[:, :lanes].astype("float64")))


CHUNK = (1 << 18) + 1


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_whole_range(name, request):
    """Every float-stride'th bit pattern: all exponents, denormal numbers, infinities and NaN."""
    function, reference = FUNCTIONS[name]
    kernel, out = kernel_of(function, (CHUNK,)), np.empty(CHUNK, "float32")
    patterns = range(0, 1 << 32, request.config.getoption("--float-stride"))
    for start in range(0, len(patterns), CHUNK):
        part = patterns[start : start + CHUNK]
        bits = np.arange(part.start, part.stop, part.step, dtype=np.uint64).astype(np.uint32)
        x = np.zeros(CHUNK, "float32")
        x[: bits.size] = bits.view("float32")
        kernel(x, out)
        with np.errstate(all="ignore"):
            assert_close(out, reference(x.astype("float64")))


def test_double_precision_is_left_to_libm():
    x = np.linspace(-20, 20, 1001)
    np.testing.assert_allclose(evaluate(tirx.exp, x, "float64"), np.exp(x), rtol=1e-15)
    np.testing.assert_allclose(evaluate(tirx.tanh, x, "float64"), np.tanh(x), rtol=1e-15)


def test_half_precision_goes_through_single():
    x = np.linspace(-8, 8, 999).astype("float16")
    wanted = np.exp(x.astype("float64")).astype("float16")
    np.testing.assert_allclose(evaluate(tirx.exp, x, "float16"), wanted, rtol=1e-3)


def test_general_power_of_a_negative_base():
    x = np.array([-2, -1.5, 0.5, 3], "float32")
    got = evaluate(lambda v: tirx.pow(v, tirx.const(5, "float32")), x)
    np.testing.assert_allclose(got, x**5, rtol=1e-6)


def test_nested_functions_compile_quickly_and_right():
    x = np.linspace(0.1, 9, 777).astype("float32")
    got = evaluate(lambda v: tirx.tanh(tirx.log(tirx.exp(v) + v)), x)
    np.testing.assert_allclose(got, np.tanh(np.log(np.exp(x) + x)), rtol=1e-5)
