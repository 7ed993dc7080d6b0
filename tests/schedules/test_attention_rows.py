"""The kernel of attention of few queries against NumPy in float64."""

import re
from dataclasses import replace

import numpy as np
import pytest

from athanor.schedules.compute.attention import Attention
from athanor.schedules.compute.attention_rows import attention_rows_kernel, has_few_queries
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

from .scheduled import NATIVE, random
from .test_attention import biases, run, view

SIZES = [
    *[(1, 1, 1, 1, 1, 16), (1, 2, 1, 7, 3, 17), (2, 3, 2, 13, 20, 24), (1, 2, 1, 300, 33, 64)],
    *[(1, 1, 3, 1100, 16, 40), (2, 1, 1, 2048, 64, 32), (1, 1, 1, 1025, 5, 130)],
]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_against_numpy(sizes, symbolic):
    result, wanted = run(sizes, symbolic=symbolic, make=attention_rows_kernel)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_narrower_vectors(name):
    target = TARGETS[name]
    sizes = (2, 3, 3, 45, 21, 27)
    bias = biases(*sizes[:4])["keys"]
    result, wanted = run(sizes, bias, make=attention_rows_kernel, target=target)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("name", ["keys", "rows", "causal", "first", "broken"])
def test_masks(name, guarded):
    """NaN exactly where softmax has it, or nowhere if NaN counts as no weight."""
    for symbolic, sizes in ((False, (2, 3, 4, 29, 20, 24)), (True, (2, 1, 3, 1500, 8, 16))):
        bias = biases(*sizes[:4])[name]
        result, wanted = run(sizes, bias, guarded, symbolic, make=attention_rows_kernel)
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


def test_a_query_that_is_no_number():
    q = random(1, 3, 2, 8)
    q[0, 1, 1, 4], q[0, 2, 0, 0] = np.nan, np.inf
    result, wanted = run((1, 2, 3, 9, 8, 16), q=q, make=attention_rows_kernel)
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-6)


def attention(queries, size=64):
    query, key = view((1, queries, 2, size)), view((1, 64, 2, size))
    return Attention(1, 2, queries, 64, size, size, query, key, key, 0.125, (), False)


def test_what_it_is_for():
    assert has_few_queries(attention(1), NATIVE)
    assert not has_few_queries(attention(40), NATIVE), "many queries"
    assert not has_few_queries(attention(1, 2), NATIVE), "no vector of values"
    one = attention(1)
    turned = replace(one, key=one.key.permuted([0, 1, 3, 2]))
    assert not has_few_queries(turned, NATIVE), "keys lie column by column"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_lowers_for_every_target(name):
    target = TARGETS[name]
    sizes = [(size, "float32") for size in (128, 8192, 8192)]
    func = attention_rows_kernel(attention(1), [], sizes, target)
    lowered = lower_kernel("kernel", schedule(func, target)[0].mod["main"], target)
    text = build_kernels({"kernel": lowered}, target).assembly()
    assert not re.search(r"(call|bl)\w*\s+athanor_transpose", text), "inlined"
