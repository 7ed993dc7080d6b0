"""Models of one operator, in shapes that libraries are not tuned for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

Pair = tuple[int, int]

CONVOLUTIONS: dict[str, tuple] = {
    # name: (batch, in channels, out channels, (height, width), kernel, stride, dilation, groups)
    "odd channels 3x3": (1, 37, 53, (28, 28), (3, 3), 1, 1, 1),
    "odd channels 1x1": (1, 17, 19, (56, 56), (1, 1), 1, 1, 1),
    "odd channels 5x5": (1, 21, 21, (50, 50), (5, 5), 1, 1, 1),
    "3-channel image, stride 2": (1, 3, 24, (224, 224), (3, 3), 2, 1, 1),
    "1-channel image 5x5": (1, 1, 16, (128, 128), (5, 5), 1, 1, 1),
    "5-channel image 7x7, stride 2": (1, 5, 32, (160, 160), (7, 7), 2, 1, 1),
    "1-channel signal 1x9": (1, 1, 32, (1, 4000), (1, 9), 1, 1, 1),
    "9x1": (1, 32, 32, (200, 40), (9, 1), 1, 1, 1),
    "1x9": (1, 32, 48, (40, 200), (1, 9), 1, 1, 1),
    "dilation 2": (1, 48, 48, (40, 40), (3, 3), 1, 2, 1),
    "dilation 4": (1, 64, 64, (33, 33), (3, 3), 1, 4, 1),
    "dilation 6, odd": (1, 95, 63, (32, 32), (3, 3), 1, 6, 1),
    "4 groups": (1, 64, 64, (28, 28), (3, 3), 1, 1, 4),
    "7 groups": (1, 56, 84, (28, 28), (3, 3), 1, 1, 7),
    "2 groups 5x5": (1, 30, 50, (35, 35), (5, 5), 1, 1, 2),
    "32 groups": (1, 128, 128, (28, 28), (3, 3), 1, 1, 32),
    "depthwise 5x5, stride 2": (1, 72, 72, (57, 57), (5, 5), 2, 1, 72),
    "depthwise 7x7": (1, 64, 64, (56, 56), (7, 7), 1, 1, 64),
    "depthwise 11x11": (1, 32, 32, (40, 40), (11, 11), 1, 1, 32),
    "depthwise 21x21": (1, 24, 24, (35, 35), (21, 21), 1, 1, 24),
    "depthwise 31x31": (1, 16, 16, (64, 64), (31, 31), 1, 1, 16),
    "depthwise 1x9": (1, 48, 48, (16, 200), (1, 9), 1, 1, 48),
    "tiny map 3x3": (1, 256, 256, (3, 3), (3, 3), 1, 1, 1),
    "tiny map 1x1": (1, 960, 320, (1, 1), (1, 1), 1, 1, 1),
    "long map": (1, 16, 16, (8, 2000), (3, 3), 1, 1, 1),
    "long map, odd": (1, 13, 29, (5, 1501), (3, 3), 1, 1, 1),
    "batch 3": (3, 40, 40, (31, 31), (3, 3), 1, 1, 1),
    "batch 3, 1x1": (3, 100, 60, (17, 17), (1, 1), 1, 1, 1),
    "4x4, stride 3": (1, 30, 45, (61, 61), (4, 4), 3, 1, 1),
    "2x2, stride 2": (1, 33, 66, (40, 40), (2, 2), 2, 1, 1),
    "7x7": (1, 16, 16, (48, 48), (7, 7), 1, 1, 1),
}

PRODUCTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    # name: shape of a, shape of b, whether b is a constant
    "m = 1": ((1, 768), (768, 3072), True),
    "m = 1, odd": ((1, 333), (333, 777), True),
    "m = 1, few columns": ((1, 1000), (1000, 10), True),
    "m = 1, square": ((1, 2048), (2048, 2048), True),
    "m = 3": ((3, 512), (512, 512), True),
    "m = 5, odd": ((5, 1023), (1023, 129), True),
    "m = 7, wide": ((7, 64), (64, 4000), True),
    "all odd": ((127, 255), (255, 63), True),
    "all odd, larger": ((333, 111), (111, 77), True),
    "k = 3": ((1000, 3), (3, 1000), True),
    "k and n small": ((1000, 5), (5, 7), True),
    "n = 3": ((4096, 16), (16, 3), True),
    "n = 1": ((50, 2000), (2000, 1), True),
    "batch 12, both of the run": ((12, 50, 64), (12, 64, 50), False),
    "batch 3, odd, both of the run": ((3, 17, 33), (3, 33, 65), False),
}


def shape_models(seed: int = 0) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every shape as a model; weights are seeded."""
    rng = np.random.default_rng(seed)
    for name, spec in CONVOLUTIONS.items():
        yield f"conv: {name}", convolution(rng, *spec)
    for name, (a, b, constant) in PRODUCTS.items():
        yield f"matmul: {name}", product(rng, a, b, constant)


def work(model: onnx.ModelProto) -> tuple[int, int]:
    """Operations of a model of shape_models, two for a multiply-add, and bytes it must touch."""
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    shapes.update((tensor.name, list(tensor.dims)) for tensor in graph.initializer)
    (node,) = graph.node
    # a convolution's weights are (out, in of a group, taps...), a product's (..., depth, columns)
    weight = shapes[node.input[1]]
    depth = math.prod(weight[1:]) if node.op_type == "Conv" else weight[-2]
    operations = 2 * depth * math.prod(shapes[node.output[0]])
    return operations, 4 * sum(math.prod(shape) for shape in shapes.values())


def convolution(
    rng: np.random.Generator,
    batch: int,
    in_channels: int,
    out_channels: int,
    size: Pair,
    kernel: Pair,
    stride: int,
    dilation: int,
    groups: int,
) -> onnx.ModelProto:
    """A convolution with bias, padded so that stride 1 keeps the size where the kernel is odd."""
    reach = [(taps - 1) * dilation for taps in kernel]
    before, after = [r // 2 for r in reach], [r - r // 2 for r in reach]
    fan_in = in_channels // groups * kernel[0] * kernel[1]
    weights = {
        "w": rng.standard_normal((out_channels, in_channels // groups, *kernel)) / fan_in**0.5,
        "b": rng.standard_normal(out_channels),
    }
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        kernel_shape=kernel,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        pads=[*before, *after],
        group=groups,
    )
    return _model(node, {"x": (batch, in_channels, *size)}, weights)


def product(
    rng: np.random.Generator, a: tuple[int, ...], b: tuple[int, ...], constant: bool
) -> onnx.ModelProto:
    """A matrix product, of a weight or of two values of the run."""
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    if constant:
        return _model(node, {"a": a}, {"b": rng.standard_normal(b)})
    return _model(node, {"a": a, "b": b}, {})


def _model(
    node: onnx.NodeProto, inputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    def info(name: str, shape: tuple[int, ...] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "shape",
        [info(name, shape) for name, shape in inputs.items()],
        [info("y", None)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)
