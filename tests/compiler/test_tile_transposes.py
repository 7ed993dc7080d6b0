"""Which transposes get tiles of vector registers; tests/schedules/test_transpose.py runs them."""

import pytest
from tvm.relax import op as R

from athanor.compiler.passes.tile_transposes import TileTransposes
from athanor.targets import find_target

from .graphs import module, operators

TARGET = find_target("x86-64-v3")


def after(shape, order, dtype="float32"):
    before = module(lambda emit, x: emit(R.permute_dims(x, order)), x=(shape, dtype))
    return operators(TileTransposes(TARGET)(before))


@pytest.mark.parametrize(
    "shape, order", [((64, 65), None), ((1, 8, 20, 32), [0, 2, 3, 1]), ((9, 8, 80), [2, 0, 1])]
)
def test_kernel_of_its_own(shape, order):
    assert after(shape, order) == ["relax.reshape", "relax.call_tir", "relax.reshape"]


@pytest.mark.parametrize(
    "shape, order, dtype",
    [
        ((1, 64, 8, 64), [0, 2, 1, 3], "float32"),  # rows stay rows
        ((32, 33), [1, 0], "float32"),  # small
        ((4096, 7), [1, 0], "float32"),  # no vector of 8 columns
        (("n", 64, 64), [0, 2, 1], "float32"),
        ((128, 128), [1, 0], "int64"),
    ],
)
def test_stays_for_elementwise_kernels(shape, order, dtype):
    assert after(shape, order, dtype) == ["relax.permute_dims"]
