"""Tiles moved back to be whole: every element once at least, none outside."""

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from athanor.targets.overlap_rests import OVERLAP

from ..schedules.kernel import Kernel


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize(("length", "tile"), [(16, 16), (17, 16), (31, 16), (100, 32), (9, 4)])
def test_lines(length, tile, parts):
    """y[i] = 2 x[i] + 1 by way of scratch memory; rows as long as the line is."""
    shape = (tirx.IntImm("int64", length),) * 2
    x = te.placeholder(shape, "float32", "x")
    twice = te.compute(shape, lambda i, j: x[i, j] * 2, "twice")
    func = te.create_prim_func([x, te.compute(shape, lambda i, j: twice[i, j] + 1, "y")])
    sch = s_tir.Schedule(func)
    row, column = sch.get_loops(sch.get_sblock("y"))
    steps = -(-length // (tile * parts))
    part, step, lane = sch.split(column, [None, steps, tile])
    sch.reorder(part, row, step, lane)
    sch.compute_at(sch.get_sblock("twice"), step, preserve_unit_loops=True)
    sch.annotate(step, OVERLAP, [length, tile])
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.get_sblock("twice"))[-1])
    sch.parallel(part)
    given = np.arange(length * length, dtype=np.float32).reshape(length, length)
    memory = np.full((3, length, length), 7, np.float32)
    Kernel(sch.mod["main"])(given, memory[1])
    np.testing.assert_array_equal(memory[1], 2 * given + 1)
    assert np.all(memory[::2] == 7)


def test_tiles_of_another_axis_of_the_same_length_stay():
    """Two rows at once, of as many rows as there are columns."""
    length, tile = 18, 16
    shape = (tirx.IntImm("int64", length),) * 2
    x = te.placeholder(shape, "float32", "x")
    twice = te.compute(shape, lambda i, j: x[i, j] * 2, "twice")
    func = te.create_prim_func([x, te.compute(shape, lambda i, j: twice[i, j] + 1, "y")])
    sch = s_tir.Schedule(func)
    row, column = sch.get_loops(sch.get_sblock("y"))
    band, row = sch.split(row, [None, 2])
    step, lane = sch.split(column, [None, tile])
    sch.reorder(band, step, row, lane)
    sch.compute_at(sch.get_sblock("twice"), step, preserve_unit_loops=True)
    sch.annotate(step, OVERLAP, [length, tile])
    sch.vectorize(lane)
    given = np.arange(length * length, dtype=np.float32).reshape(length, length)
    made = np.full((length, length), 7, np.float32)
    Kernel(sch.mod["main"])(given, made)
    np.testing.assert_array_equal(made, 2 * given + 1)
