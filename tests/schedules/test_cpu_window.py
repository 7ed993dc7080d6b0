from dataclasses import replace

import numpy as np
import pytest
from tvm import te, tirx, topi

from athanor.schedules.rules.cpu_window import CPUWindow

from .kernel import Kernel
from .scheduled import NATIVE, check, loops, placeholder, prim_func, random

# kernel, strides, pads (top, left, bottom, right), ceil_mode
WINDOWS = [
    ((3, 3), (2, 2), (1, 1, 1, 1), False),
    ((3, 3), (1, 1), (1, 1, 1, 1), False),
    ((2, 2), (2, 2), (0, 0, 0, 0), False),
    ((3, 2), (2, 3), (0, 1, 2, 0), False),
    ((3, 3), (2, 2), (0, 0, 0, 0), True),
    ((1, 1), (1, 1), (0, 0, 0, 0), False),
    ((7, 7), (1, 1), (3, 3, 3, 3), False),
]


def windows(a, kernel, strides, pads, ceil_mode, fill):
    """(N, C, H', W', kernel elements), `fill` where a window leaves the image."""
    sizes = []
    for axis in (0, 1):
        room = a.shape[2 + axis] + pads[axis] + pads[axis + 2] - kernel[axis]
        sizes.append((room + (strides[axis] - 1 if ceil_mode else 0)) // strides[axis] + 1)
    more = [(0, 0), (0, 0)]
    more += [(pads[i], pads[i + 2] + strides[i]) for i in (0, 1)]
    padded = np.pad(a, more, constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
    seen = seen[:, :, :: strides[0], :: strides[1]][:, :, : sizes[0], : sizes[1]]
    return seen.reshape(*seen.shape[:4], -1)


@pytest.mark.parametrize("channels", [3, 7])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_max_pool(window, channels):
    kernel, strides, pads, ceil_mode = window
    x, a = placeholder("x", 2, channels, 12, 13), random(2, channels, 12, 13)
    pool = topi.nn.pool2d(x, kernel, strides, (1, 1), pads, "max", ceil_mode)
    wanted = np.nanmax(windows(a, *window, np.nan), -1)
    check(prim_func([x], [pool]), "CPUWindow", [a], [wanted])
    wanted = np.maximum(wanted, 0) * np.float32(0.5)
    behind = topi.multiply(topi.nn.relu(pool), tirx.const(0.5, "float32"))
    check(prim_func([x], [behind]), "CPUWindow", [a], [wanted])


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("window", [w for w in WINDOWS if not w[3]], ids=str)
def test_average_pool(window, include):
    kernel, strides, pads, ceil_mode = window
    x, a = placeholder("x", 1, 5, 12, 13), random(1, 5, 12, 13)
    pool = topi.nn.pool2d(x, kernel, strides, (1, 1), pads, "avg", ceil_mode, "NCHW", include)
    seen = windows(a, *window, 0 if include else np.nan)
    check(prim_func([x], [pool]), "CPUWindow", [a], [np.nanmean(seen, -1)])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_row_by_row(window):
    """What the caches of a core don't hold is read in the order in which it lies."""
    kernel, strides, pads, ceil_mode = window
    x, a = placeholder("x", 2, 3, 12, 13), random(2, 3, 12, 13)
    for kind, fill, reduce in (("max", -np.inf, np.max), ("avg", 0, np.mean)):
        if kind == "avg" and ceil_mode:
            continue
        pool = topi.nn.pool2d(x, kernel, strides, (1, 1), pads, kind, ceil_mode, "NCHW", True)
        sch = CPUWindow().apply(prim_func([x], [pool]), replace(NATIVE, l2_bytes=256))
        assert sch is not None
        rows = sch.mod.script().index("ax2_fused")
        columns = sch.mod.script().rindex("_update")
        assert sch.mod.script()[rows:columns].count(" in T.unroll(") == int(max(kernel) > 1)
        wanted = reduce(windows(a, *window, fill), -1)
        out = np.full(wanted.shape, 77, "float32")
        Kernel(sch.mod["main"])(a, out)
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 40])
def test_symbolic_sequence(size):
    n = tirx.Var("n", "int64")
    x, a = placeholder("x", 2, 3, n), random(2, 3, size)
    pool = topi.nn.pool1d(x, [3], [1], [1], [1, 1], "max", False, "NCW")
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1)), constant_values=-np.inf)
    wanted = np.lib.stride_tricks.sliding_window_view(padded, 3, 2).max(-1)
    check(prim_func([x], [pool]), "CPUWindow", [a], [wanted], {"n": size})


def test_volume():
    x, a = placeholder("x", 1, 2, 5, 6, 7), random(1, 2, 5, 6, 7)
    pool = topi.nn.pool3d(x, [2, 3, 3], [1, 2, 1], [1, 1, 1], [0, 1, 1, 1, 1, 1], "max", False)
    pads = ((0, 0), (0, 0), (0, 1), (1, 1), (1, 1))
    padded = np.pad(a, pads, constant_values=-np.inf)
    seen = np.lib.stride_tricks.sliding_window_view(padded, (2, 3, 3), (2, 3, 4))[:, :, :, ::2]
    check(prim_func([x], [pool]), "CPUWindow", [a], [seen.max((-1, -2, -3))])


def test_nan_and_infinity():
    x, a = placeholder("x", 1, 3, 6, 6), random(1, 3, 6, 6)
    a[0, 0, 2, 2], a[0, 1, 3, 3], a[0, 2] = np.inf, -np.inf, -np.inf
    pool = topi.nn.pool2d(x, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "avg", False)
    wanted = windows(a, (3, 3), (1, 1), (1, 1, 1, 1), False, 0).mean(-1)
    check(prim_func([x], [pool]), "CPUWindow", [a], [wanted])


def test_rows_in_parallel_and_borders_apart():
    x = placeholder("x", 1, 3, 12, 13)
    pool = topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max", False)
    sch = CPUWindow().apply(prim_func([x], [pool]), NATIVE)
    assert sch is not None
    assert loops(sch.mod, "parallel") == 1
    assert "pragma_loop_partition_hint" in sch.mod.script()


def test_declines_rows_products_and_two_outputs():
    x, w = placeholder("x", 1, 3, 8), placeholder("w", 2, 3, 3)
    assert CPUWindow().apply(prim_func([x], [topi.sum(x, 2)]), NATIVE) is None
    convolution = topi.nn.conv1d_ncw(x, w, 1, 0, 1)
    assert CPUWindow().apply(prim_func([x, w], [convolution]), NATIVE) is None
    pool = topi.nn.pool1d(x, [3], [1], [1], [0, 0], "max", False, "NCW")
    assert CPUWindow().apply(prim_func([x], [pool, topi.nn.relu(pool)]), NATIVE) is None


def test_declines_windows_over_other_axes():
    """A window over channels leaves whole rows to work on: CPUReduction's."""
    x, a = placeholder("x", 1, 6, 5, 8), random(1, 6, 5, 8)
    k = te.reduce_axis((0, 3), "k")
    total = te.compute((1, 4, 5, 8), lambda n, c, h, w: te.sum(x[n, c + k, h, w], k))
    func = prim_func([x], [total])
    assert CPUWindow().apply(func, NATIVE) is None
    check(func, "CPUReduction", [a], [a[:, :4] + a[:, 1:5] + a[:, 2:]])
