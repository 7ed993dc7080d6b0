"""Pooling and depthwise convolutions that nothing else wants in blocks, compiled the whole way."""

import onnx
import pytest
from onnx import parser

import athanor

from .artifact import compare
from .execute import floats

BODIES = {
    "depthwise": "a = Conv <group = 3, pads = [1, 1, 1, 1]> (x, w, b)  y = Relu (a)",
    "stride": "a = Conv <group = 3, strides = [2, 2], pads = [1, 0, 1, 2]> (x, w)  y = Neg (a)",
    "max": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",
    "average": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
    "dots": "y = AveragePool <kernel_shape = [1, 1], strides = [2, 3]> (x)",
    "ceil": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)",
}


@pytest.mark.parametrize("shape", [(1, 3, 41, 53), (2, 3, 16, 33)], ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_windows(name, shape):
    dims = ", ".join(map(str, shape))
    graph = f'<ir_version: 10, opset_import: ["": 21]> g (float[{dims}] x) => (float[n, c, h, w] y)'
    model = parser.parse_model(f"{graph} {{ {BODIES[name]} }}")
    for key, array in (("w", floats(3, 1, 3, 3, seed=1)), ("b", floats(3, seed=2))):
        if any(key in node.input for node in model.graph.node):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    compare(model, {"x": floats(*shape)}, rtol=1e-4)
    rules = {kernel["rule"] for kernel in athanor.compile(model).metadata["kernels"]}
    assert rules <= {"CPUPlainWindow", "CPUWindow"}
