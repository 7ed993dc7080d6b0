"""Loops cut at their conditions: on each other, never true, of several loops, in any number."""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from athanor.targets import find_target
from athanor.targets.codegen import lower_kernel
from athanor.targets.partition_loops import GUARD, HINT
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


def test_conditional_expressions_are_decided():
    x = te.placeholder((4, 50), "float32", "x")

    def element(i, j):
        inside = tirx.all(j >= 3, j < 53)
        return tirx.if_then_else(inside, x[i, j - 3], tirx.const(0, "float32"))

    func = te.create_prim_func([x, te.compute((4, 60), element, "pad")])
    target = find_target("native")
    kernel = Kernel(schedule(func, target)[0].mod["main"], target)
    lowered = lower_kernel("pad", schedule(func, target)[0].mod["main"], target)
    assert "if_then_else" not in lowered.script()
    data, out = np.random.default_rng(0).random((4, 50), np.float32), np.empty((4, 60), np.float32)
    kernel(data, out)
    np.testing.assert_array_equal(out, np.pad(data, ((0, 0), (3, 7))))


def guarded(rows, columns):
    """A matrix with a margin around it, to see what is written outside; (all of it, the matrix)."""
    memory = np.full(3 * rows * columns, 7, np.float32)
    return memory, memory[rows * columns : 2 * rows * columns].reshape(rows, columns)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("columns", [3, 8, 21, 24])
def test_a_condition_that_loops_around_decide(columns, known):
    """Whole vectors are stored as such, though a task's place decides whether they are whole."""
    width = columns if known else tirx.Var("width", "int64")
    x = te.placeholder((5, width), "float32", "x")
    func = te.create_prim_func([x, te.compute((5, width), lambda i, j: x[i, j] + 1.0, "y")])
    sch = s_tir.Schedule(func)
    row, column = sch.get_loops(sch.get_sblock("y"))
    tile, unit, lane = sch.split(column, [None, 1, 8])
    sch.parallel(sch.fuse(row, tile))
    sch.annotate(unit, GUARD, 1)
    sch.vectorize(lane)
    lowered = lower_kernel("kernel", sch.mod["main"], find_target("native")).script()
    assert ("Broadcast" in lowered) == (not known or columns >= 8)
    data, (memory, result) = np.random.default_rng(0).random((5, columns)), guarded(5, columns)
    data = data.astype("float32")
    Kernel(sch.mod["main"])(data, result, *(() if known else (columns,)))
    np.testing.assert_array_equal(result, data + 1)
    assert (memory[: result.size] == 7).all() and (memory[-result.size :] == 7).all()


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("k", [-9, -3, 0, 3, 5, 9])
@pytest.mark.parametrize("known", [True, False])
def test_a_condition_that_changes_outside_of_the_loop(k, upper, known):
    diagonal = k if known else tirx.Var("k", "int64")
    x = te.placeholder((tirx.IntImm("int64", 4), tirx.IntImm("int64", 5)), "float32", "x")

    def element(i, j):
        kept = j - i >= diagonal if upper else j - i <= diagonal
        return tirx.Select(kept, x[i, j], tirx.const(0, "float32"))

    args = [x, te.compute(x.shape, element, "y")] + ([] if known else [diagonal])
    func = te.create_prim_func(args)
    kernel = Kernel(schedule(func, find_target("native"))[0].mod["main"])
    memory, result = guarded(4, 5)
    given = np.arange(20, dtype=np.float32).reshape(4, 5)
    kernel(given, result, *([] if known else [k]))
    np.testing.assert_array_equal(result, (np.triu if upper else np.tril)(given, k))
    assert np.all(memory[:20] == 7) and np.all(memory[40:] == 7)


