"""SVMClassifier and SVMRegressor of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.ml_scores import (
    argmax_labels,
    as_matrix,
    class_labels,
    name_columns,
    post_transform_name,
    two_columns,
)
from athanor.frontends.onnx.ops.svm_kernel import coupling_kernel
from athanor.frontends.onnx.small_types import Carried
from athanor.frontends.onnx.tensors import cast, compute, dtype_of, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def svm_regressor(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`kernel(x, vectors) @ coefficients + rho` in float32, (rows, 1); its sign for one_class=1.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_SVMRegressor.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    if post_transform_name(node) != "NONE":
        raise node.error(f"post_transform={node.string('post_transform')} is not supported")
    count = node.int("n_supports", 0)
    weights = np.array(node.floats("coefficients"), np.float32)
    rho = node.floats("rho")
    if weights.size != (count or columns) or len(rho) != 1:
        raise node.error(f"{weights.size} coefficients, {len(rho)} rho for {count} vectors")
    values = _kernel_values(node, x, columns, count, builder) if count else x
    scores = builder.emit(R.matmul(values, constant(weights.reshape(-1, 1), dtype_of(x))))
    scores = builder.emit(R.add(scores, scalar(rho[0], dtype_of(x))))
    scores = cast(scores, "float32", builder)
    if not node.int("one_class", 0):
        return scores
    positive = builder.emit(R.greater(scores, scalar(0, "float32")))
    return R.where(positive, scalar(1, "float32"), scalar(-1, "float32"))


def svm_classifier(
    node: Node, inputs: Inputs, builder: ImportBuilder
) -> tuple[relax.Expr | Carried, relax.Expr]:
    """Labels (rows,) by votes of the pairs of classes, and scores.

    With prob_a and prob_b the scores are probabilities (rows, classes); else those of the pairs,
    or for two classes -s and s.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    labels = class_labels(node, "classlabels_ints")
    sizes = node.ints("vectors_per_class", [])
    count, vectors = len(labels), sum(sizes)
    if post_transform_name(node) != "NONE":
        raise node.error(f"post_transform={node.string('post_transform')} is not supported")
    if count < 2 or len(sizes) != count or min(sizes) < 1:
        raise node.error(f"vectors_per_class={sizes} for {count} classes; linear mode is not known")
    weights = np.array(node.floats("coefficients"), np.float32)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    rho = np.array(node.floats("rho"), np.float32)
    if weights.size != (count - 1) * vectors or rho.size != len(pairs):
        raise node.error(f"{weights.size} coefficients, {rho.size} rho for {count} classes")
    if (weights >= 0).all():
        raise node.error("all coefficients are positive")
    weights = weights.reshape(count - 1, vectors)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = np.zeros((vectors, len(pairs)), np.float32)
    for column, (i, j) in enumerate(pairs):
        own, other = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        table[own, column] = weights[j - 1, own]
        table[other, column] = weights[i, other]

    dtype = dtype_of(x)
    values = _kernel_values(node, x, columns, vectors, builder)
    scores = builder.emit(R.matmul(values, constant(table, dtype)))
    scores = builder.emit(R.add(scores, constant(rho, dtype)))
    # a pair votes for its first class when its score is positive
    won = cast(builder.emit(R.greater(scores, scalar(0, dtype))), "float32", builder)
    first, second = (np.zeros((len(pairs), count), np.float32) for _ in range(2))
    for row, (i, j) in enumerate(pairs):
        first[row, i], second[row, j] = 1, 1
    votes = builder.emit(R.matmul(won, constant(first - second)))
    votes = builder.emit(R.add(votes, constant(second.sum(axis=0))))
    chosen = argmax_labels(votes, labels, builder)
    if count == 2 or "prob_a" in node.attributes:
        name_columns(node, 1, labels, builder)
    if node.has("prob_a") and node.floats("prob_a"):
        scores = _probabilities(node, scores, pairs, count, builder)
    elif count == 2:
        scores = two_columns(builder.emit(R.negative(scores)), scores, builder)
    return chosen, cast(scores, "float32", builder)


def _kernel_values(
    node: Node, x: relax.Expr, columns: int, count: int, builder: Builder
) -> relax.Expr:
    """kernel(row, support vector), (rows, vectors)."""
    dtype = dtype_of(x)
    vectors = np.array(node.floats("support_vectors"), np.float32)
    if vectors.size != count * columns:
        raise node.error(f"{vectors.size} support_vectors for {count} of {columns} features")
    vectors = vectors.reshape(count, columns)
    kind = node.string("kernel_type", "LINEAR")
    params = node.floats("kernel_params", [0.0, 0.0, 0.0])
    if kind not in ("LINEAR", "POLY", "RBF", "SIGMOID") or len(params) < 3:
        raise node.error(f"kernel_type={kind!r} with kernel_params={params}")
    gamma, offset, degree = (scalar(value, dtype) for value in params[:3])
    if kind == "RBF":
        squares = compute(builder, "distances", _distances, x, constant(vectors, dtype))
        return builder.emit(R.exp(builder.emit(R.multiply(squares, scalar(-params[0], dtype)))))
    products = builder.emit(R.matmul(x, constant(vectors.T, dtype)))
    if kind == "LINEAR":
        return products
    scaled = builder.emit(R.add(builder.emit(R.multiply(products, gamma)), offset))
    return builder.emit(R.tanh(scaled) if kind == "SIGMOID" else R.power(scaled, degree))


def _distances(data: te.Tensor, vectors: te.Tensor) -> te.Tensor:
    """Squared distances; not by norms and products, which cancel for close points."""
    feature = te.reduce_axis((0, data.shape[1]), name="feature")

    def element(row: Any, vector: Any) -> Any:
        difference = data(row, feature) - vectors(vector, feature)
        return te.sum(difference * difference, axis=feature)

    return te.compute((data.shape[0], vectors.shape[0]), element, name="distances")


def _probabilities(
    node: Node, scores: relax.Expr, pairs: list[tuple[int, int]], count: int, builder: Builder
) -> relax.Expr:
    """Class probabilities (rows, classes) from those of the pairs."""
    slopes = np.array(node.floats("prob_a"), np.float32)
    shifts = np.array(node.floats("prob_b"), np.float32)
    if slopes.size != len(pairs) or shifts.size != len(pairs):
        raise node.error(f"{slopes.size} prob_a and {shifts.size} prob_b for {len(pairs)} pairs")
    dtype = dtype_of(scores)
    raised = builder.emit(R.multiply(scores, constant(-slopes, dtype)))
    chance = builder.emit(R.sigmoid(builder.emit(R.add(raised, constant(-shifts, dtype)))))
    rows = shape_of(scores)[0]
    variable = tirx.Var("rows", "int64") if is_symbolic(rows) else tirx.IntImm("int64", rows)
    kernel = builder.add_func(coupling_kernel(variable, count), "pairwise_coupling")
    types = [
        relax.TensorType([rows, *shape], "float64")
        for shape in ([count], [count, count], [count, count], [count], [2])
    ]
    wide = cast(chance, "float64", builder)
    call = builder.emit(relax.call_tir(kernel, [wide], types))
    return builder.emit(relax.TupleGetItem(call, 0))
