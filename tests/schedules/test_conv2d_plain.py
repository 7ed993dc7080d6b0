import numpy as np
import pytest
from tvm import tirx, topi

from athanor.schedules.compute.conv2d import plan_conv2d
from athanor.schedules.decisions import Decisions
from athanor.schedules.plain_tile import blocked_cycles, plain_form
from athanor.schedules.rule import apply_decisions
from athanor.schedules.rules.cpu_conv2d_plain import CPUConv2dPlain
from athanor.targets.rules import CPU_RULES

from .blocked import convolve
from .kernel import Kernel
from .scheduled import NATIVE, check, placeholder, prim_func, random

CASES = [
    (64, 32, (28, 28), 3, 1, 1, 1, 1),
    (3, 8, (33, 35), 5, 2, 2, 1, 1),
    (17, 5, (7, 7), 3, 1, 1, 2, 1),
    (12, 18, (9, 9), 3, 1, 0, 1, 3),
    (4, 6, (1, 1), 1, 1, 0, 1, 1),
    (2, 2, (6, 3), 3, 1, 1, 1, 1),
    (5, 19, (13, 17), 1, 1, 0, 1, 1),  # channels and pixels past the last full tile
    (3, 53, (7, 7), 1, 1, 0, 1, 1),  # as many channels as no divisor
    (6, 29, (5, 101), 3, 1, 1, 1, 1),
    (49, 7, (7, 7), 1, 1, 0, 1, 1),  # channels and pixels equal in number
]


@pytest.mark.parametrize("symbolic", ["", "n", "nhw"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain(case, symbolic):
    in_channels, out_channels, size, kernel, stride, padding, dilation, groups = case
    data = random(2, in_channels, *size)
    weight = random(out_channels, in_channels // groups, kernel, kernel)
    bias = random(out_channels, 1, 1)
    shape, sizes = list(data.shape), {}
    for name in symbolic:
        axis = {"n": 0, "h": 2, "w": 3}[name]
        sizes[name], shape[axis] = shape[axis], tirx.Var(name, "int64")
    inputs = [placeholder("data", *shape), placeholder("weight", *weight.shape)]
    inputs.append(placeholder("bias", *bias.shape))
    if groups > 1:
        out = topi.nn.group_conv2d_nchw(*inputs[:2], stride, padding, dilation, groups)
    else:
        out = topi.nn.conv2d(*inputs[:2], stride, padding, dilation)
    out = topi.nn.relu(topi.add(out, inputs[2]))
    wanted = convolve(data, weight, (stride,) * 2, (padding,) * 4, (dilation,) * 2, groups)
    wanted = np.maximum(wanted + bias, 0)
    check(prim_func(inputs, [out]), "CPUConv2dPlain", [data, weight, bias], [wanted], sizes, 2e-5)


@pytest.mark.parametrize("size", [(12, 12), (12, 18), (9, 20)])  # rows as long as there are many
def test_every_single_decision_computes_the_same(size):
    data, weight = random(1, 8, *size), random(8, 2, 3, 3)
    inputs = [placeholder("data", *data.shape), placeholder("weight", *weight.shape)]
    func = prim_func(inputs, [topi.nn.group_conv2d_nchw(*inputs, 1, 1, 1, 4)])
    wanted = convolve(data, weight, (1, 1), (1, 1, 1, 1), (1, 1), 4)
    _, points = decided(func, ())
    values = [point.value for point in points]
    assert "rows" in [point.name for point in points]
    for index, point in enumerate(points):
        for value in point.candidates:
            changed = [*values[:index], value, *values[index + 1 :]]
            made = np.full(wanted.shape, 77, np.float32)
            Kernel(decided(func, changed)[0].mod["main"])(data, weight, made)
            np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-4, err_msg=str(changed))


def decided(func, values):
    """The schedule with these decisions, missing ones being the heuristic's."""
    given = Decisions("CPUConv2dPlain", tuple(values))
    return apply_decisions(CPU_RULES, func, NATIVE, given, repair=True)


def test_transposed():
    data, weight = random(1, 4, 5, 6), random(4, 3, 4, 4)
    inputs = [placeholder("data", *data.shape), placeholder("weight", *weight.shape)]
    out = topi.nn.conv2d_transpose_nchw(*inputs, (2, 2), (1, 1, 1, 1), "float32", (0, 0))
    wide = np.zeros((1, 4, 9, 11), "float32")
    wide[:, :, ::2, ::2] = data
    wanted = convolve(wide, weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), padding=(2, 2, 2, 2))
    check(prim_func(inputs, [out]), "CPUConv2dPlain", [data, weight], [wanted], tolerance=2e-5)


def test_declines_other_sums():
    data = placeholder("data", 2, 3, 8, 8)
    assert CPUConv2dPlain().apply(prim_func([data], [topi.sum(data, (1, 2, 3))]), NATIVE) is None
    pooled = topi.nn.pool2d(data, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "avg")
    assert CPUConv2dPlain().apply(prim_func([data], [pooled]), NATIVE) is None


@pytest.mark.parametrize(
    ("channels", "out_channels", "size", "kernel", "groups", "plain"),
    [
        (17, 19, (56, 56), 1, 1, True),  # 19 of 32 channels, and nothing to pack
        (5, 7, (100, 100), 3, 1, True),
        (256, 256, (56, 56), 3, 1, False),
    ],
)
def test_the_faster_layout(channels, out_channels, size, kernel, groups, plain):
    result = tuple(length - kernel + 1 for length in size)
    products = plan_conv2d(channels, out_channels, (kernel, kernel), groups, 16).nominal[1]
    taps = kernel * kernel
    form = plain_form((channels, out_channels), size, result, (kernel, kernel), 1, groups, NATIVE)
    if NATIVE.vector_bits == 512:
        assert (form.cycles < blocked_cycles(result, taps, products, NATIVE)) == plain
