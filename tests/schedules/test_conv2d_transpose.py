import numpy as np
import pytest
from tvm import tirx, topi

from athanor.schedules.compute.conv2d_transpose import (
    conv2d_transpose_blocked,
    pack_conv2d_transpose_weight,
    plan_conv2d_transpose,
)

from .blocked import pack_channels
from .scheduled import check, loops, placeholder, prim_func, random


def transpose(data, weight, strides, padding, output_padding):
    """Reference: every input pixel adds its multiple of the kernel; NCHW and IOHW."""
    batch, _, height, width = data.shape
    _, out_channels, *kernel = weight.shape
    full = [
        (size - 1) * strides[i] + kernel[i] + output_padding[i]
        for i, size in enumerate((height, width))
    ]
    result = np.zeros((batch, out_channels, *full))
    for kh in range(kernel[0]):
        for kw in range(kernel[1]):
            tap = np.einsum("nihw,io->nohw", data.astype("float64"), weight[:, :, kh, kw])
            rows = slice(kh, kh + height * strides[0], strides[0])
            columns = slice(kw, kw + width * strides[1], strides[1])
            result[:, :, rows, columns][:, :, :height, :width] += tap
    top, left, bottom, right = padding
    return result[:, :, top : full[0] - bottom, left : full[1] - right].astype("float32")


NONE = (0, 0, 0, 0)
CASES = {
    "2x2 stride 2": ((2, 2), (2, 2), NONE, (0, 0)),
    "3x3 stride 2": ((3, 3), (2, 2), NONE, (0, 0)),
    "3x3 stride 2, doubling": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "4x4 stride 2, doubling": ((4, 4), (2, 2), (1, 1, 1, 1), (0, 0)),
    "uneven": ((3, 2), (3, 1), (1, 0, 0, 1), (0, 0)),
    "kernel less than stride": ((1, 1), (2, 3), NONE, (0, 0)),
    "stride 1": ((5, 5), (1, 1), (2, 2, 2, 2), (0, 0)),
}


def check_transpose(name, in_channels, out_channels, symbolic=""):
    kernel, strides, padding, output_padding = CASES[name]
    data, weight = random(2, in_channels, 5, 7), random(in_channels, out_channels, *kernel)
    plan = plan_conv2d_transpose(in_channels, out_channels, kernel, strides, (1, 1), 1, 16)
    bias = random(1, out_channels, 1, 1)
    arrays = [
        pack_channels(data, plan.in_block),
        pack_conv2d_transpose_weight(weight, plan, strides),
        pack_channels(bias),
    ]
    shape, sizes = list(arrays[0].shape), {}
    for dim in symbolic:
        axis = {"n": 0, "h": 2, "w": 3}[dim]
        sizes[dim], shape[axis] = shape[axis], tirx.Var(dim, "int64")
    inputs = [placeholder("data", *shape), placeholder("weight", *arrays[1].shape)]
    inputs.append(placeholder("bias", *arrays[2].shape))
    out = conv2d_transpose_blocked(
        inputs[0],
        inputs[1],
        plan=plan,
        kernel=kernel,
        strides=strides,
        padding=padding,
        output_padding=output_padding,
    )
    out = topi.nn.relu(topi.add(out, inputs[2]))
    wanted = np.maximum(transpose(data, weight, strides, padding, output_padding) + bias, 0)
    func = prim_func(inputs, [out])
    return check(func, "CPUConv2d", arrays, [pack_channels(wanted)], sizes, tolerance=2e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("in_channels, out_channels", [(20, 24), (3, 5)])
def test_transpose(name, in_channels, out_channels):
    check_transpose(name, in_channels, out_channels)


@pytest.mark.parametrize("symbolic", ["n", "nhw"])
@pytest.mark.parametrize("name", ["2x2 stride 2", "3x3 stride 2, doubling"])
def test_transpose_symbolic(name, symbolic):
    check_transpose(name, 20, 24, symbolic)


def test_doubling_interleaves_as_it_stores():
    """One nest: what interleaves the phases is part of the register tile."""
    mod = check_transpose("2x2 stride 2", 64, 64)
    assert loops(mod, "parallel") == 1


def test_no_tap_is_zero_where_the_stride_divides_the_kernel():
    plan = plan_conv2d_transpose(16, 16, (4, 4), (2, 2), (1, 1), 1, 16)
    weight = random(16, 16, 4, 4)
    packed = pack_conv2d_transpose_weight(weight, plan, (2, 2))
    assert packed.size == weight.size


@pytest.mark.parametrize("groups, dilation", [(2, (1, 1)), (1, (2, 2))])
def test_groups_and_dilation_are_left_plain(groups, dilation):
    assert plan_conv2d_transpose(16, 16, (3, 3), (2, 2), dilation, groups, 16) is None
