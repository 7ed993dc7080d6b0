"""The com.microsoft domain: activations, normalizations and products with something fused in.

ONNX Runtime's optimizer and exporters made for it emit these; its documentation is
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import replace

from tvm import relax

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.activation import clip_attributes, formula, hard_sigmoid, swish
from athanor.frontends.onnx.ops.broadcasting import unify
from athanor.frontends.onnx.ops.convolution import conv
from athanor.frontends.onnx.ops.indexing import gather
from athanor.frontends.onnx.ops.matmul import gemm, matmul
from athanor.frontends.onnx.ops.normalization import layer_normalization
from athanor.frontends.onnx.tensors import cast, dtype_of, filled, rank_of, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def gelu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Gelu and BiasGelu: `x * Phi(x)` by erf, of input 0 plus the optional bias."""
    return R.nn.gelu(_sum(inputs[:2], builder))


def fast_gelu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Gelu by tanh, of input 0 plus the optional bias."""
    return R.nn.gelu_tanh(_sum(inputs[:2], builder))


quick_gelu = formula(swish, alpha=1.702)


def _sum(values: Inputs, builder: Builder) -> relax.Expr:
    total = values[0]
    for value in values[1:]:
        if value is not None:
            total = builder.emit(R.add(*unify([total, value], builder)))
    return total


def skip_layer_normalization(
    node: Node, inputs: Inputs, builder: Builder
) -> tuple[relax.Expr, ...]:
    """LayerNormalization of `input + skip + bias`; that sum is the optional fourth result.

    inputs: input, skip, gamma, optional beta, optional bias.
    """
    bias = inputs[4] if node.has_input(4, inputs) else None
    total = _sum([inputs[0], inputs[1], bias], builder)
    beta = inputs[3] if node.has_input(3, inputs) else None
    return (*_layer_norm(node, total, inputs[2], beta, builder), total)


def _layer_norm(
    node: Node, x: relax.Expr, gamma: relax.Expr, beta: relax.Expr | None, builder: Builder
) -> tuple[relax.Expr | None, ...]:
    """The result, and mean and inverse deviation where the node has an output for them."""
    wanted = list(node.outputs[:3])
    inner = replace(
        node,
        attributes={"axis": -1, "epsilon": node.float("epsilon", 1e-12)},
        outputs=wanted,
    )
    results = layer_normalization(inner, [x, gamma, *([beta] if beta is not None else [])], builder)
    results = (builder.emit(results[0]), *results[1:])
    return (*results, *[None] * (3 - len(results)))


def simplified_layer_normalization(
    node: Node, inputs: Inputs, builder: Builder
) -> tuple[relax.Expr, ...]:
    """`x / sqrt(mean(x^2) + epsilon) * scale` over the dims from `axis` on; optional 1 / sqrt.

    In the standard's own domain although it is not in the standard: exporters put it there.
    """
    return root_mean_square(
        inputs[0],
        inputs[1],
        node.axis("axis", rank_of(inputs[0]), -1),
        node.float("epsilon", 1e-5),
        builder,
    )


def skip_simplified_layer_normalization(
    node: Node, inputs: Inputs, builder: Builder
) -> tuple[relax.Expr | None, ...]:
    """The root-mean-square normalization of `input + skip + bias`; that sum is result 3.

    inputs: input, skip, gamma, optional bias. There is no mean: result 1 is refused.
    """
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.error("output mean is not supported; nothing is subtracted here")
    bias = inputs[3] if node.has_input(3, inputs) else None
    total = _sum([inputs[0], inputs[1], bias], builder)
    epsilon = node.float("epsilon", 1e-12)
    result, inverse = root_mean_square(total, inputs[2], rank_of(total) - 1, epsilon, builder)
    return result, None, inverse, total


def root_mean_square(
    x: relax.Expr, scale: relax.Expr, axis: int, epsilon: float, builder: Builder
) -> tuple[relax.Expr, relax.Expr]:
    """The normalized and scaled x, and the factor `1 / sqrt(mean(x^2) + epsilon)` in float32."""
    dtype = dtype_of(x)
    wide = dtype if dtype == "float64" else "float32"
    value = cast(x, wide, builder)
    axes = list(range(axis, rank_of(x)))
    squares = builder.emit(R.mean(builder.emit(R.multiply(value, value)), axes, keepdims=True))
    root = builder.emit(R.sqrt(builder.emit(R.add(squares, scalar(epsilon, wide)))))
    normal = builder.emit(R.divide(value, root))
    scaled = builder.emit(R.multiply(normal, cast(scale, wide, builder)))
    return cast(scaled, dtype, builder), builder.emit(R.divide(scalar(1, wide), root))


def embed_layer_normalization(
    node: Node, inputs: Inputs, builder: Builder
) -> tuple[relax.Expr | None, ...]:
    """LayerNormalization of word + position + segment embeddings.

    inputs: input_ids (B, S), optional segment_ids, word, position and optional segment tables,
    gamma, beta, optional mask (B, S), optional position_ids (B or 1, S).
    Results: the embedding, how many leading ones each row of the mask has (0 without a mask), and
    the sum before normalization.
    """
    ids, segments, words, positions, kinds, gamma, beta = inputs[:7]
    batch, length = shape_of(ids)
    lookup = replace(node, attributes={"axis": 0}, known=[None, None])
    total = builder.emit(gather(lookup, [words, ids], builder))
    if node.has_input(8, inputs):
        placed = builder.emit(gather(lookup, [positions, inputs[8]], builder))
    else:
        placed = builder.emit(R.strided_slice(positions, [0], [0], [length]))
    total = builder.emit(R.add(*unify([total, placed], builder)))
    if (segments is None) != (kinds is None):
        raise node.error("segment_ids and segment_embedding have to be given together")
    if segments is not None:
        kind = builder.emit(gather(lookup, [kinds, segments], builder))
        total = builder.emit(R.add(total, kind))
    inner = replace(node, outputs=node.outputs[:1])
    result = _layer_norm(inner, total, gamma, beta, builder)[0]
    index = None
    if len(node.outputs) > 1 and node.outputs[1]:
        if node.has_input(7, inputs):
            index = R.sum(cast(inputs[7], "int32", builder), axis=[1])
        else:
            index = filled([batch], 0, "int32", builder)
    return result, index, total


def fused_matmul(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`alpha * A' @ B'`, transposed in the last two dims, or with the first dim moved inwards.

    transBatchA: A is (M, batch..., K); likewise for B.
    """
    operands = []
    for value, name in zip(inputs, "AB", strict=True):
        rank = rank_of(value)
        if node.int(f"transBatch{name}", 0) and rank > 2:
            value = builder.emit(R.permute_dims(value, [*range(1, rank - 1), 0, rank - 1]))
        if node.int(f"trans{name}", 0) and rank > 1:
            order = [*range(rank - 2), rank - 1, rank - 2]
            value = builder.emit(R.permute_dims(value, order))
        operands.append(value)
    result = builder.emit(matmul(node, operands, builder))
    alpha = node.float("alpha", 1.0)
    return result if alpha == 1.0 else R.multiply(result, scalar(alpha, dtype_of(result)))


