"""The kernel of attention against NumPy in float64."""

import re

import numpy as np
import pytest
from tvm import tirx

from athanor.schedules.compute.attention import Attention, ScoreStep, attention_kernel
from athanor.schedules.compute.attention_blocks import key_block
from athanor.schedules.compute.strided import Strided, elements
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

from .kernel import Kernel
from .scheduled import NATIVE, random

HEADS_INSIDE = [0, 2, 1, 3]
"""(batch, row, head, column) as (batch, head, row, column)."""


def view(shape):
    return Strided.whole(list(shape)).permuted(HEADS_INSIDE)


def expected(q, k, v, scale, bias=0.0, guarded=False):
    scores = np.einsum("bqhd,bkhd->bhqk", q.astype("float64"), k) * scale + bias
    with np.errstate(all="ignore"):
        power = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = power / power.sum(axis=-1, keepdims=True)
        if guarded:
            weights = np.where(np.isnan(weights), 0, weights)
        return np.einsum("bhqk,bkhd->bqhd", weights, v)


def in_blocks(attention, symbols, buffers, target):
    """The kernel in the blocks that it has untuned."""
    return attention_kernel(attention, symbols, buffers, target, key_block(attention, target))


def run(sizes, bias=None, guarded=False, symbolic=False, q=None, make=in_blocks, target=NATIVE):
    """The kernel's result and NumPy's, for (batch, heads, queries, keys, size, value size)."""
    batch, heads, queries, keys, size, value_size = sizes
    q = random(batch, queries, heads, size) if q is None else q
    k, v = random(batch, keys, heads, size), random(batch, keys, heads, value_size)
    symbols = [tirx.Var(n, "int64") for n in ("b", "q", "k")] if symbolic else []
    b, m, n = symbols or (batch, queries, keys)
    shapes = [(b, m, heads, size), (b, n, heads, size), (b, n, heads, value_size)]
    arrays, steps = [q, k, v], ()
    if bias is not None:
        # axes of the kernel's operand: batch, head, key, query
        arrays.append(np.ascontiguousarray(bias.swapaxes(2, 3)))
        known = {batch: b, 1: 1}
        shape = [known[bias.shape[0]], bias.shape[1], n, 1 if bias.shape[2] == 1 else m]
        steps = (ScoreStep("add", operand=0, place=Strided.whole(shape)),)
        shapes.append(shape)
    attention = Attention(
        *(b, heads, m, n, size, value_size),
        *(view(shape) for shape in shapes[:3]),
        *(0.25, steps, guarded),
    )
    buffers = [(elements(list(shape)), "float32") for shape in shapes]
    func = make(attention, symbols, buffers, target)
    sch, rule = schedule(func, target)
    assert rule == "ByHand"
    out = np.full((batch, queries, heads, value_size), 77, "float32")
    kernel = Kernel(sch.mod["main"], target)
    kernel(*arrays, out, *((batch, queries, keys) if symbolic else ()))
    return out, expected(q, k, v, 0.25, 0.0 if bias is None else bias, guarded)


SIZES = [
    *[(1, 1, 1, 1, 1, 1), (1, 2, 5, 7, 3, 5), (2, 3, 17, 13, 20, 24), (1, 2, 33, 300, 33, 17)],
    *[(1, 1, 49, 513, 16, 64), (1, 2, 64, 64, 64, 64), (2, 1, 16, 15, 7, 48)],
]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_against_numpy(sizes, symbolic):
    result, wanted = run(sizes, symbolic=symbolic)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


def biases(batch, heads, queries, keys):
    """Masks that hide some keys, and all keys of some rows."""
    rng = np.random.default_rng(3)
    some = np.where(rng.random((batch, 1, 1, keys)) < 0.4, -np.inf, 0.0)
    some[..., -1] = 0.0
    rows = np.zeros((1, 1, queries, keys))
    rows[:, :, ::3] = -np.inf
    lowest = np.where(np.tri(queries, keys) > 0, 0.0, np.finfo("float32").min)[None, None]
    first = rng.standard_normal((batch, heads, queries, keys))
    first[..., : keys // 2] = -np.inf  # whole blocks of keys that nobody sees
    broken = rng.standard_normal((1, 1, queries, keys))
    broken[0, 0, 1, 0], broken[0, 0, 2, -1] = np.inf, np.nan
    made = {"keys": some, "rows": rows, "causal": lowest, "first": first, "broken": broken}
    return {name: bias.astype("float32") for name, bias in made.items()}


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("name", ["keys", "rows", "causal", "first", "broken"])
def test_masks(name, guarded):
    """NaN exactly where softmax has it, or nowhere if NaN counts as no weight."""
    for symbolic, sizes in ((False, (2, 3, 37, 29, 20, 24)), (True, (2, 1, 35, 600, 8, 8))):
        bias = biases(*sizes[:4])[name]
        result, wanted = run(sizes, bias, guarded, symbolic)
        assert guarded != np.isnan(wanted).any() or name in ("keys", "causal", "first")
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


def test_a_query_that_is_no_number():
    q = random(1, 20, 2, 8)
    q[0, 3, 1, 4], q[0, 7, 0, 0] = np.nan, np.inf
    result, wanted = run((1, 2, 20, 9, 8, 8), q=q)
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


def assembly(target):
    shape = view((1, 64, 2, 64))
    attention = Attention(1, 2, 64, 64, 64, 64, shape, shape, shape, 0.125, (), False)
    func = in_blocks(attention, [], [(8192, "float32")] * 3, target)
    lowered = lower_kernel("kernel", schedule(func, target)[0].mod["main"], target)
    return build_kernels({"kernel": lowered}, target).assembly()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_lowers_for_every_target(name):
    assert not re.search(r"(call|bl)\w*\s+athanor_transpose", assembly(TARGETS[name])), "inlined"


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_accumulators_stay_in_registers(name):
    """No loop of multiply-adds stores a vector."""
    blocks = [part.split("\tj")[0] for part in re.split(r"\n\.L", assembly(TARGETS[name]))]
    loops = [block for block in blocks if len(re.findall(r"vfmadd231ps", block)) >= 12]
    assert loops
    assert not any(re.search(r"vmovu?a?ps\s+%[yz]mm\d+, ", block) for block in loops)
