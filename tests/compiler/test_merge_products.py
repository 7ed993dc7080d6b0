"""Queries, keys and values come of one product."""

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op as R

from athanor.compiler.compile_module import compile_module
from athanor.compiler.passes.fuse_attention import FuseAttention
from athanor.compiler.passes.merge_products import MergeProducts
from athanor.targets import find_target

from .graphs import module, operators
from .test_fuse_attention import attended, heads, joined

RNG = np.random.default_rng(4)


def weighted(emit, x, number, bias, width):
    rng = np.random.default_rng(number)
    y = emit(R.matmul(x, relax.const(rng.standard_normal((12, width)).astype("float32"))))
    if bias:
        y = emit(R.add(y, relax.const(rng.standard_normal(width).astype("float32"))))
    return y


def attention(emit, x, bias=True, widths=(16, 16, 16), read=False):
    q, k, v = (weighted(emit, x, i, bias, width) for i, width in enumerate(widths))
    q, k, v = (heads(emit, part, int(part.ty.shape.values[2]) // 8) for part in (q, k, v))
    q = emit(R.multiply(q, relax.const(np.float32(0.25))))
    result = joined(emit, attended(emit, q, k, v))
    return emit(R.add(result, joined(emit, k))) if read else result


def grouped(emit, x):
    """One head of keys for all."""
    return attention(emit, x, widths=(16, 8, 8))


def unbiased(emit, x):
    return attention(emit, x, bias=False)


@pytest.mark.parametrize("build", [attention, unbiased, grouped])
@pytest.mark.parametrize("rows", [5, "s"])
def test_merged(build, rows):
    """One product, whose slices become addresses; the numbers are those of three."""
    mod = module(build, x=(2, rows, 12))
    after = MergeProducts()(mod)
    attended_ = relax.transform.DeadCodeElimination()(FuseAttention(find_target("native"))(after))
    names = operators(attended_)
    assert names.count("relax.matmul") == 1
    assert "relax.strided_slice" not in names
    x = RNG.standard_normal((2, 5, 12)).astype("float32")
    results = []
    for each in (mod, after):
        with compile_module(each).load(threads=1) as model:
            results.append(model.run({"x": x})["output0"])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)


def test_results_that_are_read_elsewhere_keep_their_products():
    def build(emit, x):
        return attention(emit, x, read=True)

    after = relax.transform.DeadCodeElimination()(MergeProducts()(module(build, x=(2, 5, 12))))
    assert operators(after).count("relax.matmul") == 4  # k alone; q and v; two of the attention


def test_products_for_other_things_stay():
    def build(emit, x):
        one, other = (weighted(emit, x, i, True, 8) for i in range(2))
        return emit(R.add(emit(R.nn.relu(one)), other))

    mod = module(build, x=(2, 5, 12))
    assert operators(MergeProducts()(mod)) == operators(mod)
