from dataclasses import replace

import numpy as np
import pytest
from tvm import te, tirx

from athanor.schedules.compute import window
from athanor.schedules.decisions import Decisions
from athanor.schedules.plain_tile import blocked_window_cycles, plain_window_cycles
from athanor.schedules.rule import apply_decisions
from athanor.schedules.rules.cpu_plain_window import CPUPlainWindow
from athanor.targets.rules import CPU_RULES

from .blocked import convolve, windows
from .kernel import Kernel
from .scheduled import NATIVE, check, placeholder, prim_func, random

CASES = {
    "3x3": ((13, 17), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "square, longer than tiles": ((40, 40), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "3x3 stride 2": ((13, 37), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "no border": ((12, 33), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    "2x2 stride 2": ((9, 70), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    "uneven": ((13, 17), (3, 4), (2, 3), (0, 1, 2, 0), (1, 1)),
    "dilated": ((13, 17), (3, 3), (1, 2), (2, 2, 2, 2), (2, 2)),
    "high": ((20, 5), (7, 1), (1, 1), (3, 0, 3, 0), (1, 1)),
    "one pixel": ((1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "mostly padding": ((13, 17), (9, 9), (4, 4), (8, 8, 8, 8), (1, 1)),
}
SMALL = replace(NATIVE, l2_bytes=4096)
"""Half of its cache holds some rows: bands that end early, tiles of one row and of several."""


def run(target, func, arrays, shape):
    sch = CPUPlainWindow().apply(func, target)
    assert sch is not None
    out = np.full(shape, np.nan, np.float32)
    Kernel(sch.mod["main"], target)(*arrays, out)
    return out


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_depthwise(name, times):
    size, kernel, strides, padding, dilation = CASES[name]
    data, weight, bias = random(2, 3, *size), random(3 * times, *kernel), random(3 * times, 1, 1)
    inputs = [placeholder(n, *a.shape) for n, a in zip("xwb", (data, weight, bias), strict=True)]
    options = dict(strides=strides, padding=padding, dilation=dilation)
    made = window.depthwise_conv2d_plain(*inputs[:2], **options)
    zero = tirx.const(0, "float32")
    result = te.compute(
        made.shape, lambda n, c, h, w: tirx.max(made[n, c, h, w] + inputs[2][c, 0, 0], zero)
    )
    func = prim_func(inputs, [result])
    wanted = convolve(data, weight[:, None], groups=3, **options) + bias
    wanted = np.maximum(wanted, 0)
    check(func, "CPUPlainWindow", [data, weight, bias], [wanted])
    out = run(SMALL, func, [data, weight, bias], wanted.shape)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["square, longer than tiles", "3x3 stride 2", "uneven"])
def test_every_single_change_computes_the_same(name):
    size, kernel, strides, padding, dilation = CASES[name]
    data, weight = random(1, 2, *size), random(2, *kernel)
    inputs = [placeholder(n, *a.shape) for n, a in zip("xw", (data, weight), strict=True)]
    options = dict(strides=strides, padding=padding, dilation=dilation)
    func = prim_func(inputs, [window.depthwise_conv2d_plain(*inputs, **options)])
    wanted = convolve(data, weight[:, None], groups=2, **options)

    def decided(values):
        given = Decisions("CPUPlainWindow", tuple(values))
        return apply_decisions(CPU_RULES, func, NATIVE, given, repair=True)

    points = decided(())[1]
    assert {"columns", "rows", "rows of a tile"} & {point.name for point in points}
    values = [point.value for point in points]
    for index, point in enumerate(points):
        for value in point.candidates:
            changed = [*values[:index], value, *values[index + 1 :]]
            made = np.full(wanted.shape, np.nan, np.float32)
            Kernel(decided(changed)[0].mod["main"])(data, weight, made)
            np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-4, err_msg=str(changed))


@pytest.mark.parametrize("name", CASES)
def test_max(name):
    size, kernel, strides, padding, dilation = CASES[name]
    data = random(2, 3, *size)
    data[0, 1, -1, -1] = -np.inf
    wanted = np.max(list(windows(data, kernel, strides, padding, dilation, -np.inf)), axis=0)
    options = dict(kernel=kernel, strides=strides, padding=padding, dilation=dilation)
    source = placeholder("x", *data.shape)
    func = prim_func([source], [window.max_pool2d_plain(source, **options)])
    check(func, "CPUPlainWindow", [data], [wanted])
    np.testing.assert_array_equal(run(SMALL, func, [data], wanted.shape), wanted)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_average(name, include):
    size, kernel, strides, padding, dilation = CASES[name]
    data, ones = random(2, 3, *size), np.ones((2, 3, *size), np.float32)
    taps = np.sum(list(windows(data, kernel, strides, padding, dilation, 0)), axis=0)
    inside = np.sum(list(windows(ones, kernel, strides, padding, dilation, float(include))), axis=0)
    options = dict(kernel=kernel, strides=strides, padding=padding, dilation=dilation)
    source = placeholder("x", *data.shape)
    made = window.avg_pool2d_plain(source, count_include_pad=include, **options)
    wanted = taps / np.maximum(inside, 1)
    check(prim_func([source], [made]), "CPUPlainWindow", [data], [wanted])


def test_a_last_window_that_only_begins_inside():
    data = random(1, 2, 6, 20)
    source = placeholder("x", *data.shape)
    made = window.max_pool2d_plain(source, kernel=(3, 3), strides=(2, 2), ceil_mode=True)
    taps = windows(data, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), -np.inf)
    check(prim_func([source], [made]), "CPUPlainWindow", [data], [np.max(list(taps), axis=0)])


def test_rows_where_packing_costs_more_than_unaligned_loads():
    large, small = (160, 160), (7, 7)

    def rows(channels, size, kernel):
        plain = plain_window_cycles((channels, channels), size, size, kernel, 1, NATIVE)
        return plain < blocked_window_cycles(channels, size, kernel[0] * kernel[1], NATIVE)

    assert rows(64, large, (3, 3)) and rows(3, large, (3, 3))
    assert not rows(64, large, (11, 11))
    assert not rows(64, small, (3, 3))
