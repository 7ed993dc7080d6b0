"""Windows at the border of a map read nothing outside of it."""

import ctypes
import ctypes.util
import mmap

import numpy as np
import pytest

from athanor.schedules.compute import window
from athanor.schedules.rules.cpu_plain_window import CPUPlainWindow
from athanor.targets import find_target
from athanor.targets.codegen import lower_kernel

from ..schedules.blocked import convolve, windows
from ..schedules.kernel import Kernel
from ..schedules.scheduled import NATIVE, placeholder, prim_func, random

PAGE = mmap.PAGESIZE
PROT_NONE = 0


@pytest.fixture
def fenced():
    """An array of whole pages between two that nobody may touch."""
    kept = []
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)

    def make(data):
        assert data.nbytes % PAGE == 0, "whole pages"
        memory = mmap.mmap(-1, data.nbytes + 2 * PAGE)
        whole = np.frombuffer(memory, np.float32)
        begin = whole.ctypes.data
        middle = whole[PAGE // 4 : -PAGE // 4].reshape(data.shape)
        middle[...] = data
        for place in (begin, begin + PAGE + data.nbytes):
            done = libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(PAGE), PROT_NONE)
            assert done == 0, ctypes.get_errno()
        kept.append((memory, begin, data.nbytes, whole, middle))
        return middle

    yield make
    for _, begin, size, *_ in kept:
        libc.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(size + 2 * PAGE), 3)


def run(func, inputs, shape):
    sch = CPUPlainWindow().apply(func, NATIVE)
    assert sch is not None
    out = np.full(shape, np.nan, np.float32)
    Kernel(sch.mod["main"], NATIVE)(*inputs, out)
    return out


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (8, 128), (128, 8)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 9), (9, 1)])
def test_depthwise_reads_nothing_outside(fenced, size, kernel):
    data, weight = random(1, 4, *size), random(4, *kernel)
    x, w = placeholder("x", *data.shape), placeholder("w", *weight.shape)
    padding = (kernel[0] // 2, kernel[1] // 2) * 2
    made = window.depthwise_conv2d_plain(x, w, padding=padding)
    out = run(prim_func([x, w], [made]), [fenced(data), weight], data.shape)
    wanted = convolve(data, weight[:, None], groups=4, padding=padding)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


def test_maps_odd_both_ways(fenced):
    """Tiles that end early have branches; these go around the lanes, whose loads have masks."""
    data, weight = random(1, 1024, 17, 19), random(1024, 3, 3)
    x, w = placeholder("x", *data.shape), placeholder("w", *weight.shape)
    func = prim_func([x, w], [window.depthwise_conv2d_plain(x, w, padding=(1, 1, 1, 1))])
    out = run(func, [fenced(data), weight], data.shape)
    wanted = convolve(data, weight[:, None], groups=1024, padding=(1, 1, 1, 1))
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    target = find_target("x86-64-v4")
    sch = CPUPlainWindow().apply(func, target)
    assert sch is not None
    text = lower_kernel("odd", sch.mod["main"], target).script()
    assert "masked.load" in text
    assert "if_then_else" not in text


def test_the_border_of_maxima_is_no_element(fenced):
    data = random(1, 4, 16, 16)
    data[0, 0] = -np.inf
    data[0, 1, 3, 3] = np.nan
    data[0, 2] = -5
    x = placeholder("x", *data.shape)
    made = window.max_pool2d_plain(x, kernel=(3, 3), padding=(1, 1, 1, 1))
    out = run(prim_func([x], [made]), [fenced(data)], data.shape)
    taps = list(windows(data, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), -np.inf))
    wanted = np.max(taps, axis=0)
    np.testing.assert_array_equal(np.delete(out, 1, axis=1), np.delete(wanted, 1, axis=1))


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_loads_of_the_border_have_masks(name):
    x, w = placeholder("x", 1, 4, 16, 32), placeholder("w", 4, 3, 3)
    made = window.depthwise_conv2d_plain(x, w, padding=(1, 1, 1, 1))
    sch = CPUPlainWindow().apply(prim_func([x, w], [made]), find_target(name))
    assert sch is not None
    kernel = Kernel(sch.mod["main"], find_target(name))
    assert "masked.load" in kernel.object.llvm_ir()
