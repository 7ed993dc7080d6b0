"""Operands that only the run knows, the whole way, against NumPy."""

import numpy as np
import onnx
import pytest

import athanor
from athanor.errors import RunError

from .execute import floats, one_node, same


def compiled(op, *inputs, **options):
    """A model of one node, run with inputs in order; the first output."""
    model = athanor.compile(one_node(op, list(inputs), **options)).load(threads=1)

    def run(*values):
        feeds = {f"x{i}": v for i, v in enumerate(values) if v is not None}
        return next(iter(model.run(feeds).values()))

    return run


def ints(*values):
    return np.array(values, np.int64)


def test_reshape():
    run = compiled("Reshape", floats(2, 3, 4), ints(0, 0, 0))
    x = floats(2, 3, 4)
    for shape in [(4, 3, 2), (24, 1, 1), (2, -1, 2), (-1, 2, 3), (1, 24, -1)]:
        same(run(x, ints(*shape)), x.reshape(shape))
    same(run(x, ints(0, 4, 3)), x.reshape(2, 4, 3))
    same(run(x, ints(0, 0, -1)), x)
    for wrong in [(5, 5, 1), (-1, 5, 1), (-1, -1, 2), (-2, -12, 1), (2**40, 2**40, 1)]:
        with pytest.raises(RunError):
            run(x, ints(*wrong))


def test_reshape_of_named_sizes():
    run = compiled("Reshape", floats(2, 6), ints(0, 0), shapes={0: ["n", 6]})
    for n in (1, 5):
        x = floats(n, 6, seed=n)
        same(run(x, ints(3, -1)), x.reshape(3, -1))


def test_slice():
    x = floats(5, 4, 3)
    run = compiled("Slice", x, ints(0, 0), ints(1, 1), ints(0, 1), ints(1, 1))
    big, small = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for starts, ends, axes, steps in [
        ((0, 0), (2, 3), (0, 1), (1, 1)),
        ((1, -2), (big, big), (0, -1), (2, 1)),
        ((-1, 0), (small, 100), (0, 1), (-1, 3)),
        ((4, 3), (-6, 0), (0, 1), (-3, -2)),
        ((3, 1), (1, 1), (0, 2), (1, 1)),
        ((10, 0), (20, 9), (0, 1), (1, 1)),
    ]:
        index = [slice(None)] * 3
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            stop = None if step < 0 and end < -5 else end
            index[axis] = slice(start, stop, step)
        same(run(x, ints(*starts), ints(*ends), ints(*axes), ints(*steps)), x[tuple(index)])
    for axes, steps in [((0, 3), (1, 1)), ((0, 1), (1, 0))]:
        with pytest.raises(RunError, match="negative or an absurd size"):
            run(x, ints(0, 0), ints(1, 1), ints(*axes), ints(*steps))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode):
    x = floats(3, 4)
    run = compiled("Pad", x, ints(0, 0, 0, 0), mode=mode)
    for pads in [(0, 0, 0, 0), (1, 2, 2, 3), (2, 0, 0, 3), (1, 0, 1, 3)]:
        same(run(x, ints(*pads)), np.pad(x, list(zip(pads[:2], pads[2:], strict=True)), mode=mode))


def test_pad_that_cuts():
    x = floats(3, 4)
    run = compiled("Pad", x, ints(0, 0), np.float32(2.5), ints(1))
    same(run(x, ints(-1, -2), np.float32(2.5), ints(1)), x[:, 1:2])
    same(
        run(x, ints(1, -1), np.float32(2.5), ints(-2)),
        np.vstack([np.full((1, 4), 2.5, "f"), x[:2]]),
    )
    same(run(x, ints(-3, 0), np.float32(2.5), ints(0)), x[3:])
    for pads, axis in [((-5, 0), 1), ((0, 0), 2)]:
        with pytest.raises(RunError, match="negative or an absurd size"):
            run(x, ints(*pads), np.float32(2.5), ints(axis))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_range(dtype):
    run = compiled("Range", dtype(0), dtype(1), dtype(1))
    for start, limit, delta in [
        (0, 5, 1),
        (1, 10, 3),
        (10, 1, -4),
        (3, 3, 1),
        (5, 1, 1),
        (-2, 2, 2),
    ]:
        values = (dtype(start), dtype(limit), dtype(delta))
        same(run(*values), np.arange(*values, dtype=dtype))
    with pytest.raises(RunError, match="negative or an absurd size"):
        run(dtype(0), dtype(5), dtype(0))


def test_a_reshape_that_named_sizes_do_not_fit_ends_the_run():
    run = compiled("Reshape", floats(4, 3), ints(-1, 6), shapes={0: ["n", 3]}, constants=(1,))
    same(run(floats(4, 3)), floats(4, 3).reshape(-1, 6))
    with pytest.raises(RunError, match="has to be equal to"):
        run(floats(3, 3))


