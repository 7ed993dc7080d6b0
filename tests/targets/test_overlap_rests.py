"""Tiles moved back to be whole: every element once at least, none outside."""

import functools

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from athanor.schedules.compute.matmul import few_rows_matmul
from athanor.targets import find_target
from athanor.targets.codegen import lower_kernel
from athanor.targets.overlap_rests import OVERLAP
from athanor.targets.rules import schedule

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


def _inverse(line, i):
    return 1 / (line[i] + 1)


def test_what_may_be_done_in_place_is_not_done_twice():
    """Three lines of one size, each from the one before: memory of the first may serve the second.

    So it went: a softmax over channels of 33 columns multiplied by its sums.
    """
    length, tile = 33, 16
    shape = (tirx.IntImm("int64", length),)
    x = te.placeholder(shape, "float32", "x")
    line = x
    for number in range(3):
        line = te.compute(shape, functools.partial(_inverse, line), f"line{number}")
    sch = s_tir.Schedule(te.create_prim_func([x, line]))
    for number in range(3):
        step, lane = sch.split(sch.get_loops(sch.get_sblock(f"line{number}"))[0], [None, tile])
        sch.annotate(step, OVERLAP, [length, tile])
        sch.vectorize(lane)
    given = np.linspace(0, 5, length, dtype=np.float32)
    made = np.full(length, 7, np.float32)
    Kernel(sch.mod["main"])(given, made)
    wanted = given
    for _ in range(3):
        wanted = 1 / (wanted + 1)
    np.testing.assert_allclose(made, wanted, rtol=1e-6)


def test_a_tile_that_the_loop_makes_may_be_stored_twice():
    """A product's sums are as many as its results, but begin anew with every tile."""
    a, b = (te.placeholder(shape, "float32") for shape in ((3, 20), (20, 37)))
    func = te.create_prim_func([a, b, few_rows_matmul(a, b)])
    target = find_target("native")
    sch, _ = schedule(func, target)
    assert OVERLAP in sch.mod.script()
    assert OVERLAP not in lower_kernel("kernel", sch.mod["main"], target).script()
    left, right = (np.random.default_rng(0).random(x, np.float32) for x in ((3, 20), (20, 37)))
    made = np.empty((3, 37), np.float32)
    Kernel(sch.mod["main"])(left, right, made)
    np.testing.assert_allclose(made, left @ right, rtol=1e-5)
