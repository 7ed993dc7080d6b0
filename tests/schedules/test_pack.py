import re

import numpy as np
import pytest
from tvm import tirx

from athanor.schedules.compute.pack import pack_kernel, unpack_kernel
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

from .blocked import pack_channels
from .kernel import Kernel
from .scheduled import NATIVE, random

SHAPES = [
    *[(1, 16, 4, 4), (1, 1, 1, 1), (2, 17, 3, 3), (1, 33, 5, 13), (3, 40, 7, 7)],
    *[(1, 5, 1, 17), (1, 15, 40, 1), (1, 64, 56, 56), (2, 3, 100, 37)],
]


def run(func, array, shape, sizes=()):
    result = np.full(shape, 77, "float32")
    Kernel(schedule(func, NATIVE)[0].mod["main"])(array, result, *sizes)
    return result


@pytest.mark.parametrize("lanes", [lanes for lanes in (4, 8, 16) if lanes <= NATIVE.lanes(32)])
@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape, lanes):
    batch, channels, height, width = shape
    data = random(*shape)
    blocked = pack_channels(data)
    there = pack_kernel(batch, channels, height, width, 16, lanes)
    np.testing.assert_array_equal(run(there, data, blocked.shape), blocked)
    blocked[:, -1, ..., (channels - 1) % 16 + 1 :] = np.nan  # channels that are not there
    back = unpack_kernel(batch, channels, height, width, 16, lanes)
    np.testing.assert_array_equal(run(back, blocked, shape), data)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 3), (1, 9, 14), (2, 40, 60)])
def test_symbolic_sizes(size):
    batch, height, width = (tirx.Var(name, "int64") for name in ("batch", "height", "width"))
    data = random(size[0], 19, *size[1:])
    blocked = pack_channels(data)
    lanes = NATIVE.lanes(32)
    there = pack_kernel(batch, 19, height, width, 16, lanes)
    np.testing.assert_array_equal(run(there, data, blocked.shape, size), blocked)
    back = unpack_kernel(batch, 19, height, width, 16, lanes)
    np.testing.assert_array_equal(run(back, blocked, data.shape, size), data)


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.parametrize("kernel", [pack_kernel, unpack_kernel])
def test_lowers_for_every_target(name, kernel):
    target = TARGETS[name]
    func = kernel(1, 64, 28, 28, 16, target.lanes(32))
    sch, rule = schedule(func, target)
    assert rule == "ByHand"
    lowered = lower_kernel("kernel", sch.mod["main"], target)
    text = build_kernels({"kernel": lowered}, target).assembly()
    assert not re.search(r"(call|bl)\w*\s+athanor_transpose", text), "inlined"
