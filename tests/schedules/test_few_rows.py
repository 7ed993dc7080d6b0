import re

import numpy as np
import pytest

from athanor.schedules.compute.few_rows import row_dots_kernel, row_lines_kernel
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

from .kernel import Kernel
from .scheduled import NATIVE, random

HERE = [TARGETS[name] for name in ("x86-64-v2", "x86-64-v3")] + [NATIVE]


def run(func, target, *arrays, shape):
    result = np.full(shape, 77, "float32")
    Kernel(schedule(func, target)[0].mod["main"], target)(*map(np.ravel, arrays), result.ravel())
    return result


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("images", "rows", "columns", "depth"),
    [
        (1, 1, 16, 16),
        (3, 1, 40, 33),
        (2, 3, 17, 64),
        (1, 1, 300, 5),
        (5, 2, 33, 1),
        (2, 1, 600, 500),
    ],
)
def test_dots_of_rows(images, rows, columns, depth, target):
    a, b = random(images, rows, depth), random(images, columns, depth)
    b[0, 1, -1] = np.nan  # of one column and no other
    func = row_dots_kernel(images, rows, columns, depth, target)
    result = run(func, target, a, b, shape=(images, rows, columns))
    np.testing.assert_allclose(result, a @ b.swapaxes(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("images", "rows", "depth", "columns"),
    [(1, 1, 8, 16), (3, 1, 33, 40), (2, 3, 64, 17), (1, 4, 5, 7), (1, 1, 1, 1), (2, 2, 500, 1031)],
)
def test_lines_of_the_right_operand(images, rows, depth, columns, target):
    a, b = random(images, rows, depth), random(images, depth, columns)
    b[0, -1, -1] = np.inf
    func = row_lines_kernel(images, rows, depth, columns, target)
    result = run(func, target, a, b, shape=(images, rows, columns))
    np.testing.assert_allclose(result, a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_sums_of_lanes_stay_in_registers(name):
    target = TARGETS[name]
    sch, rule = schedule(row_dots_kernel(2, 1, 100, 64, target), target)
    assert rule == "ByHand"
    lowered = lower_kernel("kernel", sch.mod["main"], target)
    text = build_kernels({"kernel": lowered}, target).assembly()
    assert not re.search(r"(call|bl)\w*\s+athanor_transpose", text), "inlined"
