"""Results larger than the caches: stored past them, wherever they lie."""

from dataclasses import replace

import numpy as np
import pytest
from tvm import te, tirx

from athanor.targets import find_target
from athanor.targets.rules import schedule

from ..schedules.kernel import Kernel
from ..schedules.scheduled import placeholder

SMALL = replace(find_target("native"), l3_bytes=1024)
"""A machine whose caches little fits in."""


def kernel_of(x, element, target=SMALL):
    func = te.create_prim_func([x, te.compute(x.shape, element, "y")])
    return Kernel(schedule(func, target)[0].mod["main"], target)


def streams(kernel):
    return "!nontemporal" in kernel.object.llvm_ir()


needs_x86 = pytest.mark.skipif(not SMALL.streams, reason="stores past caches are x86's here")


@needs_x86
@pytest.mark.parametrize("offset", [0, 1, 4, 15])
@pytest.mark.parametrize("columns", [256, 250])
def test_the_same_numbers_at_any_address(offset, columns):
    x = placeholder("x", 40, columns)
    kernel = kernel_of(x, lambda i, j: x[i, j] * tirx.const(2, "float32"))
    assert streams(kernel)
    data = np.random.default_rng(0).random((40, columns), np.float32)
    memory = np.full(40 * columns + 64, 7, np.float32)
    start = -(memory.ctypes.data // 4) % 16 + offset
    result = memory[start : start + data.size].reshape(data.shape)
    kernel(data, result)
    np.testing.assert_array_equal(result, 2 * data)
    assert (memory[:start] == 7).all() and (memory[start + data.size :] == 7).all()


@needs_x86
def test_results_that_caches_hold_stay_there():
    x = placeholder("x", 40, 256)
    assert not streams(kernel_of(x, lambda i, j: x[i, j] * 2, find_target("native")))
    tiny = replace(SMALL, l3_bytes=40 * 256 * 4)
    assert not streams(kernel_of(x, lambda i, j: x[i, j] * 2, tiny))


@needs_x86
def test_arithmetic_hides_the_reading_of_lines():
    x = placeholder("x", 40, 256)
    assert not streams(kernel_of(x, lambda i, j: tirx.exp(x[i, j])))


@needs_x86
def test_sums_that_are_read_again_stay_in_caches():
    x = placeholder("x", 40, 256)
    again = te.reduce_axis((0, 40), "k")
    made = te.compute((256,), lambda j: te.sum(x[again, j], axis=again), "sum")
    func = te.create_prim_func([x, made])
    kernel = Kernel(schedule(func, SMALL)[0].mod["main"], SMALL)
    data, out = np.random.default_rng(0).random((40, 256), np.float32), np.empty(256, np.float32)
    kernel(data, out)
    np.testing.assert_allclose(out, data.sum(axis=0), rtol=1e-5)


def test_other_processors_store_as_ever():
    assert not find_target("aarch64").streams
