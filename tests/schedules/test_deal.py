import numpy as np
import pytest
from tvm import topi

from athanor.schedules.compute import deal
from athanor.schedules.plain_tile import blocked_cycles, plain_form
from athanor.schedules.rules.cpu_deal import CPUDeal

from .blocked import convolve
from .scheduled import NATIVE, check, placeholder, prim_func, random

# image, kernel, strides, padding, dilation, groups
CASES = {
    "patches": ((12, 16), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    "patches, some left over": ((13, 19), (3, 4), (3, 4), (0, 0, 0, 0), (1, 1), 1),
    "stride longer than kernel": ((13, 70), (2, 2), (4, 4), (0, 0, 1, 1), (1, 1), 1),
    "one tap": ((9, 35), (1, 1), (2, 3), (0, 0, 0, 0), (1, 1), 1),
    "3x3": ((13, 37), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 2),
    "uneven": ((11, 41), (5, 7), (1, 3), (2, 0, 1, 5), (1, 1), 1),
    "dilated": ((17, 21), (3, 3), (2, 2), (2, 3, 1, 0), (2, 3), 1),
    "padding only": ((2, 3), (3, 3), (2, 2), (4, 4, 4, 4), (1, 1), 1),
    "one pixel": ((1, 1), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("form", [deal.deal_columns, deal.deal_taps])
@pytest.mark.parametrize("name", CASES)
def test_copy_and_product(name, form):
    image, kernel, strides, padding, dilation, groups = CASES[name]
    data, weight = random(2, 6, *image), random(10, 6 // groups, *kernel)
    wanted = convolve(data, weight, strides, padding, dilation, groups)
    source = placeholder("data", *data.shape)
    copy = form(source, kernel, strides, padding, dilation)
    shape = [int(dim) for dim in copy.shape]
    dealt = _dealt(data, shape, form, strides, padding, dilation)
    check(prim_func([source], [copy]), "CPUDeal", [data], [dealt], tolerance=0)
    if form is deal.deal_columns:
        dealt = dealt.reshape(*shape[:3], -1)
        inputs = [placeholder("dealt", *dealt.shape), placeholder("weight", *weight.shape)]
        out = deal.conv2d_dealt(
            *inputs, size=wanted.shape[2:], groups=groups, strides=strides, dilation=dilation
        )
    else:
        dealt, weight = dealt.reshape(2, -1, *shape[4:]), weight.reshape(10, -1, 1, 1)
        inputs = [placeholder("dealt", *dealt.shape), placeholder("weight", *weight.shape)]
        out = topi.nn.group_conv2d_nchw(*inputs, 1, 0, 1, groups)
    check(prim_func(inputs, [out]), "CPUConv2dPlain", [dealt, weight], [wanted], tolerance=2e-5)


def _dealt(data, shape, form, strides, padding, dilation):
    """What the copy holds, pixel by pixel."""
    made = np.zeros(shape, "float32")
    for _, _, *place in np.ndindex(1, 1, *shape[2:]):
        if form is deal.deal_columns:
            row, phase, column = place
            pixel = row, column * strides[1] + phase
        else:
            pixel = [place[2 + i] * strides[i] + place[i] * dilation[i] for i in (0, 1)]
        h, w = pixel[0] - padding[0], pixel[1] - padding[1]
        if 0 <= h < data.shape[2] and 0 <= w < data.shape[3]:
            made[(slice(None), slice(None), *place)] = data[:, :, h, w]
    return made


def test_what_comes_before_is_computed_on_the_way():
    data, window = random(1, 3, 9, 20), ((2, 2), (2, 2), (1, 1, 0, 0), (1, 1))
    source = placeholder("data", *data.shape)
    copy = deal.deal_columns(topi.nn.relu(source), *window)
    shape = [int(dim) for dim in copy.shape]
    wanted = _dealt(np.maximum(data, 0), shape, deal.deal_columns, *window[1:])
    check(prim_func([source], [copy]), "CPUDeal", [data], [wanted], tolerance=0)


def test_declines_other_copies():
    data = placeholder("data", 2, 3, 8, 8)
    assert CPUDeal().apply(prim_func([data], [topi.nn.relu(data)]), NATIVE) is None


@pytest.mark.parametrize(
    ("channels", "image", "kernel", "stride", "name"),
    [
        ((33, 66), (40, 40), (2, 2), 2, "taps"),
        ((17, 17), (8, 601), (5, 5), 3, "columns"),
        ((2, 33), (90, 190), (6, 6), 2, "columns"),
        ((256, 256), (56, 56), (3, 3), 2, None),
    ],
)
def test_the_faster_form(channels, image, kernel, stride, name):
    result = tuple((image[i] - kernel[i]) // stride + 1 for i in (0, 1))
    form = plain_form(channels, image, result, kernel, stride, 1, NATIVE)
    filled = [-(-count // 16) * 16 for count in channels]
    blocked = blocked_cycles(result, kernel[0] * kernel[1], filled[0] * filled[1], NATIVE)
    if NATIVE.vector_bits == 512:
        assert (form.cycles < blocked) == (name is not None)
        assert name in (None, form.name)
