"""The light_*.onnx models of the onnx package, with seeded random weights.

As shipped their weights are constants, which hides errors: a wrong order of channels or of taps
gives the same sums.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem for path in FOLDER.glob("light_*.onnx"))


def random_light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """The model with every weight drawn so that activations stay near 1 through all layers."""
    model = onnx.load(FOLDER / f"{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {
        node.output[0]: tuple(int(d) for d in shapes[node.input[0]])
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    made |= {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    roles = {
        value: (node.op_type, position)
        for node in graph.node
        for position, value in enumerate(node.input)
    }
    drawn = [
        numpy_helper.from_array(draw(rng, *roles.get(value, ("", 0)), shape), value)
        for value, shape in made.items()
    ]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *drawn])
    inputs = [value for value in graph.input if value.name not in shapes]
    del graph.input[:]
    graph.input.extend(inputs)
    last = graph.node[-1]
    if last.op_type == "Softmax":  # of random logits it is 0 and 1; the logits tell more
        graph.output.add().CopyFrom(graph.output[0])
        graph.output[1].name = last.input[0]
    model.ir_version = max(model.ir_version, 4)  # from where weights need not be inputs
    return model


def draw(rng: np.random.Generator, operator: str, position: int, shape: tuple) -> np.ndarray:
    """One weight of an operator, by what its position means."""
    if operator in ("Conv", "Gemm") and position == 1:
        fan_in = int(np.prod(shape[1:])) if operator == "Conv" else max(shape)
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
    elif operator == "BatchNormalization" and position in (1, 4):  # scale, variance
        values = rng.uniform(0.5, 1.5, shape)
    elif operator in ("Unsqueeze", "Mul"):
        values = rng.uniform(0.5, 1.0, shape)
    else:
        values = rng.standard_normal(shape) * 0.1
    return values.astype(np.float32, copy=False)