def fused_gemm(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Gemm, then `activation` with activation_alpha and activation_beta."""
    result = builder.emit(gemm(node, inputs, builder))
    names = [name for name in ("activation_alpha", "activation_beta") if node.has(name)]
    return activated(node, result, [node.float(name) for name in names], builder)


def fused_conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Conv, plus input 3 where given, then `activation` with `activation_params`."""
    result = builder.emit(conv(node, inputs[:3], builder))
    if node.has_input(3, inputs):
        result = builder.emit(R.add(*unify([result, inputs[3]], builder)))
    return activated(node, result, node.floats("activation_params", []), builder)


def nhwc_conv(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Conv of x (N, H, W, C) with weights (O, kH, kW, C / group); the result is (N, H, W, O)."""
    rank = rank_of(inputs[0])
    first = [0, rank - 1, *range(1, rank - 1)]
    swapped = [builder.emit(R.permute_dims(value, first)) for value in inputs[:2]]
    result = builder.emit(conv(node, [*swapped, *inputs[2:]], builder))
    return R.permute_dims(result, [0, *range(2, rank), 1])


def activated(node: Node, x: relax.Expr, parameters: list[float], builder: Builder) -> relax.Expr:
    """The activation that a fused node names, with its parameters or their defaults."""
    kind = node.string("activation", "")
    plain = {"Relu": R.nn.relu, "Tanh": R.tanh, "Sigmoid": R.sigmoid}
    if kind == "":
        return x
    if kind in plain:
        return plain[kind](x)
    if kind == "LeakyRelu":
        return R.nn.leakyrelu(x, parameters[0] if parameters else 0.01)
    if kind == "HardSigmoid":
        alpha, beta = parameters if len(parameters) == 2 else (0.2, 0.5)
        inner = replace(node, attributes={"alpha": alpha, "beta": beta})
        return formula(hard_sigmoid, alpha=0.2, beta=0.5)(inner, [x], builder)
    if kind == "Clip" and len(parameters) == 2:
        inner = replace(node, attributes={"min": parameters[0], "max": parameters[1]})
        return clip_attributes(inner, [x], builder)
    raise node.error(f"activation={kind!r} with parameters {parameters} is not supported")
