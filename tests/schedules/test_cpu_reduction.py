import numpy as np
import pytest
from tvm import te, tirx, topi

from athanor.schedules.compute import layer_norm as norms
from athanor.schedules.compute.softmax import log_softmax, softmax
from athanor.schedules.decisions import Decisions
from athanor.schedules.rule import apply_decisions
from athanor.schedules.rules.cpu_reduction import CPUReduction
from athanor.targets.rules import CPU_RULES

from .kernel import Kernel
from .scheduled import NATIVE, check, loops, placeholder, prim_func, random

SUMS = [
    *[((13, 77), 1), ((13, 77), 0), ((5, 3), 1), ((4, 6, 40), 1), ((4, 7, 9), (1, 2))],
    *[((4, 7, 9), (0, 2)), ((64, 64), 1), ((3, 1000), (0, 1)), ((2, 5, 7, 7), (2, 3)), ((9,), 0)],
]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape, axes", SUMS)
def test_sum_and_max(shape, axes, keepdims):
    x, a = placeholder("x", *shape), random(*shape)
    total = topi.multiply(topi.sum(topi.nn.relu(x), axes, keepdims), tirx.const(0.5, "float32"))
    wanted = np.asarray(np.maximum(a, 0).sum(axes, keepdims=keepdims) * np.float32(0.5))
    check(prim_func([x], [total]), "CPUReduction", [a], [wanted])
    highest = np.asarray(a.max(axes, keepdims=keepdims))
    check(prim_func([x], [topi.max(x, axes, keepdims)]), "CPUReduction", [a], [highest])


@pytest.mark.parametrize("image", [(28, 28), (4, 8), (3, 5), (1, 17)])
def test_batches_of_channels(image):
    """Of every channel, over all of its images: vectors stay within one of them."""
    x, a = placeholder("x", 3, 5, *image), random(3, 5, *image)
    mod = check(prim_func([x], [topi.sum(x, (0, 2, 3))]), "CPUReduction", [a], [a.sum((0, 2, 3))])
    area = image[0] * image[1]
    assert (f"// T.int64({area}), v" in mod.script()) == (area < 16)


@pytest.mark.parametrize("shape, axis", [((12, 1000), 1), ((2, 19, 8, 16), 1), ((5, 1), 1)])
def test_argmax(shape, axis):
    x, a = placeholder("x", *shape), random(*shape).round(1)
    wanted = a.argmax(axis).astype("int32")
    check(prim_func([x], [topi.argmax(x, axis)]), "CPUReduction", [a], [wanted])


@pytest.mark.parametrize("extent", [1, 5, 32, 100])
@pytest.mark.parametrize("axis", [0, 1])
def test_symbolic(axis, extent):
    n = tirx.Var("n", "int64")
    x, a = placeholder("x", 6, n), random(6, extent)
    func = prim_func([x], [topi.sum(x, axis)])
    check(func, "CPUReduction", [a], [a.sum(axis)], {"n": extent})


def reference_softmax(x, axis):
    e = np.exp(x.astype("float64") - x.max(axis, keepdims=True))
    return (e / e.sum(axis, keepdims=True)).astype("float32")


SOFTMAX = [
    *[((3, 128), 1), ((1, 1000), 1), ((2, 3, 197), -1), ((4, 1), 1), ((2, 5), 1)],
    *[((2, 19, 8, 64), 1), ((2, 19, 7, 7), 1), ((6, 7), 0), ((1, 64, 33), 1), ((1, 8, 9, 56), 1)],
    # several rows at a time: by twos and fours, the last ones twice, none for rows of two axes
    *[((64, 50), 1), ((33, 50), 1), ((17, 769), 1), ((3, 11, 50), 2), ((4, 11, 50), 2)],
]


@pytest.mark.parametrize("shape, axis", SOFTMAX)
def test_softmax(shape, axis):
    x, a = placeholder("x", *shape), random(*shape) * 10
    check(prim_func([x], [softmax(x, axis)]), "CPUReduction", [a], [reference_softmax(a, axis)])
    shifted = a.astype("float64") - a.max(axis, keepdims=True)
    wanted = (shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))).astype("float32")
    check(prim_func([x], [log_softmax(x, axis)]), "CPUReduction", [a], [wanted], tolerance=1e-4)


DECIDED = {
    "softmax": ((19, 331), lambda x: softmax(x, 1), lambda a: reference_softmax(a, 1)),
    "sum": ((3, 1000), lambda x: topi.sum(x, 1), lambda a: a.sum(1)),
    "columns": ((7, 4, 128), lambda x: topi.max(x, 1), lambda a: a.max(1)),
}


@pytest.mark.parametrize("name", DECIDED)
def test_every_single_change_computes_the_same(name):
    shape, made, reference = DECIDED[name]
    x, a = placeholder("x", *shape), random(*shape)
    func = prim_func([x], [made(x)])

    def decided(values):
        given = Decisions("CPUReduction", tuple(values))
        return apply_decisions(CPU_RULES, func, NATIVE, given, repair=True)

    points = decided(())[1]
    assert len({point.name for point in points}) > 1
    values = [point.value for point in points]
    for index, point in enumerate(points):
        for value in point.candidates:
            changed = [*values[:index], value, *values[index + 1 :]]
            sch, again = decided(changed)
            assert again[index].value == value
            out = np.full(reference(a).shape, np.nan, np.float32)
            Kernel(sch.mod["main"])(a, out)
            np.testing.assert_allclose(
                out, reference(a), rtol=1e-4, atol=1e-5, err_msg=str(changed)
            )