def test_expand():
    x = floats(3, 1)
    run = compiled("Expand", x, ints(0, 0, 0))
    for shape in [(2, 3, 4), (1, 1, 1), (2, 1, 4), (1, 3, 0)]:
        same(run(x, ints(*shape)), x * np.ones(shape, "f"))
    for wrong in [(1, 2, 4), (1, 0, 1), (-1, 3, 1)]:
        with pytest.raises(RunError, match="negative or an absurd size"):
            run(x, ints(*wrong))
    same(compiled("Expand", np.float32(2), ints(0))(np.float32(2), ints(3)), np.full(3, 2, "f"))


def test_expand_of_named_sizes():
    run = compiled("Expand", floats(2, 3), ints(0, 0), shapes={0: ["n", 3]})
    for n, shape in [(2, (1, 3)), (1, (4, 1)), (2, (2, 3))]:
        x = floats(n, 3)
        same(run(x, ints(*shape)), x * np.ones(shape, "f"))
    with pytest.raises(RunError, match="negative or an absurd size"):
        run(floats(2, 3), ints(4, 3))
    fixed = compiled("Expand", floats(2, 3), ints(4, 3), shapes={0: ["n", 3]}, constants=(1,))
    for n in (1, 4):
        same(fixed(floats(n, 3)), floats(n, 3) * np.ones((4, 3), "f"))
    with pytest.raises(RunError, match="n has to be 1 or 4"):
        fixed(floats(2, 3))


def test_tile():
    x = floats(2, 3)
    run = compiled("Tile", x, ints(1, 1))
    for repeats in [(1, 1), (2, 3), (0, 1), (1, 4)]:
        same(run(x, ints(*repeats)), np.tile(x, repeats))
    with pytest.raises(RunError, match="negative or an absurd size"):
        run(x, ints(-1, 1))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_constant_of_shape(dtype):
    value = onnx.numpy_helper.from_array(np.ones(1, dtype))
    run = compiled("ConstantOfShape", ints(0, 0), value=value)
    for shape in [(2, 3), (0, 4), (1, 1)]:
        same(run(ints(*shape)), np.ones(shape, dtype))
    with pytest.raises(RunError, match="negative or an absurd size"):
        run(ints(2, -3))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_one_hot(dtype):
    run = compiled("OneHot", ints(0, 2, -1), dtype(1), floats(2), axis=0)
    for depth in (3, 5, 1):
        expected = np.where(np.arange(depth)[:, None] == [0, 2, depth - 1], 7, 1).astype("f")
        same(run(ints(0, 2, -1), dtype(depth), np.array([1, 7], "f")), expected)


def test_split():
    x = floats(6, 2)
    node = one_node("Split", [x, ints(1, 1, 1)], outputs=3)
    run = athanor.compile(node).load(threads=1).run
    for sizes in [(1, 2, 3), (0, 6, 0), (2, 2, 2)]:
        parts = run({"x0": x, "x1": ints(*sizes)}).values()
        for ours, theirs in zip(parts, np.split(x, np.cumsum(sizes)[:-1]), strict=True):
            same(ours, theirs)
    for wrong in [(1, 2, 4), (-1, 5, 2), (1, 1, 1)]:
        with pytest.raises(RunError):
            run({"x0": x, "x1": ints(*wrong)})


def test_top_k():
    x = floats(2, 5)
    run = compiled("TopK", x, ints(1), outputs=2)
    for k in (1, 5, 0):
        same(run(x, ints(k)), -np.sort(-x)[:, :k])
    with pytest.raises(RunError, match="needs k from 0 to 5"):
        run(x, ints(6))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_top_k_of_any_size(axis):
    model = one_node(
        "TopK", [floats(3, 4, 5), ints(2)], outputs=2, constants=(1,), axis=axis, shapes={0: "abc"}
    )
    run = athanor.compile(model).load(threads=1).run
    for shape in [(3, 4, 5), (2, 2, 2), (7, 3, 2)]:
        x = floats(*shape)
        values, places = run({"x0": x}).values()
        same(values, -np.take(np.sort(-x, axis=axis), [0, 1], axis=axis))
        same(np.take_along_axis(x, places, axis), values)
    with pytest.raises(RunError, match="needs k from 0 to"):
        run({"x0": floats(*(1 if a == axis else 3 for a in range(3)))})


def test_trilu():
    x = floats(4, 5)
    run = compiled("Trilu", x, np.int64(0))
    for k in (0, -2, 3, 9):
        same(run(x, np.int64(k)), np.triu(x, k))


@pytest.mark.parametrize("opset", [13, 18])
def test_equal_parts_of_a_named_size(opset):
    options = {"num_outputs": 3} if opset >= 18 else {}
    node = one_node("Split", [floats(7, 2)], 3, opset, shapes={0: ["n", 2]}, **options)
    run = athanor.compile(node).load(threads=1).run
    for n in (6, 7, 8) if opset >= 18 else (6, 9):
        parts, size = list(run({"x0": floats(n, 2)}).values()), -(-n // 3)
        for ours, theirs in zip(parts, np.split(floats(n, 2), [size, 2 * size]), strict=True):
            same(ours, theirs)
    with pytest.raises(RunError, match="has to be divisible into 3 parts"):
        run({"x0": floats(1 if opset >= 18 else 7, 2)})
