"""Convolutions with constant weights in shapes that get methods of their own, the whole way."""

import pytest

from athanor.compiler.passes.trim_kernels import useful_taps

from .artifact import compare_node
from .execute import floats

CASES = {
    # channel multipliers
    "times 3": dict(x=(1, 16, 9, 20), w=(48, 1, 3, 3), group=16, pads=[1] * 4),
    "times 2, strided": dict(x=(2, 5, 9, 21), w=(10, 1, 4, 5), group=5, strides=[2, 3]),
    "times 4, wide kernel": dict(x=(1, 3, 5, 40), w=(12, 1, 1, 21), group=3, pads=[0, 10] * 2),
    "times 2, dilated": dict(x=(1, 4, 9, 20), w=(8, 1, 3, 3), group=4, dilations=[2, 3]),
    # few channels a group
    "32 groups": dict(x=(1, 128, 14, 14), w=(128, 4, 3, 3), group=32, pads=[1] * 4),
    # taps that meet padding only
    "one row": dict(x=(1, 20, 1, 7), w=(24, 20, 3, 3), pads=[1] * 4),
    "dilation past the map": dict(
        x=(1, 20, 5, 9), w=(24, 20, 3, 3), pads=[6] * 4, dilations=[6, 6]
    ),
    "larger than the map": dict(x=(1, 18, 2, 4), w=(17, 18, 7, 7), pads=[3] * 4),
    "depthwise on a point": dict(x=(1, 20, 1, 1), w=(20, 1, 5, 5), group=20, pads=[2] * 4),
    "strided over the map": dict(x=(1, 3, 1, 2), w=(4, 3, 3, 3), pads=[3, 1, 2, 1], strides=[2, 1]),
    "nothing but padding": dict(x=(1, 3, 1, 8), w=(4, 3, 1, 1), pads=[1, 0, 1, 0], strides=[2, 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_convolution(case):
    options = dict(CASES[case])
    inputs = [floats(*options.pop("x")), floats(*options.pop("w"), seed=1)]
    compare_node("Conv", inputs, constants=(1,), rtol=1e-4, atol=1e-4, **options)


@pytest.mark.parametrize(
    ("sizes", "taps", "stride", "step", "pads", "wanted"),
    [
        ((1, 1), 3, 1, 1, (1, 1), (1, 2)),
        ((2, 2), 3, 1, 1, (1, 1), (0, 3)),
        ((5, 5), 3, 1, 6, (6, 6), (1, 2)),
        ((4, 2), 3, 2, 1, (1, 0), (0, 3)),
        ((7, 7), 3, 1, 1, (1, 1), (0, 3)),
        ((1, 3), 2, 1, 1, (2, 1), (0, 2)),
        ((None, None), 9, 1, 1, (4, 4), (0, 9)),
    ],
)
def test_useful_taps(sizes, taps, stride, step, pads, wanted):
    assert useful_taps(*sizes, taps, stride, step, list(pads)) == wanted