def test_softmax_of_large_and_infinite_values():
    x = placeholder("x", 3, 20)
    a = np.zeros((3, 20), "float32")
    a[0], a[1, 3:], a[2, 5] = 3e38, -np.inf, 1000
    check(prim_func([x], [softmax(x, 1)]), "CPUReduction", [a], [reference_softmax(a, 1)])


def test_masked_softmax_with_symbolic_rows():
    n = tirx.Var("n", "int64")
    x, mask = placeholder("x", n, 4, 33), placeholder("mask", n, 1, 33)
    scaled = topi.add(topi.multiply(x, tirx.const(0.125, "float32")), mask)
    func = prim_func([x, mask], [topi.multiply(softmax(scaled, 2), tirx.const(2.0, "float32"))])
    arrays = [random(5, 4, 33), random(5, 1, 33)]
    wanted = 2 * reference_softmax(arrays[0] * 0.125 + arrays[1], 2)
    check(func, "CPUReduction", arrays, [wanted.astype("float32")], {"n": 5})


def normalized(x, axes):
    x = x.astype("float64")
    spread = np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return (x - x.mean(axes, keepdims=True)) / spread


NORMED = [((6, 96), [-1]), ((3, 5, 77), [1, 2]), ((4, 3), [1])]
NORMED += [((33, 197), [-1]), ((16, 768), [-1]), ((17, 1030), [-1]), ((1, 35, 50), [-1])]


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("shape, axes", NORMED)
def test_layer_norm(shape, axes, offset):
    inner = [shape[axis] for axis in axes]
    arrays = [random(*shape) + np.float32(offset), random(*inner), random(*inner)]
    inputs = [placeholder(name, *a.shape) for name, a in zip("xgb", arrays, strict=True)]
    func = prim_func(inputs, [norms.layer_norm(*inputs, axes, 1e-5)])
    wanted = normalized(arrays[0], tuple(axes)) * arrays[1] + arrays[2]
    check(func, "CPUReduction", arrays, [wanted.astype("float32")], tolerance=1e-4)


def test_rms_norm():
    x, g, a, gamma = placeholder("x", 7, 100), placeholder("g", 100), random(7, 100), random(100)
    wanted = a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-6) * gamma
    func = prim_func([x, g], [norms.rms_norm(x, g, [-1], 1e-6)])
    check(func, "CPUReduction", [a, gamma], [wanted])


@pytest.mark.parametrize("batch, channels", [(1, 8), (2, 8), (2, 34)])
def test_group_and_instance_norm(batch, channels):
    a, gamma, beta = random(batch, channels, 5, 9), random(channels), random(channels)
    inputs = [placeholder(name, *each.shape) for name, each in zip("xgb", (a, gamma, beta))]
    scale, shift = gamma[:, None, None], beta[:, None, None]
    wanted = (normalized(a, (2, 3)) * scale + shift).astype("float32")
    func = prim_func(inputs, [norms.instance_norm(*inputs, 1e-5)])
    check(func, "CPUReduction", [a, gamma, beta], [wanted], tolerance=1e-4)
    grouped = normalized(a.reshape(batch, 2, -1), 2).reshape(a.shape)
    func = prim_func(inputs, [norms.group_norm(*inputs, 2, 1e-5)])
    wanted = (grouped * scale + shift).astype("float32")
    check(func, "CPUReduction", [a, gamma, beta], [wanted], tolerance=1e-4)


def test_row_stays_in_one_loop():
    x = placeholder("x", 64, 512)
    sch = CPUReduction().apply(prim_func([x], [softmax(x, 1)]), NATIVE)
    assert sch is not None
    assert loops(sch.mod, "parallel") == 1


def test_declines_rows_that_cross():
    # The loops of x[i, j] - sum[j] look like those of x[i, j] - sum[i].
    x, a = placeholder("x", 64, 64), random(64, 64)
    total = topi.sum(x, 1)
    func = prim_func([x], [te.compute((64, 64), lambda i, j: x[i, j] - total[j])])
    assert CPUReduction().apply(func, NATIVE) is None
    check(func, "CPUFallback", [a], [a - a.sum(1)])


def test_declines_elementwise_and_empty():
    x, empty = placeholder("x", 4, 8), placeholder("e", 4, 0)
    assert CPUReduction().apply(prim_func([x], [topi.nn.relu(x)]), NATIVE) is None
    assert CPUReduction().apply(prim_func([empty], [topi.sum(empty, 1)]), NATIVE) is None


@pytest.mark.parametrize("extent", [9, 12, 70])
def test_guards_that_depend_on_the_row(extent):
    """A guarded loop is cut where its guard changes: no part of it has a constant length."""
    x, a = placeholder("x", 5, extent), random(5, extent)
    k = te.reduce_axis((0, extent), "k")
    zero = tirx.const(0, "float32")
    total = te.compute((5,), lambda i: te.sum(tirx.if_then_else(k <= 3 * i, x[i, k], zero), k))
    wanted = np.array([a[i, : 3 * i + 1].sum() for i in range(5)], "float32")
    check(prim_func([x], [total]), "CPUReduction", [a], [wanted])
