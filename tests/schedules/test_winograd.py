from dataclasses import replace

import numpy as np
import pytest
from tvm import tirx, topi

from athanor.schedules import winograd_tasks
from athanor.schedules.compute.conv2d import plan_conv2d
from athanor.schedules.compute.winograd import (
    pack_winograd_weight,
    transforms,
    winograd_conv2d_blocked,
)
from athanor.schedules.rules.cpu_winograd import CPUWinograd
from athanor.schedules.winograd_tasks import WinogradShape, choose_winograd_tiling, winograd_tile
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel

from .blocked import convolve, pack_channels
from .kernel import Kernel
from .scheduled import NATIVE, check, placeholder, prim_func, random

SAME = (1, 1, 1, 1)
TOLERANCE = 2e-5
"""Of the largest output: what docs/compile.md promises, tenfold stricter."""


def winograd(
    in_channels, out_channels, size, tile=4, taps=3, padding=SAME, groups=1, dilation=1, batch=1,
    symbolic=False, epilogue=True,
):  # fmt: skip
    """The fused prim_func of a convolution, its arrays, result and symbolic sizes."""
    data = random(batch, in_channels, *size)
    weight = random(out_channels, in_channels // groups, taps, taps)
    plan = plan_conv2d(in_channels, out_channels, (taps, taps), groups, 16, (16,))
    arrays = [pack_channels(data), pack_winograd_weight(weight, plan, tile)]
    shape, sizes = list(arrays[0].shape), {}
    if symbolic:
        sizes["n"], shape[0] = shape[0], tirx.Var("n", "int64")
    inputs = [placeholder("data", *shape), placeholder("weight", *arrays[1].shape)]
    out = winograd_conv2d_blocked(
        *inputs, plan=plan, tile=tile, taps=taps, padding=padding, dilation=dilation
    )
    wanted = convolve(data, weight, padding=padding, groups=groups, dilation=(dilation,) * 2)
    if epilogue:  # bias, residual, activation
        bias, residual = random(out_channels), random(*wanted.shape)
        arrays += [pack_channels(bias.reshape(1, -1, 1, 1)), pack_channels(residual)]
        inputs.append(placeholder("bias", *arrays[2].shape))
        inputs.append(placeholder("residual", *out.shape))
        out = topi.nn.relu(topi.add(topi.add(out, inputs[2]), inputs[3]))
        wanted = np.maximum(wanted + bias.reshape(1, -1, 1, 1) + residual, 0)
    return prim_func(inputs, [out]), arrays, pack_channels(wanted), sizes


CASES = {
    "whole tiles": (32, 48, (16, 24)),
    "maps that no tile divides": (32, 32, (13, 11)),
    "odd channels": (17, 33, (14, 14)),
    "one tile": (16, 16, (2, 3)),
    "no padding": (16, 16, (10, 10), 4, 3, (0, 0, 0, 0)),
    "uneven padding": (16, 32, (9, 9), 4, 3, (1, 0, 2, 1)),
    "2x2 tiles": (32, 32, (7, 7), 2),
    "5x5 kernel": (32, 32, (13, 13), 2, 5, (2, 2, 2, 2)),
    "groups of whole blocks": (64, 64, (9, 9), 4, 3, SAME, 2),
    "dilation 2": (32, 32, (17, 23), 4, 3, (2, 2, 2, 2), 1, 2),
    "dilation 3, 2x2 tiles": (16, 17, (20, 14), 2, 3, (3, 3, 3, 3), 1, 3),
    "dilation beyond the map": (16, 16, (5, 5), 2, 3, (6, 6, 6, 6), 1, 6),
    "wide": (16, 16, (5, 150)),
    "tall": (16, 16, (150, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_winograd(name):
    func, arrays, wanted, sizes = winograd(*CASES[name])
    check(func, "CPUWinograd", arrays, [wanted], sizes, tolerance=TOLERANCE)


def test_alone():
    func, arrays, wanted, sizes = winograd(*CASES["odd channels"], epilogue=False)
    check(func, "CPUWinograd", arrays, [wanted], sizes, tolerance=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 3])
def test_symbolic_batch(batch):
    options = dict(batch=batch, symbolic=True)
    func, arrays, wanted, sizes = winograd(*CASES["maps that no tile divides"], **options)
    check(func, "CPUWinograd", arrays, [wanted], sizes, tolerance=TOLERANCE)


def test_result_in_another_layout():
    """What reads the result in another order gets a pass of its own."""
    func, arrays, wanted, _ = winograd(32, 32, (8, 8), epilogue=False)
    inputs = [placeholder("data", *arrays[0].shape), placeholder("weight", *arrays[1].shape)]
    plan = plan_conv2d(32, 32, (3, 3), 1, 16)
    out = winograd_conv2d_blocked(*inputs, plan=plan, tile=4, taps=3, padding=SAME)
    func = prim_func(inputs, [topi.transpose(out, (0, 1, 4, 2, 3))])
    check(
        func, "CPUWinograd", arrays, [wanted.transpose(0, 1, 4, 2, 3).copy()], tolerance=TOLERANCE
    )


@pytest.mark.parametrize(
    ("high", "wide", "whole"), [(1, 2, False), (3, 6, False), (1, 6, True), (3, 6, True)]
)
def test_every_way_to_cut(monkeypatch, high, wide, whole):
    func, arrays, wanted, _ = winograd(32, 64, (11, 23))
    chosen = choose_winograd_tiling(WinogradShape(1, 2, 32, 4, 16, 3, 6, 4, 6), NATIVE)
    cut = replace(chosen, chunk_h=high, chunk_w=wide, tile_h=1, tile_w=2, whole=whole)
    monkeypatch.setattr(winograd_tasks, "choose_winograd_tiling", lambda *_: cut)
    result = np.full(wanted.shape, 77, "float32")
    Kernel(CPUWinograd().apply(func, NATIVE).mod["main"])(*arrays, result)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (2, 5)])
def test_transforms_are_exact(outputs, taps):
    """In rational numbers the algorithm is the convolution itself."""
    matrices = transforms(outputs, taps)
    data = [index * index - 7 for index in range(outputs + taps - 1)]
    kernel = [3 * index - 2 for index in range(taps)]

    def apply(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = zip(apply(matrices.weight, kernel), apply(matrices.data, data), strict=True)
    result = apply(matrices.output, [a * b for a, b in products])
    expected = [
        sum(data[start + tap] * kernel[tap] for tap in range(taps)) for start in range(outputs)
    ]
    assert result == expected


def test_error_against_float64_over_many_channels():
    func, arrays, wanted, _ = winograd(512, 64, (14, 14), epilogue=False)
    check(func, "CPUWinograd", arrays, [wanted], tolerance=TOLERANCE)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_lowers_for_every_target(name):
    target = TARGETS[name]
    func, *_ = winograd(64, 64, (28, 28))
    sch = CPUWinograd().apply(func, target)
    kernel = build_kernels({"kernel": lower_kernel("kernel", sch.mod["main"], target)}, target)
    add = {"aarch64": "fmla", "x86-64-v2": "addps", "rv64gcv": "vfma"}.get(name, "vfmadd")
    assert kernel.assembly().count(add) >= 32


def test_only_where_it_pays():
    large = dict(padding=SAME, taps=3, in_blocks=8, depth=128, out_blocks=8, target=NATIVE)
    assert winograd_tile((56, 56), **large) == 4
    assert winograd_tile((1, 1), **large) is None
    assert winograd_tile((56, 56), **{**large, "taps": 7}) is None
    assert winograd_tile((1, 1), **{**large, "padding": (0, 0, 0, 0)}) is None
