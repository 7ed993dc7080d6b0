import numpy as np
import pytest
from tvm import tirx

from athanor.schedules.compute.pool2d import (
    avg_pool2d_blocked,
    global_avg_pool2d_blocked,
    max_pool2d_blocked,
)
from athanor.schedules.rules.cpu_pool import CPUPool

from .blocked import pack_channels, windows
from .scheduled import NATIVE, check, placeholder, prim_func, random

SIZE = (13, 17)
CASES = {
    "3x3 stride 2": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "2x2 stride 2": ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    "uneven padding": ((3, 3), (2, 2), (0, 1, 2, 0), (1, 1)),
    "dilated": ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "row": ((1, 5), (1, 1), (0, 2, 0, 2), (1, 1)),
    "wide": ((13, 17), (1, 1), (0, 0, 0, 0), (1, 1)),
    "mostly padding": ((9, 9), (4, 4), (8, 8, 8, 8), (1, 1)),
}


def blocked(data, symbolic):
    packed = pack_channels(data)
    shape, sizes = list(packed.shape), {}
    for name in symbolic:
        axis = {"n": 0, "h": 2, "w": 3}[name]
        sizes[name], shape[axis] = shape[axis], tirx.Var(name, "int64")
    return packed, placeholder("data", *shape), sizes


def check_pool(compute, data, wanted, symbolic="", **options):
    packed, source, sizes = blocked(data, symbolic)
    func = prim_func([source], [compute(source, **options)])
    # Channels of padding are the mean or maximum of zeros and of padding.
    wanted = pack_channels(wanted)
    wanted[:, -1, :, :, data.shape[1] % 16 :] = 0
    check(func, "CPUPool", [packed], [wanted], sizes)


@pytest.mark.parametrize("symbolic", ["", "n", "nhw"])
@pytest.mark.parametrize("name", CASES)
def test_max(name, symbolic):
    kernel, strides, padding, dilation = CASES[name]
    data = random(2, 20, *SIZE)
    taps = windows(data, kernel, strides, padding, dilation, -np.inf)
    options = dict(kernel=kernel, strides=strides, padding=padding, dilation=dilation)
    check_pool(max_pool2d_blocked, data, np.max(list(taps), axis=0), symbolic, **options)


@pytest.mark.parametrize("symbolic", ["", "nhw"])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_average(name, include, symbolic):
    kernel, strides, padding, dilation = CASES[name]
    data = random(2, 20, *SIZE)
    taps = np.sum(list(windows(data, kernel, strides, padding, dilation, 0)), axis=0)
    ones = np.ones_like(data)
    counts = np.sum(list(windows(ones, kernel, strides, padding, dilation, include)), axis=0)
    options = dict(kernel=kernel, strides=strides, padding=padding, dilation=dilation)
    options["count_include_pad"] = include
    check_pool(avg_pool2d_blocked, data, taps / np.maximum(counts, 1), symbolic, **options)


def test_ceil_mode_adds_a_window_that_is_not_counted():
    data = random(1, 20, 6, 6)
    wanted = np.stack(list(windows(data, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), np.nan)))
    options = dict(kernel=(3, 3), strides=(2, 2), ceil_mode=True)
    check_pool(max_pool2d_blocked, data, np.nanmax(wanted, axis=0), **options)
    options["count_include_pad"] = True
    check_pool(avg_pool2d_blocked, data, np.nanmean(wanted, axis=0), **options)


def test_max_of_infinities():
    data = np.full((1, 16, 5, 5), -np.inf, "float32")
    packed, source, _ = blocked(data, "")
    func = prim_func([source], [max_pool2d_blocked(source, kernel=(3, 3), padding=(1, 1, 1, 1))])
    check(func, "CPUPool", [packed], [pack_channels(data)])


@pytest.mark.parametrize("symbolic", ["", "nhw"])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (13, 17), (112, 112)])
def test_global_average(size, symbolic):
    data = random(2, 20, *size)
    wanted = data.mean((2, 3), keepdims=True, dtype="float64").astype("float32")
    check_pool(global_avg_pool2d_blocked, data, wanted, symbolic)


def test_declines_other_prim_funcs():
    data = placeholder("data", 1, 2, 3, 3, 16)
    func = prim_func([data], [global_avg_pool2d_blocked(data)])
    assert CPUPool().apply(func.with_attr("tirx.noalias", True), NATIVE) is not None
    from tvm import topi

    assert CPUPool().apply(prim_func([data], [topi.nn.relu(data)]), NATIVE) is None