@pytest.mark.parametrize(("begin", "end"), [(0, 8), (3, 5), (9, 12), (-4, -2), (6, 2), (-1, 9)])
def test_two_conditions(begin, end):
    """Where the interval in which both hold is empty, no element may be added twice."""
    first, last = tirx.Var("first", "int64"), tirx.Var("last", "int64")
    x = te.placeholder((tirx.IntImm("int64", 8),) * 2, "float32", "x")
    k = te.reduce_axis((0, tirx.IntImm("int64", 8)), "k")

    def element(j):
        inside = tirx.all(j >= first, j < last)
        return te.sum(tirx.if_then_else(inside, x[k, j], tirx.const(1, "float32")), axis=k)

    func = te.create_prim_func([x, te.compute((8,), element, "y"), first, last])
    sch = s_tir.Schedule(func)
    (j, k) = sch.get_loops(sch.get_sblock("y"))
    sch.decompose_reduction(sch.get_sblock("y"), j)
    sch.reorder(k, j)
    sch.annotate(j, HINT, 1)
    memory, result = guarded(1, 8)
    given = np.arange(64, dtype=np.float32).reshape(8, 8)
    Kernel(sch.mod["main"])(given, result[0], begin, end)
    inside = (np.arange(8) >= begin) & (np.arange(8) < end)
    np.testing.assert_array_equal(result[0], np.where(inside, given.sum(0), 8))
    assert np.all(memory[:8] == 7) and np.all(memory[16:] == 7)


def test_equalities_of_two_loops():
    """A table of numbers that are known one by one."""
    values = [tirx.Var(f"v{number}", "int64") for number in range(9)]

    def element(i, j):
        place, result = i * 3 + j, values[8]
        for number in range(7, -1, -1):
            result = tirx.Select(
                tirx.EQ(place, tirx.const(number, "int64")), values[number], result
            )
        return result

    shape = (tirx.IntImm("int64", 3),) * 2
    func = te.create_prim_func([te.compute(shape, element, "table"), *values])
    kernel = Kernel(schedule(func, find_target("native"))[0].mod["main"])
    result = np.zeros((3, 3), np.int64)
    kernel(result, *range(10, 19))
    np.testing.assert_array_equal(result, np.arange(10, 19).reshape(3, 3))


@dataclass(frozen=True)
class Condition:
    """`p * i + q * j + r * k` compared with `limit`, of loops i and j and of a number k of the run.

    It reads the same for integers and for expressions.
    """

    factors: tuple[int, int, int]
    limit: int
    compare: Callable

    def __call__(self, i, j, k):
        p, q, r = self.factors
        return self.compare(i * p + j * q + k * r, self.limit)


def conditions(rng, count):
    operators = (operator.lt, operator.le, operator.gt, operator.ge)
    return [
        Condition(
            (
                rng.choice([0, 1, -1, 3, -3]),
                rng.choice([1, 1, 1, -1, 2]),
                rng.choice([0, 0, 1, -1]),
            ),
            rng.randint(-8, 12),
            rng.choice(operators),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_chains_of_conditions(seed):
    """Every piece has to be right and in its place, whatever is true of the order of the cuts."""
    rng = random.Random(seed)
    rows, columns, depth = rng.choice([1, 3, 5, 8]), rng.choice([2, 5, 9, 20]), rng.randint(1, 4)
    pairs = list(zip(conditions(rng, depth), conditions(rng, depth), strict=True))
    joins = [rng.choice(["first", "all", "any"]) for _ in range(depth)]
    turned = [rng.random() < 0.5 for _ in range(depth)]
    size = tirx.Var("rows", "int64") if rng.random() < 0.3 else tirx.IntImm("int64", rows)
    k = tirx.Var("k", "int64")
    x = te.placeholder((size, tirx.IntImm("int64", columns)), "float32", "x")

    def element(i, j):
        result = x[i, j]
        for number, ((first, second), join) in enumerate(zip(pairs, joins, strict=True)):
            holds, other = first(i, j, k), second(i, j, k)
            if join != "first":
                holds = (tirx.all if join == "all" else tirx.any)(holds, other)
            branches = (tirx.const(100.0 + number, "float32"), result)
            result = tirx.Select(holds, *branches[:: -1 if turned[number] else 1])
        return result

    func = te.create_prim_func([x, te.compute(x.shape, element, "y"), k])
    kernel = Kernel(schedule(func, find_target("native"))[0].mod["main"])
    given = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    i, j = np.ogrid[:rows, :columns]
    for value in (-9, -3, 0, 1, 4, 11):
        memory, result = guarded(rows, columns)
        kernel(given, result, value, *([rows] if isinstance(size, tirx.Var) else []))
        expected = given
        for number, ((first, second), join) in enumerate(zip(pairs, joins, strict=True)):
            holds, other = first(i, j, value), second(i, j, value)
            holds = {"first": holds, "all": holds & other, "any": holds | other}[join]
            expected = np.where(holds ^ turned[number], np.float32(100 + number), expected)
        np.testing.assert_array_equal(result, expected)
        assert np.all(memory[: given.size] == 7) and np.all(memory[2 * given.size :] == 7)
