"""Memory of large results: at whole cache lines, and never used again while anyone sees it."""

import numpy as np
import pytest

from athanor.runtime.aligned import LARGE_BYTES, LINE_BYTES, empty, empty_like


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64", "bool"])
@pytest.mark.parametrize("shape", [(LARGE_BYTES + 1,), (3, LARGE_BYTES // 2 + 7)])
def test_large_results_begin_at_a_line(shape, dtype):
    made = empty(shape, np.dtype(dtype))
    assert made.shape == shape and made.dtype == dtype
    assert made.ctypes.data % LINE_BYTES == 0
    assert made.flags.c_contiguous and made.flags.writeable
    made[...] = 1
    assert made.all()
    assert empty_like(made).shape == shape


def test_a_view_holds_the_result():
    made = empty((LARGE_BYTES,), np.dtype("float32"))
    assert made[3:].reshape(-1, 1).base is made


@pytest.mark.parametrize("shape", [(), (0,), (0, LARGE_BYTES), (3,)])
def test_small_and_empty_results(shape):
    assert empty(shape, np.dtype("float32")).shape == shape
