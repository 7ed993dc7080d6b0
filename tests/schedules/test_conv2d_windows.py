"""Taps of blocked convolutions that meet nothing but padding are left out, tile by tile."""

import itertools

import numpy as np
import pytest

from athanor.schedules.compute.conv2d import (
    Window,
    conv2d_blocked,
    met_share,
    pack_conv2d_weight,
    plan_conv2d,
)

from .blocked import convolve, pack_channels
from .scheduled import check, placeholder, prim_func, random

# image, kernel, strides, padding, dilation, groups
CASES = {
    "two rows": ((2, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "far apart": ((28, 28), (3, 3), (1, 1), (12, 12, 12, 12), (12, 12), 1),
    "strided": ((13, 11), (3, 5), (2, 3), (4, 0, 7, 9), (4, 3), 1),
    "at the end only": ((5, 6), (3, 3), (1, 1), (0, 0, 4, 4), (2, 2), 1),
    "groups": ((4, 5), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 2),
    "rows of padding alone": ((3, 3), (2, 2), (1, 1), (4, 4, 4, 4), (1, 1), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_convolution(name):
    image, kernel, strides, padding, dilation, groups = CASES[name]
    data, weight = random(2, 64, *image), random(64, 64 // groups, *kernel)
    plan = plan_conv2d(64, 64, kernel, groups, 16)
    arrays = [pack_channels(data), pack_conv2d_weight(weight, plan)]
    inputs = [placeholder(f"x{i}", *array.shape) for i, array in enumerate(arrays)]
    options = dict(strides=strides, padding=padding, dilation=dilation)
    out = conv2d_blocked(*inputs, plan=plan, **options)
    wanted = pack_channels(convolve(data, weight, strides, padding, dilation, groups))
    check(prim_func(inputs, [out]), "CPUConv2d", arrays, [wanted], tolerance=2e-5)


def test_what_is_left_out_is_not_multiplied():
    """Infinite taps give NaN where they meet zeros, so here those that meet padding did not."""
    data, weight = np.ones((1, 16, 28, 28), "float32"), np.ones((64, 16, 3, 3), "float32")
    weight[:, :, 0] = np.inf
    plan = plan_conv2d(16, 64, (3, 3), 1, 16)
    arrays = [pack_channels(data), pack_conv2d_weight(weight, plan)]
    inputs = [placeholder(f"x{i}", *array.shape) for i, array in enumerate(arrays)]
    out = conv2d_blocked(*inputs, plan=plan, padding=(12,) * 4, dilation=(12, 12))
    with np.errstate(invalid="ignore"):
        full = convolve(data, weight, padding=(12,) * 4, dilation=(12, 12))
    assert np.isnan(full[:, :, :12]).all()
    met = convolve(data, np.ones_like(weight), padding=(12,) * 4, dilation=(12, 12))
    met[:, :, 12:] = np.inf
    check(prim_func(inputs, [out]), "CPUConv2d", arrays, [pack_channels(met)])


def test_taps_that_meet():
    for taps, stride, step, pad, length in itertools.product(
        (1, 3), (1, 2), (1, 5), (0, 4), (1, 6)
    ):
        window = Window(taps, stride, step, pad, length)
        for first, last in ((0, 0), (0, 3), (2, 5)):
            places = range(first * stride, last * stride + 1)  # those between results, too
            met = [t for t in range(taps) if any(0 <= p + t * step - pad < length for p in places)]
            assert window.met(first, last) == len(met)
    rows = Window(3, 1, 12, 12, 28)
    assert met_share((rows, rows), (28, 28), 4) == pytest.approx((60 / 84) ** 2)
