"""Attention as one kernel of a GPU, in every form that the CPU's has."""

import numpy as np
import pytest
from tvm.relax import op as R

from athanor.compiler.compile_module import compile_module

from ..compiler.graphs import module
from ..compiler.test_fuse_attention import FOUND, arrays_for, plain


def compare(build, inputs, arrays):
    """Run on the CPU and under emulation, compare; attention is one launch."""
    mod = module(build, **inputs)
    with compile_module(mod).load(threads=1) as model:
        expected = model.run(arrays)["output0"]
    artifact = compile_module(module(build, **inputs), target="cuda")
    with artifact.load(threads=1) as model:
        result = model.run(arrays)["output0"]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    found = artifact.metadata["device"]["kernels"]
    assert [len(found[name]["launches"]) for name in found if "attention" in name] == [1]
    return result


@pytest.mark.parametrize("name", FOUND)
def test_forms(driver, name):
    build, inputs = FOUND[name]
    compare(build, inputs, dict(zip(inputs, arrays_for(inputs), strict=True)))


@pytest.mark.parametrize(
    ("queries", "keys", "size", "value_size"),
    [(1, 1, 4, 1), (65, 130, 64, 64), (64, 64, 16, 32), (3, 70, 128, 100)],
)
def test_sizes(driver, queries, keys, size, value_size):
    inputs = {"q": (1, 2, queries, size), "k": (1, 2, keys, size), "v": (1, 2, keys, value_size)}
    compare(plain, inputs, dict(zip(inputs, arrays_for(inputs), strict=True)))


def masked(emit, q, k, v, mask):
    scores = emit(R.matmul(q, emit(R.permute_dims(k, [0, 2, 1]))))
    weights = emit(R.nn.softmax(emit(R.add(scores, mask)), axis=-1))
    return emit(R.matmul(weights, v))


def test_rows_without_a_key_and_nan(driver):
    inputs = {"q": (1, 5, 8), "k": (1, 80, 8), "v": (1, 80, 8), "mask": (5, 80)}
    arrays = dict(zip(inputs, arrays_for(inputs), strict=True))
    arrays["mask"][1] = -np.inf
    arrays["mask"][2, :70] = -np.inf
    arrays["q"][0, 3] = np.nan
    result = compare(masked, inputs, arrays)
    assert np.isnan(result[0, [1, 3]]).all() and not np.isnan(result[0, [0, 2, 4]]).any()


def test_a_head_too_wide_for_shared_memory_is_left_in_parts(driver):
    inputs = {name: (1, 3, 1024) for name in "qkv"}
    artifact = compile_module(module(plain, **inputs), target="cuda")
    assert not any("attention" in name for name in artifact.metadata["device"]["kernels"])
