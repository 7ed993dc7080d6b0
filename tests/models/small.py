"""Small models of real families, built by hand with seeded weights; all sizes may be symbolic."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


class Graph:
    """Collects nodes and weights; every method returns the name of a value."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def name(self, hint):
        self.count += 1
        return f"{hint}_{self.count}"

    def op(self, operator, *inputs, outputs=1, **attributes):
        names = [self.name(operator.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, list(inputs), names, name=self.name("node"), **attributes)
        )
        return names[0] if outputs == 1 else names

    def const(self, values, dtype=None):
        name = self.name("const")
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape, scale=None):
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        scale = np.sqrt(1 / max(1, fan_in)) if scale is None else scale
        return self.const(self.rng.standard_normal(shape) * scale, np.float32)

    def linear(self, x, fan_in, fan_out):
        return self.op(
            "Add",
            self.op("MatMul", x, self.weight(fan_in, fan_out)),
            self.weight(fan_out, scale=0.1),
        )

    def conv(self, x, channels_in, channels_out, kernel=3, groups=1, **attributes):
        weight = self.weight(channels_out, channels_in // groups, kernel, kernel)
        attributes.setdefault("pads", [kernel // 2] * 4)
        bias = self.weight(channels_out, scale=0.1)
        return self.op("Conv", x, weight, bias, group=groups, **attributes)

    def model(self, inputs, outputs):
        """inputs, outputs: {name: (dtype, shape)}."""

        def values(table):
            return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in table.items()]

        graph = helper.make_graph(self.nodes, "g", values(inputs), values(outputs), self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


def attention(g, x, hidden, heads, mask):
    """Heads split by run-time shapes, as exporters write them."""
    size = hidden // heads

    def split(value, order):
        shape = g.op("Shape", x)
        batch = g.op("Gather", shape, g.const([0], np.int64))
        length = g.op("Gather", shape, g.const([1], np.int64))
        dims = g.op("Concat", batch, length, g.const([heads, size], np.int64), axis=0)
        return g.op("Transpose", g.op("Reshape", value, dims), perm=order)

    q = split(g.linear(x, hidden, hidden), [0, 2, 1, 3])
    k = split(g.linear(x, hidden, hidden), [0, 2, 3, 1])
    v = split(g.linear(x, hidden, hidden), [0, 2, 1, 3])
    scores = g.op("Div", g.op("MatMul", q, k), g.const(np.sqrt(size), np.float32))
    weights = g.op("Softmax", g.op("Add", scores, mask), axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    flat = g.op("Reshape", mixed, g.const([0, 0, hidden], np.int64))
    return g.linear(flat, hidden, hidden)


def norm(g, x, hidden):
    return g.op(
        "LayerNormalization",
        x,
        g.const(g.rng.uniform(0.5, 1.5, hidden), np.float32),
        g.weight(hidden, scale=0.1),
        axis=-1,
        epsilon=1e-5,
    )


def encoder(batch="batch", length="length", hidden=48, heads=3, layers=2, vocabulary=50):
    """A BERT: input_ids, attention_mask -> hidden states."""
    g = Graph(1)
    float_mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    wide = g.op("Unsqueeze", float_mask, g.const([1, 2], np.int64))
    inverse = g.op("Sub", g.const(1.0, np.float32), wide)
    mask = g.op("Mul", inverse, g.const(-1e4, np.float32))
    x = norm(g, g.op("Gather", g.weight(vocabulary, hidden, scale=1.0), "input_ids"), hidden)
    for _ in range(layers):
        x = norm(g, g.op("Add", x, attention(g, x, hidden, heads, mask)), hidden)
        inner = g.op("Gelu", g.linear(x, hidden, 4 * hidden))
        x = norm(g, g.op("Add", x, g.linear(inner, 4 * hidden, hidden)), hidden)
    g.op("Identity", x)
    g.nodes[-1].output[0] = "states"
    ids = (TensorProto.INT64, [batch, length])
    return g.model(
        {"input_ids": ids, "attention_mask": ids},
        {"states": (TensorProto.FLOAT, [batch, length, hidden])},
    )


def mobile_net(batch="batch"):
    """Inverted residuals with depthwise kernels, odd channel counts, clip and hard swish."""
    g = Graph(2)
    limits = g.const(0.0, np.float32), g.const(6.0, np.float32)
    x = g.op("Clip", g.conv("image", 3, 20, strides=[2, 2]), *limits)
    for _ in range(2):
        wide = g.op("Clip", g.conv(x, 20, 54, kernel=1), *limits)
        deep = g.op("HardSwish", g.conv(wide, 54, 54, kernel=5, groups=54))
        gate = g.op("GlobalAveragePool", deep)
        gate = g.op("HardSigmoid", g.conv(gate, 54, 54, kernel=1))
        x = g.op("Add", x, g.conv(g.op("Mul", deep, gate), 54, 20, kernel=1))
    down = g.op("Relu", g.conv(x, 20, 24, groups=4, strides=[2, 2]))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", down))
    g.op("Gemm", pooled, g.weight(10, 24), g.weight(10, scale=0.1), transB=1)
    g.nodes[-1].output[0] = "scores"
    return g.model(
        {"image": (TensorProto.FLOAT, [batch, 3, 29, 31])},
        {"scores": (TensorProto.FLOAT, [batch, 10])},
    )


def unet(batch=1):
    """Two scales, a transposed convolution and a skip connection."""
    g = Graph(3)
    top = g.op("Relu", g.conv("image", 3, 16))
    low = g.op("Relu", g.conv(g.op("MaxPool", top, kernel_shape=[2, 2], strides=[2, 2]), 16, 32))
    up = g.op(
        "ConvTranspose",
        low,
        g.weight(32, 16, 2, 2),
        g.weight(16, scale=0.1),
        strides=[2, 2],
        kernel_shape=[2, 2],
    )
    joined = g.op("Relu", g.conv(g.op("Concat", up, top, axis=1), 32, 16))
    g.op("Conv", joined, g.weight(5, 16, 1, 1))
    g.nodes[-1].output[0] = "map"
    return g.model(
        {"image": (TensorProto.FLOAT, [batch, 3, 18, 22])},
        {"map": (TensorProto.FLOAT, [batch, 5, 18, 22])},
    )


def tagger(batch=1, length="length", hidden=20):
    """Embedding, a bidirectional LSTM, a linear layer."""
    g = Graph(4)
    x = g.op("Transpose", g.op("Gather", g.weight(30, 12, scale=1.0), "input_ids"), perm=[1, 0, 2])
    scale = 0.3
    y, _, _ = g.op(
        "LSTM",
        x,
        g.weight(2, 4 * hidden, 12, scale=scale),
        g.weight(2, 4 * hidden, hidden, scale=scale),
        g.weight(2, 8 * hidden, scale=0.1),
        outputs=3,
        hidden_size=hidden,
        direction="bidirectional",
    )
    joined = g.op(
        "Reshape", g.op("Transpose", y, perm=[2, 0, 1, 3]), g.const([0, 0, 2 * hidden], np.int64)
    )
    g.linear(joined, 2 * hidden, 7)
    g.nodes[-1].output[0] = "tags"
    return g.model(
        {"input_ids": (TensorProto.INT64, [batch, length])},
        {"tags": (TensorProto.FLOAT, [batch, length, 7])},
    )


def decoder(batch="batch", length="length", hidden=32, heads=2, vocabulary=40):
    """A GPT: causal mask by run-time shapes, rotary halves concatenated, tied projection."""
    g = Graph(5)
    shape = g.op("Shape", "input_ids")
    size = g.op("Gather", shape, g.const([1], np.int64))
    square = g.op("Concat", size, size, axis=0)
    ones = g.op("Expand", g.const(1.0, np.float32), square)
    above = g.op("Sub", ones, g.op("Trilu", ones, upper=0))
    mask = g.op("Mul", above, g.const(-1e9, np.float32))
    table = g.weight(vocabulary, hidden, scale=1.0)
    x = g.op("Gather", table, "input_ids")
    places = g.op("Range", g.const(0, np.int64), g.op("Squeeze", size), g.const(1, np.int64))
    x = g.op("Add", x, g.op("Gather", g.weight(64, hidden, scale=0.5), places))
    for _ in range(2):
        x = g.op("Add", x, attention(g, norm(g, x, hidden), hidden, heads, mask))
        left, right = g.op("Split", norm(g, x, hidden), outputs=2, axis=-1, num_outputs=2)
        turned = g.op("Concat", g.op("Neg", right), left, axis=-1)
        inner = g.op("Mul", g.linear(turned, hidden, 64), g.op("Sigmoid", g.linear(x, hidden, 64)))
        x = g.op("Add", x, g.linear(inner, 64, hidden))
    g.op("MatMul", norm(g, x, hidden), g.op("Transpose", table, perm=[1, 0]))
    g.nodes[-1].output[0] = "logits"
    return g.model(
        {"input_ids": (TensorProto.INT64, [batch, length])},
        {"logits": (TensorProto.FLOAT, [batch, length, vocabulary])},
    )
