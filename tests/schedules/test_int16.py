"""Products of pairs of int16: their lowering, and the kernels made of them."""

import re

import numpy as np
import pytest

from athanor.schedules.compute import int16
from athanor.schedules.compute.matmul import matmul_packed, pack_matmul_weight
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels
from athanor.targets.int16_dots import int16_function
from athanor.targets.rules import schedule_and_lower
from athanor.targets.target import TargetSpec

from .kernel import Kernel
from .scheduled import NATIVE, check, placeholder, prim_func


def integers(low, high, *shape, seed=0):
    """Random numbers, the extreme ones among them."""
    rng = np.random.default_rng(seed)
    some = rng.integers(low, high + 1, shape, dtype="int16")
    extreme = rng.choice(np.array([low, high], "int16"), shape)
    return np.where(rng.random(shape) < 0.5, some, extreme)


def product(m, k, n, low, high, target=NATIVE):
    """A prim_func, its arrays and its result, of `low` to `high` on the right."""
    a, weight = integers(-255, 255, m, k), integers(low, high, k, n, seed=1)
    packed = int16.pack_pairs(pack_matmul_weight(weight, False, target), 1)
    left = placeholder("left", m, k, dtype="int16")
    right = placeholder("right", *packed.shape, dtype=str(packed.dtype))
    func = prim_func([left, right], [matmul_packed(left, right, n)])
    return func, [a, packed], a.astype("int32") @ weight.astype("int32")


SIZES = [(1, 2, 1), (1, 64, 33), (5, 30, 17), (13, 8, 48), (29, 130, 70)]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-255, 255)])
def test_products_are_exact(m, k, n, low, high):
    func, arrays, wanted = product(m, k, n, low, high)
    check(func, "CPUMatmul", arrays, [wanted], tolerance=0)


@pytest.mark.parametrize("high", [127, 255])
def test_products_without_an_instruction_are_exact(high, monkeypatch):
    monkeypatch.setattr(TargetSpec, "pair_lanes", 0)
    func, arrays, wanted = product(6, 34, 40, -high, high)
    made = np.full(wanted.shape, 77, "int32")
    scheduled, lowered, _ = schedule_and_lower("kernel", func, NATIVE)
    assert "llvm.x86" not in build_kernels({"kernel": lowered}, NATIVE).llvm_ir()
    Kernel(scheduled.mod["main"])(*arrays, made)
    np.testing.assert_array_equal(made, wanted)


def test_the_largest_products_do_not_saturate():
    array = np.full((2, 2), -(2**15), "int16")
    words = int16.pack_pairs(array, 0)
    left = placeholder("left", 2, 2, dtype="int16")
    right = placeholder("right", 1, 1, 16, dtype="int32")
    packed = np.zeros((1, 1, 16), "int32")
    packed[..., :2] = words
    func = prim_func([left, right], [matmul_packed(left, right, 2)])
    wanted = np.full((2, 2), -(2**31), "int32")  # 2^31 wraps
    check(func, "CPUMatmul", [array, packed], [wanted], tolerance=0)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_kernels_multiply_pairs(name):
    func, *_ = product(64, 64, 64, -128, 127, TARGETS[name])
    _, lowered, rule = schedule_and_lower("kernel", func, TARGETS[name])
    text = build_kernels({"kernel": lowered}, TARGETS[name]).assembly()
    assert rule == "CPUMatmul"
    assert text.count("pmaddwd") >= 16 and "pmulld" not in text


@pytest.mark.parametrize("lanes", [1, 3, 4, 8, 16, 32, 48])
@pytest.mark.parametrize("widest", [0, 4, 16])
def test_lanes_are_cut_into_registers(lanes, widest):
    calls = re.findall(r"call <(\d+) x i32> @llvm\.x86", int16_function("int8", lanes, widest))
    fits = bool(widest) and lanes % 4 == 0
    assert sum(map(int, calls)) == (lanes if fits else 0)


def test_words_hold_neighbours():
    array = integers(-255, 255, 3, 5)
    words = int16.pack_pairs(array, 1)
    assert words.dtype == np.int32 and words.shape == (3, 3)
    np.testing.assert_array_equal(words.view(np.int16)[:, :5], array)
    assert not words.view(np.int16)[:, 5].any()
    small = int16.pack_pairs(array // np.int16(2), 0)
    assert small.dtype == np.int16 and small.shape == (2, 5)
    np.testing.assert_array_equal(small.view(np.int8)[0, ::2], array[0] // 2)
