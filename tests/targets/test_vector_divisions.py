"""Quotients of integers in vectors, the extremes of every type, against exact ones."""

import numpy as np
import pytest
from tvm import te, tirx

from athanor.targets import find_target
from athanor.targets.rules import schedule

from ..schedules.kernel import Kernel


def operands(dtype):
    """Pairs of extremes, of neighbours of multiples, and random ones."""
    kind, generator = np.iinfo(dtype), np.random.default_rng(6)
    edges = [kind.min, kind.min + 1, kind.max, kind.max - 1, 1, 2, 3, 7, kind.max // 2 + 1]
    edges += [-1, -2, -3] if kind.min else []
    first, second = (side.ravel() for side in np.meshgrid(edges, edges))
    b = generator.integers(1, kind.max, 5000)
    near = generator.integers(0, kind.max // b + 1) * b + generator.integers(-1, 2, 5000)
    near = np.clip(near, 0, kind.max)
    a, b = np.concatenate([first, near]), np.concatenate([second, b])
    usual = (b != 0) & ~((a == kind.min) & (b == -1))
    return a[usual].astype("int64"), b[usual].astype("int64")


@pytest.mark.parametrize("target", ["native", "x86-64-v2"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_quotients(dtype, target):
    if find_target("native").triple.split("-")[0] != "x86_64" and target != "native":
        pytest.skip("code for x86-64")
    a, b = operands(dtype if dtype != "int64" else "int32")
    shape = a.shape
    x, y = (te.placeholder(shape, dtype, name) for name in "xy")
    z = te.compute(shape, lambda i: tirx.truncdiv(x[i], y[i]), "z")
    sch, _ = schedule(te.create_prim_func([x, y, z], "int64"), find_target(target))
    out = np.zeros(shape, dtype)
    kernel = Kernel(sch.mod["main"], find_target(target))
    kernel(a.astype(dtype), b.astype(dtype), out)
    wanted = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    np.testing.assert_array_equal(out, wanted.astype(dtype))
    floats = "fdiv" in kernel.object.llvm_ir()
    assert floats == (dtype != "int64")
