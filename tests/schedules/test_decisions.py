"""Decisions of rules: preferred, replayed, repaired."""

import numpy as np
import pytest

from athanor.schedules.compute.conv2d import (
    conv2d_blocked,
    pack_conv2d_weight,
    plan_conv2d,
)
from athanor.schedules.decisions import DecisionError, Decisions
from athanor.schedules.rule import apply_decisions
from athanor.targets.rules import CPU_RULES, schedule

from .blocked import pack_channels
from .kernel import Kernel
from .scheduled import NATIVE, placeholder, prim_func, random

PLAN = plan_conv2d(16, 32, (3, 3), 1, 16)


@pytest.fixture(scope="module")
def convolution():
    """A prim_func, its arguments, and what the heuristic's kernel makes of them."""
    data, weight = random(1, 16, 9, 10), random(32, 16, 3, 3)
    arrays = [pack_channels(data, 16), pack_conv2d_weight(weight, PLAN)]
    inputs = [placeholder(name, *a.shape) for name, a in zip("xw", arrays, strict=True)]
    options = dict(strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    func = prim_func(inputs, [conv2d_blocked(*inputs, plan=PLAN, **options)])
    return func, arrays, run(schedule(func, NATIVE)[0], arrays)


def run(sch, arrays):
    result = np.full((1, 2, 9, 10, 16), 77, "float32")
    Kernel(sch.mod["main"])(*arrays, result)
    return result


def decided(func, values, repair=False):
    return apply_decisions(CPU_RULES, func, NATIVE, Decisions("CPUConv2d", tuple(values)), repair)


def test_no_values_are_the_heuristic(convolution):
    func, _, _ = convolution
    sch, points = decided(func, (), repair=True)
    assert sch.mod.script() == schedule(func, NATIVE)[0].mod.script()
    assert all(point.value in point.candidates for point in points)
    again, _ = decided(func, [point.value for point in points])
    assert again.mod.script() == sch.mod.script()


def test_decisions_are_sampling_instructions(convolution):
    sch, points = decided(convolution[0], (), repair=True)
    sampled = [i for i in sch.trace.insts if i.kind.name == "SampleCategorical"]
    assert len(sampled) == len(points)


def test_every_single_change_computes_the_same(convolution):
    func, arrays, wanted = convolution
    _, points = decided(func, (), repair=True)
    base = [point.value for point in points]
    for index, point in enumerate(points):
        value = next(c for c in (*point.candidates[::-1],) if c != point.value)
        changed = [*base[:index], value, *base[index + 1 :]]
        sch, made = decided(func, changed, repair=True)
        assert made[index].value == value
        np.testing.assert_allclose(run(sch, arrays), wanted, rtol=1e-4, atol=1e-4)


def test_misfits_are_refused(convolution):
    func, _, _ = convolution
    base = [point.value for point in decided(func, (), repair=True)[1]]
    with pytest.raises(DecisionError, match="decision 1, flat, is 7: it is one of"):
        decided(func, [7, *base[1:]])
    with pytest.raises(DecisionError, match="is none: it is one of"):
        decided(func, base[:-1])
    with pytest.raises(DecisionError, match="are asked for"):
        decided(func, [*base, 1])
    with pytest.raises(DecisionError, match="there is no rule CPUOther"):
        apply_decisions(CPU_RULES, func, NATIVE, Decisions("CPUOther", ()))
    with pytest.raises(DecisionError, match="CPUMatmul does not take the kernel"):
        apply_decisions(CPU_RULES, func, NATIVE, Decisions("CPUMatmul", ()))
