"""A hypothesis strategy: valid models of 1 to 12 operators with seeded inputs.

A value is *exact* where no rounding has happened on the way to it: what is discontinuous (a
comparison, an index of a maximum) is applied to such values alone, so that a difference in the last
bit never becomes a different answer.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
MOST_ELEMENTS = 2000
SMOOTH = (
    "Sigmoid Tanh Erf Softplus Softsign Sin Cos Elu LeakyRelu HardSigmoid HardSwish Mish".split()
)
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}


@dataclass(frozen=True)
class Value:
    name: str
    shape: tuple
    exact: bool
    kind: str = "f"  # float32, or i: int64

    @property
    def rank(self):
        return len(self.shape)

    @property
    def size(self):
        return int(np.prod(self.shape))


class Builder:
    """The graph so far; `draw` decides."""

    def __init__(self, draw):
        self.draw = draw
        self.nodes, self.weights, self.inputs, self.values = [], [], [], []
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def pick(self, choices):
        return self.draw(st.sampled_from(list(choices)))

    def flag(self):
        return self.draw(st.booleans())

    def numbers(self, shape, kind="f"):
        """Multiples of 1/4, none of them 0; small integers."""
        values = self.rng.integers(1, 12, shape) * self.rng.choice([-1, 1], shape)
        return values.astype(np.int64) if kind == "i" else (values / 4).astype(np.float32)

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, values):
        return self.weight(np.array(values, np.int64))

    def emit(self, op, inputs, shape, exact, kind="f", outputs=1, **attributes):
        """Add a node; its value, or values where `shape` lists several."""
        shapes = shape if outputs > 1 else [shape]
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        names_in = [x.name if isinstance(x, Value) else x for x in inputs]
        self.nodes.append(helper.make_node(op, names_in, names, **attributes))
        made = [
            Value(n, tuple(int(d) for d in s), exact, kind)
            for n, s in zip(names, shapes, strict=True)
        ]
        self.values += made
        return made[0] if outputs == 1 else made

    def axis(self, value):
        return self.draw(st.integers(-value.rank, value.rank - 1))


def unary(b, x):
    """Smooth functions, and the few that keep a value exact."""
    if b.flag():
        op = b.pick(["Relu", "Neg", "Abs", "Identity"])
        b.emit(op, [x], x.shape, x.exact)
    elif x.exact and b.flag():
        b.emit(b.pick(["Floor", "Ceil", "Sign", "Round"]), [x], x.shape, True)
    else:
        b.emit(b.pick(SMOOTH), [x], x.shape, False)


def binary(b, x):
    others = [v for v in b.values if v.kind == x.kind and fits(v.shape, x.shape)]
    if others and b.flag():
        other = b.pick(others)
        shape = np.broadcast_shapes(x.shape, other.shape)
        exact = x.exact and other.exact
    else:
        dims = [d if b.flag() else 1 for d in x.shape][b.draw(st.integers(0, x.rank)) :]
        other, shape, exact = b.weight(b.numbers(dims, x.kind)), x.shape, x.exact
    if np.prod(shape) > MOST_ELEMENTS:
        return
    op = b.pick(["Add", "Sub", "Max", "Min", "Mul"] + (["Div"] if isinstance(other, str) else []))
    if x.kind == "i" and op == "Div":
        op = "Mod"
    pair = [x, other] if op in ("Div", "Mod") or b.flag() else [other, x]
    b.emit(op, pair, shape, exact and op in ("Max", "Min"), x.kind)


def fits(one, other):
    return all(a == b or 1 in (a, b) for a, b in zip(one[::-1], other[::-1], strict=False))


def compare(b, x):
    if x.exact:
        name = f"c{len(b.nodes)}"
        limit = b.weight(b.numbers([d if b.flag() else 1 for d in x.shape]))
        b.nodes.append(
            helper.make_node(
                b.pick(["Less", "Greater", "LessOrEqual", "Equal"]), [x.name, limit], [name]
            )
        )
        b.emit("Where", [name, x, b.weight(b.numbers(x.shape))], x.shape, True)


def reduce(b, x):
    axes = sorted({b.axis(x) % x.rank for _ in range(b.draw(st.integers(1, x.rank)))})
    keep = b.flag()
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    named = [a - x.rank if b.flag() else a for a in axes]
    op = b.pick(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1"])
    inputs, attributes = [x, b.ints(named)], {"keepdims": int(keep)}
    b.emit(op, inputs, shape, x.exact and op in ("ReduceMax", "ReduceMin"), **attributes)


def arg(b, x):
    if x.exact:
        axis, keep = b.axis(x), b.flag()
        shape = [1 if i == axis % x.rank else d for i, d in enumerate(x.shape)]
        if not keep:
            del shape[axis % x.rank]
        b.emit(b.pick(["ArgMax", "ArgMin"]), [x], shape, True, "i", axis=axis, keepdims=int(keep))


def matmul(b, x):
    columns = b.draw(st.integers(1, 9))
    weight = b.weight(b.numbers((x.shape[-1], columns)))
    if x.rank == 2 and b.flag():
        bias = b.weight(b.numbers((columns,)))
        b.emit("Gemm", [x, weight, bias], (x.shape[0], columns), False, alpha=0.5)
    else:
        b.emit("MatMul", [x, weight], (*x.shape[:-1], columns), False)


def normalize(b, x):
    op = b.pick(["Softmax", "LogSoftmax", "LayerNormalization"])
    if op == "LayerNormalization":
        if x.shape[-1] > 1:  # one element has no variance, and noise would be all there is
            scale, bias = (b.weight(b.numbers(x.shape[-1:])) for _ in range(2))
            b.emit(op, [x, scale, bias], x.shape, False, epsilon=0.1)
        return
    b.emit(op, [x], x.shape, False, axis=b.axis(x))


def transpose(b, x):
    order = b.draw(st.permutations(range(x.rank)))
    b.emit("Transpose", [x], [x.shape[i] for i in order], x.exact, x.kind, perm=list(order))


def reshape(b, x):
    dims = list(x.shape)
    if x.rank > 1 and b.flag():
        at = b.draw(st.integers(0, x.rank - 2))
        dims[at : at + 2] = [dims[at] * dims[at + 1]]
    else:
        dims = [*dims[::-1]]
    sizes = list(dims)
    if sizes and b.flag():
        sizes[b.draw(st.integers(0, len(sizes) - 1))] = -1
    b.emit("Reshape", [x, b.ints(sizes)], dims, x.exact, x.kind)


def unsqueeze(b, x):
    if x.rank < 5 and b.flag():
        at = b.draw(st.integers(0, x.rank))
        b.emit("Unsqueeze", [x, b.ints([at])], [*x.shape[:at], 1, *x.shape[at:]], x.exact, x.kind)
    elif 1 in x.shape:
        at = x.shape.index(1)
        dims = [*x.shape[:at], *x.shape[at + 1 :]]
        b.emit("Squeeze", [x, b.ints([at])], dims, x.exact, x.kind)


def concat(b, x):
    axis = b.axis(x)
    dims = list(x.shape)
    dims[axis] = b.draw(st.integers(1, 3))
    parts = [x, b.weight(b.numbers(dims, x.kind)), x][: b.draw(st.integers(2, 3))]
    total = list(x.shape)
    total[axis] += dims[axis] + (x.shape[axis] if len(parts) == 3 else 0)
    if np.prod(total) <= MOST_ELEMENTS:
        b.emit("Concat", parts, total, x.exact, x.kind, axis=axis)


def split(b, x):
    axis = b.axis(x)
    if x.shape[axis] > 1:
        first = b.draw(st.integers(1, x.shape[axis] - 1))
        parts = []
        for size in (first, x.shape[axis] - first):
            parts.append(list(x.shape))
            parts[-1][axis] = size
        sizes = b.ints([first, x.shape[axis] - first])
        b.emit("Split", [x, sizes], parts, x.exact, x.kind, outputs=2, axis=axis)


def cut(b, x):
    axis, dims = b.axis(x), list(x.shape)
    extent = dims[axis]
    start, end = (b.draw(st.integers(-extent - 2, extent + 2)) for _ in range(2))
    step = b.pick([1, 2, 3, -1, -2])
    dims[axis] = len(range(extent)[start:end:step])
    if dims[axis]:
        bounds = [b.ints([value]) for value in (start, end, axis, step)]
        # ONNX clamps a negative start or end once, as Python's slices do
        b.emit("Slice", [x, *bounds], dims, x.exact, x.kind)


def pad(b, x):
    mode = b.pick(["constant", "edge", "reflect"])
    before, after = ([b.draw(st.integers(0, 2)) for _ in x.shape] for _ in range(2))
    if mode == "reflect":
        before, after = (
            [min(p, d - 1) for p, d in zip(pads, x.shape, strict=True)] for pads in (before, after)
        )
    dims = [d + p + q for d, p, q in zip(x.shape, before, after, strict=True)]
    if np.prod(dims) <= MOST_ELEMENTS:
        b.emit("Pad", [x, b.ints([*before, *after])], dims, x.exact, x.kind, mode=mode)


def gather(b, x):
    axis = b.axis(x)
    extent = x.shape[axis]
    shape = b.pick([(), (1,), (3,), (2, 2)])
    indices = b.rng.integers(-extent, extent, shape)
    at = axis % x.rank
    dims = [*x.shape[:at], *shape, *x.shape[at + 1 :]]
    if len(dims) <= 5 and np.prod(dims) <= MOST_ELEMENTS:
        b.emit(
            "Gather", [x, b.weight(np.array(indices, np.int64))], dims, x.exact, x.kind, axis=axis
        )


def repeat(b, x):
    counts = [b.draw(st.integers(1, 2)) for _ in x.shape]
    dims = [d * c for d, c in zip(x.shape, counts, strict=True)]
    if np.prod(dims) > MOST_ELEMENTS:
        return
    if b.flag():
        b.emit("Tile", [x, b.ints(counts)], dims, x.exact, x.kind)
    else:
        dims = [c + 1 if d == 1 else d for d, c in zip(x.shape, counts, strict=True)]
        b.emit("Expand", [x, b.ints(dims)], dims, x.exact, x.kind)


def scan(b, x):
    if x.rank >= 2 and b.flag():
        b.emit(
            "Trilu",
            [x, b.weight(np.int64(b.draw(st.integers(-2, 2))))],
            x.shape,
            x.exact,
            upper=int(b.flag()),
        )
    else:
        axis = b.weight(np.int64(b.axis(x)))
        b.emit("CumSum", [x, axis], x.shape, False, reverse=int(b.flag()), exclusive=int(b.flag()))


def image(b, x):
    if x.rank != 4:
        return
    channels, height, width = x.shape[1:]
    kernel = [b.draw(st.integers(1, min(3, d))) for d in (height, width)]
    stride = [b.draw(st.integers(1, 2)) for _ in range(2)]
    pads = [b.draw(st.integers(0, k - 1)) for k in kernel * 2]
    size = [
        (d + pads[i] + pads[i + 2] - kernel[i]) // stride[i] + 1
        for i, d in enumerate((height, width))
    ]
    common = {"kernel_shape": kernel, "strides": stride, "pads": pads}
    op = b.pick(
        ["Conv", "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization"]
    )
    if op == "Conv":
        out = b.draw(st.integers(1, 20))
        weights = [b.numbers((out, channels, *kernel)), b.numbers((out,))]
        if np.prod([out, *size]) * x.shape[0] <= MOST_ELEMENTS:
            b.emit(op, [x, *map(b.weight, weights)], (x.shape[0], out, *size), False, **common)
    elif op == "GlobalAveragePool":
        b.emit(op, [x], (*x.shape[:2], 1, 1), False)
    elif op == "BatchNormalization":
        scale, bias, mean = (b.weight(b.numbers((channels,))) for _ in range(3))
        variance = b.weight(np.abs(b.numbers((channels,))))
        b.emit(op, [x, scale, bias, mean, variance], x.shape, False)
    else:
        b.emit(op, [x], (*x.shape[:2], *size), x.exact and op == "MaxPool", **common)


def cast(b, x):
    if x.kind == "i":
        b.emit("Cast", [x], x.shape, x.exact, "f", to=TensorProto.FLOAT)
    elif x.exact:
        b.emit("Cast", [x], x.shape, True, "i", to=TensorProto.INT64)


ANY = (binary, transpose, reshape, unsqueeze, concat, split, cut, pad, gather, repeat, cast)
FLOAT = (unary, unary, binary, compare, reduce, arg, matmul, normalize, scan, image, image)


@st.composite
def graphs(draw):
    """(model, feeds); the model's outputs are all values that no node reads."""
    b = Builder(draw)
    names = {}
    symbolic = draw(st.booleans())
    for index in range(draw(st.integers(1, 2))):
        rank = draw(st.sampled_from([1, 2, 3, 4, 4]))
        shape = tuple(
            draw(st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=rank, max_size=rank))
        )
        b.inputs.append(Value(f"x{index}", shape, True))
        # the first dimension may be unknown; one of 1 stays, for it broadcasts
        names[f"x{index}"] = [f"n{shape[0]}" if symbolic and shape[0] > 1 else shape[0], *shape[1:]]
    b.values += b.inputs
    count = draw(st.integers(1, 12))
    for _ in range(3 * count):  # a step may find nothing to do
        if len(b.nodes) >= count:
            break
        x = draw(st.sampled_from(b.values[-4:]))
        step = draw(st.sampled_from(ANY if x.kind == "i" else ANY + FLOAT))
        if x.rank or step in (binary, unary, cast, unsqueeze):
            step(b, x)
    if not b.nodes:
        b.emit("Relu", [b.inputs[0]], b.inputs[0].shape, True)
    read = {name for node in b.nodes for name in node.input}
    results = [v for v in b.values if v.name not in read and v not in b.inputs]
    graph = helper.make_graph(
        b.nodes,
        "random",
        [helper.make_tensor_value_info(v.name, TYPES[v.kind], names[v.name]) for v in b.inputs],
        [
            helper.make_tensor_value_info(
                v.name, TYPES[v.kind], [None] * v.rank if symbolic else v.shape
            )
            for v in results
        ],
        b.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return model, {v.name: b.numbers(v.shape) for v in b.inputs}
