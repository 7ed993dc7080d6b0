import re

import numpy as np
import pytest
from tvm import tirx, topi

from athanor.schedules.compute.conv2d import (
    conv2d_blocked,
    depthwise_conv2d_blocked,
    pack_conv2d_weight,
    plan_conv2d,
)
from athanor.schedules.rules.cpu_conv2d import CPUConv2d
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

from .blocked import convolve, pack_channels
from .kernel import Kernel
from .scheduled import NATIVE, check, loops, placeholder, prim_func, random


def convolution(
    in_channels,
    out_channels,
    size,
    kernel,
    strides=(1, 1),
    padding=(0, 0, 0, 0),
    dilation=(1, 1),
    groups=1,
    batch=1,
    symbolic="",
    epilogue=True,
):
    """The fused prim_func of a convolution, its arrays, result and symbolic sizes."""
    data = random(batch, in_channels, *size)
    weight = random(out_channels, in_channels // groups, *kernel)
    plan = plan_conv2d(in_channels, out_channels, kernel, groups, 16)
    arrays = [pack_channels(data, plan.in_block), pack_conv2d_weight(weight, plan)]
    shape, sizes = list(arrays[0].shape), {}
    for name in symbolic:
        axis = {"n": 0, "h": 2, "w": 3}[name]
        sizes[name], shape[axis] = shape[axis], tirx.Var(name, "int64")
    inputs = [placeholder("data", *shape), placeholder("weight", *arrays[1].shape)]
    options = dict(strides=strides, padding=padding, dilation=dilation)
    if plan.kind == "depthwise":
        out = depthwise_conv2d_blocked(*inputs, **options)
    else:
        out = conv2d_blocked(*inputs, plan=plan, **options)
    wanted = convolve(data, weight, groups=groups, **options)
    if epilogue:  # bias, residual, activation
        bias, residual = random(out_channels), random(*wanted.shape)
        arrays += [pack_channels(bias.reshape(1, -1, 1, 1)), pack_channels(residual)]
        inputs.append(placeholder("bias", *arrays[2].shape))
        inputs.append(placeholder("residual", *out.shape))
        out = topi.nn.relu(topi.add(topi.add(out, inputs[2]), inputs[3]))
        wanted = np.maximum(wanted + bias.reshape(1, -1, 1, 1) + residual, 0)
    return prim_func(inputs, [out]), arrays, pack_channels(wanted), sizes


def check_convolution(rule, *args, **options):
    func, arrays, wanted, sizes = convolution(*args, **options)
    return check(func, rule, arrays, [wanted], sizes, tolerance=2e-5)


SAME = (1, 1, 1, 1)
DENSE = {
    "odd channels": (17, 33, (13, 11), (3, 3), (1, 1), SAME),
    "one channel": (1, 1, (8, 8), (5, 5), (1, 1), (2, 2, 2, 2)),
    "three channels": (3, 20, (23, 29), (7, 7), (2, 2), (3, 3, 3, 3)),
    "five channels, uneven padding": (5, 7, (9, 9), (3, 3), (2, 2), (1, 0, 1, 2)),
    "half a block more": (24, 40, (15, 15), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "row kernel": (20, 48, (1, 17), (1, 9), (1, 1), (0, 4, 0, 4)),
    "column kernel": (20, 48, (17, 1), (9, 1), (1, 1), (4, 0, 4, 0)),
    "one pixel": (100, 70, (1, 1), (1, 1)),
    "7x7, tiles over rows": (32, 32, (7, 7), (3, 3), (1, 1), SAME),
    "14x14": (16, 64, (14, 14), (1, 1)),
    "strided 1x1, gathered": (32, 64, (13, 15), (1, 1), (2, 2)),
    "strided 1x1, few channels": (32, 16, (13, 15), (1, 1), (2, 2)),
    "strided 1x1, padded": (32, 64, (9, 9), (1, 1), (2, 2), SAME),
    "stride over the kernel": (16, 16, (20, 20), (3, 3), (4, 4)),
    "tall map": (16, 16, (149, 5), (3, 3)),
    "2 groups of blocks": (64, 128, (9, 9), (3, 3), (1, 1), SAME, (1, 1), 2),
    "groups past a block": (68, 136, (6, 6), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 4),
    "groups across blocks": (136, 68, (6, 6), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 4),
    "groups within a block": (32, 32, (6, 6), (3, 3), (1, 1), SAME, (1, 1), 8),
    "two outputs a channel": (12, 24, (9, 9), (3, 3), (1, 1), SAME, (1, 1), 12),
    "two inputs an output": (24, 12, (9, 9), (3, 3), (1, 1), SAME, (1, 1), 12),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense(name):
    check_convolution("CPUConv2d", *DENSE[name])


def test_dense_alone():
    check_convolution("CPUConv2d", *DENSE["odd channels"], epilogue=False)


@pytest.mark.parametrize("symbolic", ["n", "nhw"])
@pytest.mark.parametrize(
    "name", ["three channels", "7x7, tiles over rows", "strided 1x1, gathered"]
)
def test_dense_symbolic(name, symbolic):
    check_convolution("CPUConv2d", *DENSE[name], batch=3, symbolic=symbolic)


DEPTHWISE = {
    "3x3": (33, 33, (13, 11), (3, 3), (1, 1), SAME),
    "strided": (16, 16, (9, 9), (3, 3), (2, 2), SAME),
    "dilated": (16, 16, (9, 9), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "row": (20, 20, (13, 11), (1, 9), (1, 1), (0, 4, 0, 4)),
    "column": (20, 20, (13, 11), (9, 1), (1, 1), (4, 0, 4, 0)),
    "31x31": (20, 20, (33, 33), (31, 31), (1, 1), (15, 15, 15, 15)),
    "one pixel": (16, 16, (1, 1), (3, 3), (1, 1), SAME),
    "whole map": (32, 32, (7, 7), (7, 7)),
}


def depthwise(name):
    case = DEPTHWISE[name]
    return (*case, *((1, 1), (0, 0, 0, 0), (1, 1))[len(case) - 4 :], case[0])


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name):
    check_convolution("CPUDepthwise", *depthwise(name))


@pytest.mark.parametrize("symbolic", ["n", "nhw"])
def test_depthwise_symbolic(symbolic):
    check_convolution("CPUDepthwise", *depthwise("3x3"), batch=2, symbolic=symbolic)


def test_padding_does_not_meet_infinity():
    """A zero of the border times infinity would be NaN where the window ends before it."""
    func, arrays, wanted, _ = convolution(*depthwise("3x3"), epilogue=False)
    arrays[0][:, :, 0, 0] = np.inf
    result = run(func, arrays, wanted)
    far = np.ones(wanted.shape, bool)
    far[:, :, :2, :2] = False
    np.testing.assert_allclose(result[far], wanted[far], rtol=1e-4, atol=1e-4)
    assert not np.isfinite(result[:, :, 0, 0]).any()


def test_groups_of_whole_blocks_are_apart():
    func, arrays, wanted, _ = convolution(*DENSE["2 groups of blocks"], epilogue=False)
    arrays[0][:, 2:] = np.inf
    result = run(func, arrays, wanted)
    np.testing.assert_allclose(result[:, :4], wanted[:, :4], rtol=1e-4, atol=1e-3)


def run(func, arrays, like):
    result = np.full(like.shape, 77, like.dtype)
    Kernel(schedule(func, NATIVE)[0].mod["main"])(*arrays, result)
    return result


def test_epilogue_needs_no_pass_of_its_own():
    """The product lives in one register tile, never in a buffer of the output's size."""
    func, arrays, wanted, _ = convolution(64, 64, (28, 28), (3, 3), (1, 1), SAME)
    mod = check(func, "CPUConv2d", arrays, [wanted], tolerance=2e-5)
    lowered = lower_kernel("kernel", mod["main"], NATIVE).script()
    assert f"T.alloc_buffer(({wanted.size},)" not in lowered
    assert loops(mod, "parallel") == 1


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_inner_loop_is_multiply_adds(name):
    """Every target's tile stays in its registers: the loop over channels spills nothing."""
    target = TARGETS[name]
    func, *_ = convolution(64, 64, (28, 28), (3, 3), (1, 1), SAME)
    sch = CPUConv2d().apply(func, target)
    kernel = build_kernels({"kernel": lower_kernel("kernel", sch.mod["main"], target)}, target)
    add = {"aarch64": "fmla", "x86-64-v2": "addps", "rv64gcv": "vfma"}.get(name, "vfmadd")
    hottest = max(kernel.assembly().split("\n.L"), key=lambda block: block.count(add))
    hottest = re.split(r"\n\t(?:j|b\.|cb|bn)", hottest)[0]  # without what follows the loop
    assert hottest.count(add) >= 32
    assert not re.findall(r"%[xyz]mm.*\(%rsp\)|\(%rsp\).*%[xyz]mm|\b[qs]\d+, \[sp", hottest)


def test_plan_reads_images_as_they_are():
    assert plan_conv2d(3, 64, (7, 7), 1, 16).in_block == 1
    assert plan_conv2d(16, 64, (3, 3), 1, 16).in_block == 16
    assert plan_conv2d(32, 32, (3, 3), 32, 16).kind == "depthwise"
    assert plan_conv2d(24, 64, (3, 3), 1, 16).reduction_block == 8


def test_plan_of_groups_reaches_its_groups_only():
    plan = plan_conv2d(272, 272, (1, 1), 4, 16)
    assert plan.reduction_steps * plan.reduction_block < 272
    weight = random(272, 68, 1, 1)
    packed = pack_conv2d_weight(weight, plan)
    assert np.count_nonzero(packed) == weight.size


def test_declines_plain_layout():
    data, weight = placeholder("data", 1, 4, 8, 8), placeholder("weight", 4, 4, 3, 3)
    out = topi.nn.conv2d(data, weight, 1, 1, 1)
    assert CPUConv2d().apply(prim_func([data, weight], [out]), NATIVE) is None


def test_groups_that_share_a_block_do_not_lengthen_the_others():
    """Of 17 blocks of 68 channels a group, 3 have channels of two groups."""
    func, *_ = convolution(272, 272, (5, 5), (1, 1), groups=4, epilogue=False)
    lowered = lower_kernel("kernel", schedule(func, NATIVE)[0].mod["main"], NATIVE).script()
    assert "T.grid(T.int64(9)" not in lowered and "T.grid(T.min(" in lowered
    plan = plan_conv2d(272, 272, (1, 1), 4, 16)
    counts = [int(plan.steps(tirx.IntImm("int64", block))) for block in range(17)]
    assert max(counts) == plan.reduction_steps == 9
    assert sorted(counts)[len(counts) // 2] <= 6
