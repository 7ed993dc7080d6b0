"""Convolutions with constant weights in shapes that get methods of their own, the whole way."""

import pytest

from athanor.compiler.passes import split_bands
from athanor.compiler.passes.rewrite import calls_of, op_name
from athanor.compiler.passes.split_bands import Band, SplitBands, bands
from athanor.compiler.passes.trim_kernels import useful_taps
from athanor.frontends.onnx.importer import import_model
from athanor.targets import find_target

from .artifact import compare_node
from .execute import floats, one_node

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


BANDS = {
    "rows and columns": dict(x=(2, 20, 9, 11), w=(24, 20, 3, 3), pads=[7] * 4, dilations=[7, 7]),
    "uneven": dict(x=(1, 33, 8, 5), w=(7, 33, 5, 3), pads=[9, 4, 10, 3], dilations=[4, 4]),
    "strided": dict(
        x=(1, 16, 9, 13), w=(16, 16, 3, 3), pads=[8, 9] * 2, dilations=[8, 9], strides=[2, 3]
    ),
    "groups": dict(x=(1, 32, 6, 9), w=(48, 8, 3, 3), group=4, pads=[5] * 4, dilations=[5, 5]),
    "an image": dict(x=(1, 3, 9, 9), w=(5, 3, 3, 3), pads=[7] * 4, dilations=[7, 7]),
    "only padding at an end": dict(
        x=(1, 16, 4, 9), w=(16, 16, 3, 3), pads=[9] * 4, dilations=[4, 7]
    ),
}


@pytest.mark.parametrize("case", BANDS)
def test_bands(case, monkeypatch):
    monkeypatch.setattr(split_bands, "PART_CYCLES", -1e6)  # the more parts, the better
    monkeypatch.setattr(split_bands, "SAVING", 1)
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    options = dict(BANDS[case])
    inputs = [floats(*options.pop("x")), floats(*options.pop("w"), seed=1)]
    assert convolutions(inputs, options) > 1
    compare_node("Conv", inputs, constants=(1,), rtol=1e-4, atol=1e-4, **options)


def test_bands_of_an_axis():
    assert bands(16, 16, 3, 1, 12, 12) == [
        Band(4, (1, 3), (0, 16)),
        Band(8, (1, 2), (4, 12)),
        Band(4, (0, 2), (0, 16)),
    ]
    assert bands(9, 5, 3, 2, 8, 8) == [
        Band(1, (1, 3), (0, 9)),
        Band(3, (1, 2), (2, 7)),
        Band(1, (0, 2), (0, 9)),
    ]
    assert bands(7, 7, 1, 1, 1, 0) == [Band(7, (0, 1), (0, 7))]
    assert bands(4, 8, 1, 1, 1, 2) == []  # two results at each end meet padding only


@pytest.mark.parametrize(("dilation", "channels", "parts"), [(12, 128, 9), (1, 128, 1), (12, 2, 1)])
def test_where_bands_pay(dilation, channels, parts):
    """Large convolutions that mostly meet padding become parts; small ones and usual ones stay."""
    weights = floats(channels, channels, 3, 3, seed=1)
    options = dict(pads=[dilation] * 4, dilations=[dilation] * 2)
    assert convolutions([floats(1, channels, 16, 16), weights], options) == parts


def convolutions(inputs, options):
    """How many convolutions SplitBands makes of one."""
    model = one_node("Conv", inputs, constants=(1,), **options)
    mod = SplitBands(find_target("x86-64-v4"))(import_model(model).mod)
    return sum(op_name(call) == "relax.nn.conv2d" for call in calls_of(mod["main"]))
