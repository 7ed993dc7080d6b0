"""Schedules one prim_func with the rules of a CPU, compiles it and compares it with NumPy."""

import numpy as np
import tvm_ffi
from tvm import te

from athanor.targets import find_target
from athanor.targets.codegen import symbolic_parameters
from athanor.targets.rules import schedule

from .kernel import Kernel

NATIVE = find_target("native")


def placeholder(name, *shape, dtype="float32"):
    return te.placeholder(shape, dtype, name)


def prim_func(inputs, outputs):
    """What Relax makes of a call_te: 64-bit indices, outputs last."""
    return te.create_prim_func([*inputs, *outputs], "int64")


_compiled = {}


def compiled(func):
    """Scheduled module, rule and kernel of `func`: made once for all the sizes it is run on."""
    known = _compiled.setdefault(tvm_ffi.structural_hash(func), [])
    for other, made in known:
        if tvm_ffi.structural_equal(func, other):
            return made
    sch, rule = schedule(func, NATIVE)
    known.append((func, (sch.mod, rule, Kernel(sch.mod["main"]))))
    return known[-1][1]


def check(func, rule, arrays, expected, sizes=None, tolerance=1e-5):
    """`func` is taken by `rule` and computes `expected`; returns the scheduled module."""
    mod, name, kernel = compiled(func)
    assert name == rule
    results = [np.full(e.shape, 77, e.dtype) for e in expected]
    dims = [(sizes or {})[var.name] for var in symbolic_parameters(func)]
    kernel(*arrays, *results, *dims)
    for result, wanted in zip(results, expected, strict=True):
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
        np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance * scale)
    return mod


def loops(mod, kind):
    """How many loops of that kind a scheduled module has."""
    return mod.script().count(f"T.{kind}(")


def random(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype("float32")
