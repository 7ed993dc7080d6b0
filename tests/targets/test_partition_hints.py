"""Loops whose conditions depend on conditions are not partitioned: TVM does it wrongly."""

import numpy as np
import pytest
from tvm import te, tirx

from athanor.targets import find_target
from athanor.targets.rules import schedule

from ..schedules.kernel import Kernel


@pytest.mark.parametrize("places", [[0, -7, -8], [9, -1, -10], [3, 11, -11]])
def test_equality_with_a_chosen_place(places):
    depth = tirx.Var("depth", "int64")
    index = te.placeholder((3,), "int64", "index")

    def element(i, j):
        place = tirx.Select(index[i] < 0, index[i] + depth, index[i])
        return tirx.Select(place == j, tirx.const(3.0, "float32"), tirx.const(1.0, "float32"))

    func = te.create_prim_func([index, te.compute((3, depth), element, "one_hot")])
    kernel = Kernel(schedule(func, find_target("native"))[0].mod["main"])
    result = np.zeros((3, 10), np.float32)
    given = np.array(places, np.int64)
    kernel(given, result, 10)
    wrapped = np.where(given < 0, given + 10, given)
    np.testing.assert_array_equal(result, np.where(wrapped[:, None] == np.arange(10), 3.0, 1.0))
