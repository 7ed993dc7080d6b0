"""Small networks quantized with ONNX Runtime's own tools, the whole way, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from .artifact import ours, runtime
from .execute import floats

F = onnx.TensorProto.FLOAT


class Samples(quantization.CalibrationDataReader):
    """Seeded inputs to calibrate on."""

    def __init__(self, shape):
        self._left = iter([{"x": floats(*shape, seed=seed)} for seed in range(8)])

    def get_next(self):
        """The next one, None after the last."""
        return next(self._left, None)


def saved(nodes, shape, weights, path):
    """A float model of input x and output y."""
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", F, shape)],
        [onnx.helper.make_tensor_value_info("y", F, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def convolutional(path):
    """Two convolutions with a residual, pooling and a classifier."""
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        make("Relu", ["c0"], ["r0"]),
        make("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        make("Add", ["c1", "r0"], ["s"]),
        make("Relu", ["s"], ["r1"]),
        make("MaxPool", ["r1"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        make("GlobalAveragePool", ["m"], ["p"]),
        make("Flatten", ["p"], ["f"]),
        make("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    weights = {
        "w0": floats(16, 3, 3, 3, seed=1) / 5,
        "b0": floats(16, seed=2),
        "w1": floats(16, 16, 3, 3, seed=3) / 12,
        "b1": floats(16, seed=4),
        "w2": floats(10, 16, seed=5),
        "b2": floats(10, seed=6),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return saved(nodes, [1, 3, 14, 14], weights, path)


def perceptron(path):
    """Three matrix products with activations between."""
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["x", "w0"], ["m0"]),
        make("Add", ["m0", "b0"], ["a0"]),
        make("Relu", ["a0"], ["r0"]),
        make("MatMul", ["r0", "w1"], ["m1"]),
        make("Sigmoid", ["m1"], ["r1"]),
        make("MatMul", ["r1", "w2"], ["y"]),
    ]
    weights = {
        "w0": floats(24, 33, seed=1) / 5,
        "b0": floats(33, seed=2),
        "w1": floats(33, 40, seed=3) / 6,
        "w2": floats(40, 7, seed=4) / 6,
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return saved(nodes, [5, 24], weights, path)


def agree(path, x, steps):
    """Within `steps` of 1/255 of the range of the result."""
    model = onnx.load(path)
    (result,), (expected,) = ours(model, {"x": x}), runtime(model, {"x": x})
    assert result.shape == expected.shape
    step = (expected.max() - expected.min()) / 255
    assert np.abs(result - expected).max() <= steps * step


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("build", "shape"), [(convolutional, (1, 3, 14, 14)), (perceptron, (5, 24))]
)
def test_static(build, shape, form, per_channel, tmp_path):
    path, quantized = build(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantization.quantize_static(
        path,
        quantized,
        Samples(shape),
        quant_format=quantization.QuantFormat[form],
        per_channel=per_channel,
        # 7 bits: ONNX Runtime's sums saturate on processors without VNNI
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
    )
    agree(quantized, floats(*shape, seed=99), steps=1.01)


@pytest.mark.parametrize(
    ("build", "shape"), [(convolutional, (1, 3, 14, 14)), (perceptron, (5, 24))]
)
def test_dynamic(build, shape, tmp_path):
    path, quantized = build(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    options = dict(reduce_range=True, weight_type=quantization.QuantType.QInt8)
    if build is convolutional:  # its dynamic convolutions are of unsigned weights
        options["weight_type"] = quantization.QuantType.QUInt8
    quantization.quantize_dynamic(path, quantized, **options)
    agree(quantized, floats(*shape, seed=99), steps=1.01)
