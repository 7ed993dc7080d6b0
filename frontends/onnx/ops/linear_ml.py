"""LinearClassifier and LinearRegressor of ai.onnx.ml."""

from __future__ import annotations

import numpy as np
from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.ml_scores import (
    argmax_labels,
    as_matrix,
    class_labels,
    labels_above,
    name_columns,
    post_transform_name,
    post_transformed,
    two_columns,
)
from athanor.frontends.onnx.small_types import Carried
from athanor.frontends.onnx.tensors import cast, dtype_of, scalar

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def _products(
    node: Node, x: relax.Expr, columns: int, outputs: int, builder: Builder
) -> relax.Expr:
    """`x @ coefficients.T + intercepts`, (rows, outputs)."""
    weights = np.array(node.floats("coefficients"), np.float32)
    bias = np.array(node.floats("intercepts", []), np.float32)
    if weights.size != outputs * columns or bias.size not in (0, outputs):
        raise node.error(
            f"{weights.size} coefficients and {bias.size} intercepts for {columns} features and "
            f"{outputs} outputs"
        )
    dtype = dtype_of(x)
    table = constant(weights.reshape(outputs, columns).T, dtype)
    scores = builder.emit(R.matmul(x, table))
    return builder.emit(R.add(scores, constant(bias, dtype))) if bias.size else scores


def linear_regressor(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x @ coefficients.T + intercepts` in float32.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    targets = node.int("targets", 1)
    if targets < 1:
        raise node.error(f"targets={targets} is not positive")
    scores = cast(_products(node, x, columns, targets, builder), "float32", builder)
    return post_transformed(scores, post_transform_name(node), builder)


def linear_classifier(
    node: Node, inputs: Inputs, builder: ImportBuilder
) -> tuple[relax.Expr | Carried, relax.Expr]:
    """Labels (rows,) and scores (rows, classes).

    Two classes with one row of coefficients: the score s is the second class's. The first class's
    is 1 - s, as in ONNX Runtime (the onnx reference says -s), also of the probability.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    labels = class_labels(node, "classlabels_ints")
    name_columns(node, 1, labels, builder)
    transform = post_transform_name(node)
    outputs = len(node.floats("coefficients")) // columns
    if len(labels) < 2 or outputs not in (len(labels), 1) or (outputs == 1 and len(labels) != 2):
        raise node.error(f"{outputs} rows of coefficients for {len(labels)} classes")
    scores = cast(_products(node, x, columns, outputs, builder), "float32", builder)
    if outputs > 1:
        chosen = argmax_labels(scores, labels, builder)
        return chosen, post_transformed(scores, transform, builder)
    if transform not in ("NONE", "LOGISTIC"):
        raise node.error(f"post_transform={transform} of the score of one class out of two")
    chosen = labels_above(scores, 0, labels, builder)
    scores = post_transformed(scores, transform, builder)
    other = builder.emit(R.subtract(scalar(1, "float32"), scores))
    return chosen, two_columns(other, scores, builder)
