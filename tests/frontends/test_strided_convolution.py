"""Strided convolutions that nothing else wants in blocks, compiled the whole way."""

import numpy as np
import pytest

import athanor

from .artifact import compare_node
from .execute import floats, one_node

CASES = {
    "2x2": dict(x=(1, 33, 20, 24), w=(35, 33, 2, 2), strides=[2, 2]),
    "patches of an image": dict(x=(2, 3, 22, 27), w=(24, 3, 4, 4), strides=[4, 4]),
    "3x3": dict(x=(1, 17, 15, 23), w=(19, 17, 3, 3), strides=[2, 2], pads=[1] * 4),
    "rows only": dict(x=(1, 9, 12, 37), w=(11, 9, 3, 1), strides=[2, 1]),
    "groups": dict(x=(1, 12, 9, 40), w=(18, 4, 3, 5), strides=[1, 3], pads=[1, 2] * 2, group=3),
    "dilated": dict(
        x=(1, 5, 17, 19), w=(7, 5, 3, 3), strides=[2, 2], pads=[2] * 4, dilations=[2, 2]
    ),
    "signal": dict(x=(1, 7, 200), w=(9, 7, 9), strides=[4], pads=[4, 4]),
}


@pytest.mark.parametrize("case", CASES)
def test_convolution(case):
    options = dict(CASES[case])
    inputs = [floats(*options.pop("x")), floats(*options.pop("w"), seed=1)]
    compare_node("Conv", inputs, constants=(1,), rtol=1e-4, atol=1e-4, **options)


def test_an_infinity_stays_with_its_patch():
    x, w = np.ones((1, 33, 8, 8), "float32"), np.ones((3, 33, 2, 2), "float32")
    x[0, 5, 2, 3] = np.inf
    model = one_node("Conv", [x, w], constants=(1,), strides=[2, 2])
    compiled = athanor.compile(model, "x86-64-v3")
    assert "CPUDeal" in {kernel["rule"] for kernel in compiled.metadata["kernels"]}
    (y,) = compiled.load().run({"x0": x}).values()
    assert np.isinf(y[:, :, 1, 1]).all() and np.isfinite(y).sum() == y.size - 3
