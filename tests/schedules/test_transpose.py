import numpy as np
import pytest

from athanor.schedules.compute.transpose import plan_transpose, transpose_kernel
from athanor.targets.rules import schedule

from .kernel import Kernel
from .scheduled import NATIVE, random

LANES = NATIVE.lanes(32)


@pytest.mark.parametrize(
    "shape, order",
    [
        ((16, 16), (1, 0)),
        ((17, 50), (1, 0)),
        ((1, 100, 33), (0, 2, 1)),
        ((3, 20, 18, 19), (0, 2, 3, 1)),
        ((3, 20, 17, 2), (0, 2, 3, 1)),
        ((2, 19, 5, 21), (3, 2, 0, 1)),
        ((4, 17, 3, 31), (2, 0, 3, 1)),
        ((300, 1, 250), (2, 1, 0)),
    ],
)
def test_result(shape, order):
    x = random(*shape)
    plan = plan_transpose(shape, order)
    func = schedule(transpose_kernel(plan, LANES), NATIVE)[0].mod["main"]
    result = np.full(x.size, np.nan, "float32")
    Kernel(func)(x.ravel(), result)
    np.testing.assert_array_equal(result, x.transpose(order).ravel())


@pytest.mark.parametrize(
    "shape, order",
    [((4, 5, 6), (1, 0, 2)), ((4, 5, 1), (0, 2, 1)), ((7,), (0,)), ((4, 5, 6), (0, 1, 2))],
)
def test_last_axis_that_stays(shape, order):
    assert plan_transpose(shape, order) is None


def test_neighbours_are_one_axis():
    plan = plan_transpose((2, 3, 4, 5), (0, 2, 3, 1))
    assert (plan.outer, plan.rows, plan.columns) == (((2, 60, 60),), (3, 20), (20, 3))
