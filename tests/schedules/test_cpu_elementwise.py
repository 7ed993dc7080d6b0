import numpy as np
import pytest
from tvm import te, tirx, topi

from athanor.schedules.rules.cpu_elementwise import CPUElementwise
from athanor.targets import TARGETS, find_target
from athanor.targets.codegen import lower_kernel

from .scheduled import NATIVE, check, loops, placeholder, prim_func, random


@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (3, 5, 7), (64, 1000), (2, 3, 17, 33)])
def test_chain(shape):
    x, y = placeholder("x", *shape), placeholder("y", *shape)
    func = prim_func([x, y], [topi.nn.relu(topi.add(topi.multiply(x, y), x))])
    a, b = random(*shape), random(*shape)[::-1].copy()
    check(func, "CPUElementwise", [a, b], [np.maximum(a * b + a, 0)])


def test_flat_chain_is_one_vectorized_loop():
    x = placeholder("x", 8, 16, 32, 32)
    func = prim_func([x], [topi.nn.relu(topi.add(x, x))])
    a = random(8, 16, 32, 32)
    mod = check(func, "CPUElementwise", [a], [np.maximum(a + a, 0)])
    assert loops(mod, "vectorized") == 1
    assert loops(mod, "parallel") == 1
    assert mod.script().count("T.sblock(") == 2  # root and the chain


@pytest.mark.parametrize(
    "shape, begin, end",
    [
        ((1, 48, 14, 15), (0, 17, 0, 0), (1, 48, 14, 15)),  # channels of one image: one line
        ((3, 48, 14, 15), (0, 17, 0, 0), (3, 40, 14, 15)),  # of several: one line each
        ((5, 48, 14, 15), (2, 0, 0, 0), (3, 48, 14, 15)),
        ((2, 7, 9, 14, 15), (0, 0, 3, 0, 0), (2, 7, 8, 14, 15)),  # the bias moves with channels
        ((2, 7, 9, 14, 15), (0, 0, 3, 0, 1), (2, 7, 8, 14, 15)),  # rows begin elsewhere
    ],
)
def test_slice_is_walked_in_lines(shape, begin, end):
    x = placeholder("x", *shape)
    b = placeholder("b", shape[1] - begin[1], *[1] * (len(shape) - 2))
    part = topi.strided_slice(x, begin, end)
    func = prim_func([x, b], [topi.nn.relu(topi.add(part, b) if end[1] == shape[1] else part)])
    arrays = [random(*shape), random(*(int(size) for size in b.shape))]
    wanted = arrays[0][tuple(slice(*ends) for ends in zip(begin, end, strict=True))]
    wanted = np.maximum(wanted + arrays[1] if end[1] == shape[1] else wanted, 0)
    mod = check(func, "CPUElementwise", arrays, [np.ascontiguousarray(wanted)])
    assert ("// T.int64(14)" in mod.script()) == (begin[-1] > 0), "no quotient for each element"


def test_small_kernel_stays_on_one_core():
    x = placeholder("x", 100)
    func = prim_func([x], [topi.nn.relu(x)])
    a = random(100)
    assert loops(check(func, "CPUElementwise", [a], [np.maximum(a, 0)]), "parallel") == 0


@pytest.mark.parametrize("extent", [1, 15, 16, 100, 5000])
def test_symbolic_extent(extent):
    n = tirx.Var("n", "int64")
    x, b = placeholder("x", n, 3), placeholder("b", 3)
    func = prim_func([x, b], [topi.add(x, b)])
    arrays = [random(extent, 3), random(3)]
    check(func, "CPUElementwise", arrays, [arrays[0] + arrays[1]], {"n": extent})


def test_symbolic_extent_of_zero():
    n = tirx.Var("n", "int64")
    x = placeholder("x", n, 40)
    empty = np.zeros((0, 40), "float32")
    check(prim_func([x], [topi.nn.relu(x)]), "CPUElementwise", [empty], [empty], {"n": 0})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation(axis):
    shapes = [[4, 6, 40], [4, 6, 40]]
    shapes[1][axis] = 9
    arrays = [random(*shape) for shape in shapes]
    inputs = [placeholder(f"x{i}", *shape) for i, shape in enumerate(shapes)]
    func = prim_func(inputs, [topi.concatenate(inputs, axis)])
    check(func, "CPUElementwise", arrays, [np.concatenate(arrays, axis)])


@pytest.mark.parametrize("before, after", [(1, 1), (0, 2), (3, 0)])
def test_padding(before, after):
    x = placeholder("x", 2, 9, 20)
    padded = topi.nn.pad(x, [0, before, before], [0, after, after], 0.5)
    a = random(2, 9, 20)
    width = [(0, 0), (before, after), (before, after)]
    wanted = np.pad(a, width, constant_values=0.5)
    check(prim_func([x], [padded]), "CPUElementwise", [a], [wanted])


def test_gather_reads_rows():
    x, index = placeholder("x", 10, 33), placeholder("index", 5, dtype="int64")
    rows = np.array([9, 0, 3, 3, 1], "int64")
    func = prim_func([x, index], [te.compute((5, 33), lambda i, j: x[index[i], j])])
    a = random(10, 33)
    check(func, "CPUElementwise", [a, rows], [a[rows]])


def test_strided_slice_and_cast():
    x = placeholder("x", 6, 50)
    func = prim_func([x], [topi.cast(topi.strided_slice(x, [1, 3], [6, 47], [2, 3]), "int32")])
    a = random(6, 50) * 100
    check(func, "CPUElementwise", [a], [a[1:6:2, 3:47:3].astype("int32")])


def test_declines_a_reduction():
    x = placeholder("x", 4, 8)
    assert CPUElementwise().apply(prim_func([x], [topi.sum(x, 1)]), find_target("native")) is None


def test_declines_an_empty_axis():
    x = placeholder("x", 4, 0)
    func = prim_func([x], [topi.nn.relu(x)])
    assert CPUElementwise().apply(func, find_target("native")) is None


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target(name):
    x = placeholder("x", 100, 130)
    func = prim_func([x], [topi.exp(x)])
    assert CPUElementwise().apply(func, TARGETS[name]) is not None


@pytest.mark.parametrize("shape", [(1, 272, 14, 14), (3, 5, 7, 11), (2, 3, 1, 331)])
def test_addresses_of_many_axes_are_one_line(shape):
    """Chunks and vectors end where no axis ends: nothing may be divided out for an element."""
    x, y = placeholder("x", *shape), placeholder("y", *shape)
    out = topi.add(topi.multiply(x, y), x)
    a, b = random(*shape), random(*shape) * 2
    func = prim_func([x, y], [out])
    mod = check(func, "CPUElementwise", [a, b], [a * b + a])
    lowered = lower_kernel("kernel", mod["main"], NATIVE).script()
    assert "//" not in lowered.split("func_attr")[1] and "%" not in lowered.split("func_attr")[1]
