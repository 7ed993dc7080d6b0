"""Convolutions over three axes, which run as those over two, against sums over their taps."""

import itertools

import numpy as np
import onnx
import pytest
from tvm import relax

import athanor
from athanor.compiler.passes.lower_conv3d import LowerConv3d

from .graphs import module, operators

RNG = np.random.default_rng(0)


def taps_of(weight):
    return itertools.product(*(range(size) for size in weight.shape[2:]))


def convolved(x, w, strides, pads, dilations, groups):
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:3], pads[3:], strict=True)])
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[2:], w.shape[2:], dilations, strides, strict=True)
    ]
    result = np.zeros((len(x), len(w), *sizes))
    for tap in taps_of(w):
        window = x[(..., *(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, sizes, strides, strict=True)
        ))]  # fmt: skip
        parts = zip(np.split(window, groups, 1), np.split(w[(..., *tap)], groups), strict=True)
        result += np.concatenate([np.einsum("ncdhw,oc->nodhw", a, b) for a, b in parts], 1)
    return result


def spread(x, w, strides, pads, extra, groups):
    sizes = [
        (n - 1) * s + k + more
        for n, k, s, more in zip(x.shape[2:], w.shape[2:], strides, extra, strict=True)
    ]
    result = np.zeros((len(x), w.shape[1] * groups, *sizes))
    for tap in taps_of(w):
        parts = zip(np.split(x, groups, 1), np.split(w[(..., *tap)], groups), strict=True)
        made = np.concatenate([np.einsum("ncdhw,co->nodhw", a, b) for a, b in parts], 1)
        result[(..., *(
            slice(t, t + (n - 1) * s + 1, s)
            for t, n, s in zip(tap, x.shape[2:], strides, strict=True)
        ))] += made  # fmt: skip
    ends = [slice(b, n - e) for b, n, e in zip(pads[:3], sizes, pads[3:], strict=True)]
    return result[(..., *ends)]


def run(op, x, w, wanted, **attributes):
    node = onnx.helper.make_node(op, ["x", "w"], ["y"], **attributes)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, x.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, wanted.shape)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    result = athanor.compile(model).load().run({"x": x})["y"]
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "shape, weight, strides, pads, dilations, groups",
    [
        ((2, 3, 5, 9, 7), (20, 3, 3, 3, 3), (1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1), 1),
        ((1, 16, 6, 5, 5), (16, 16, 3, 1, 1), (2, 1, 1), (0, 0, 0, 2, 0, 0), (1, 1, 1), 1),
        ((2, 16, 4, 5, 5), (8, 16, 1, 3, 3), (1, 2, 2), (0, 1, 1, 0, 1, 1), (1, 1, 1), 1),
        ((1, 8, 6, 9, 5), (12, 2, 2, 3, 1), (1, 2, 1), (3, 0, 0, 0, 1, 0), (2, 1, 1), 4),
        ((1, 6, 4, 5, 5), (6, 1, 3, 3, 3), (1, 1, 1), (1, 1, 2, 1, 1, 2), (1, 1, 1), 6),
        ((2, 6, 4, 5, 5), (8, 3, 1, 1, 1), (1, 1, 1), (0,) * 6, (1, 1, 1), 2),
        ((2, 5, 4, 5, 6), (9, 5, 1, 1, 3), (1, 1, 2), (0, 0, 1, 0, 0, 2), (1, 1, 2), 1),
        ((1, 16, 6, 5, 7), (16, 16, 3, 1, 1), (2, 1, 1), (0, 0, 0, 2, 0, 0), (2, 1, 1), 1),
    ],
)
def test_convolution(shape, weight, strides, pads, dilations, groups):
    x, w = (RNG.standard_normal(size).astype("float32") for size in (shape, weight))
    wanted = convolved(x, w, strides, pads, dilations, groups)
    run("Conv", x, w, wanted, strides=strides, pads=pads, dilations=dilations, group=groups)


@pytest.mark.parametrize(
    "shape, weight, strides, pads, extra, groups",
    [
        ((2, 16, 3, 4, 5), (16, 8, 2, 2, 2), (2, 2, 2), (0,) * 6, (0, 0, 0), 1),
        ((1, 5, 3, 4, 3), (5, 7, 3, 3, 3), (2, 2, 2), (1, 1, 1, 1, 1, 1), (1, 1, 1), 1),
        ((2, 8, 3, 4, 3), (8, 3, 4, 4, 4), (2, 1, 2), (2, 1, 1, 1, 0, 1), (0, 0, 0), 4),
        ((1, 4, 3, 3, 5), (4, 8, 2, 2, 2), (3, 2, 2), (0,) * 6, (1, 0, 0), 1),
    ],
)
def test_transposed_convolution(shape, weight, strides, pads, extra, groups):
    x, w = (RNG.standard_normal(size).astype("float32") for size in (shape, weight))
    wanted = spread(x, w, strides, pads, extra, groups)
    options = dict(strides=strides, pads=pads, output_padding=extra, group=groups)
    run("ConvTranspose", x, w, wanted, **options)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 1, 3), (3, 1, 1)])
def test_nothing_is_copied_for_one_axis(kernel):
    before = module(
        lambda emit, x: emit(relax.op.nn.conv3d(x, relax.const(np.ones((2, 3, *kernel), "f4")))),
        x=(2, 3, 4, 5, 6),
    )
    names = operators(LowerConv3d()(before))
    assert names == ["relax.reshape", "relax.nn.conv2d", "relax.reshape"]


def test_what_the_run_brings_stays():
    def build(emit, x, w):
        return emit(relax.op.nn.conv3d(x, w))

    weights = module(build, x=(1, 3, 4, 4, 4), w=(2, 3, 3, 3, 3))
    assert operators(LowerConv3d()(weights)) == ["relax.nn.conv3d"]
