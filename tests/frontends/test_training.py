"""One step of each optimizer against the onnx reference, and Det against NumPy."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from athanor.errors import CompileError

from .execute import floats, one_node, run, same

DOMAIN = "ai.onnx.preview.training"
STEPS = {
    "Momentum": (3, dict(alpha=0.9, beta=0.8, norm_coefficient=0.01, mode="standard")),
    "Nesterov": (3, dict(alpha=0.9, beta=0.8, norm_coefficient=0.01, mode="nesterov")),
    "Adagrad": (3, dict(norm_coefficient=0.01, epsilon=1e-5, decay_factor=0.1)),
    "Adam": (
        4,
        dict(alpha=0.8, beta=0.95, norm_coefficient=0.01, norm_coefficient_post=0.02, epsilon=1e-3),
    ),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_step(name, count, groups):
    width, attributes = STEPS[name]
    shapes = [(3, 4), (5,)][:groups]
    tensors = [floats(*s, seed=10 * k + i) for k in range(width) for i, s in enumerate(shapes)]
    if name in ("Adagrad", "Adam"):
        tensors[-groups:] = [np.abs(x) for x in tensors[-groups:]]
    op = "Momentum" if name == "Nesterov" else name
    inputs = [np.array(0.1, np.float32), np.array(count, np.int64), *tensors]
    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(groups * (width - 1))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, outputs, domain=DOMAIN, **attributes)],
        "g",
        [
            onnx.helper.make_tensor_value_info(
                n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
            )
            for n, x in zip(names, inputs, strict=True)
        ],
        [
            onnx.helper.make_tensor_value_info(n, 1, tensors[i % groups].shape)
            for i, n in enumerate(outputs)
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 22), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    expected = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    for ours, theirs in zip(run(model, inputs), expected, strict=True):
        same(ours, theirs.astype(np.float32), 1e-5, 1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 3, 3), (2, 3, 8, 8), (0, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_determinant(shape, dtype):
    x = floats(*shape, dtype=dtype)
    (result,) = run(one_node("Det", [x]), [x])
    expected = np.linalg.det(x.astype(np.float64)).astype(dtype)
    same(result, np.asarray(expected), 1e-5, 1e-6)


def test_determinant_needs_pivots():
    x = np.array([[[0, 2], [3, 4]], [[1, 2], [2, 4]], [[0, 0], [0, 0]]], np.float32)
    (result,) = run(one_node("Det", [x], shapes={0: ["n", 2, 2]}), [x])
    np.testing.assert_array_equal(result, [-6, 0, 0])


def test_determinant_refused():
    x = floats(2, 3)
    with pytest.raises(CompileError, match="no square"):
        run(one_node("Det", [x]), [x])
