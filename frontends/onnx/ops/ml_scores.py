"""What classifiers and regressors of ai.onnx.ml do with raw scores: post transforms and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.small_types import STRING, Carried
from athanor.frontends.onnx.tensors import (
    cast,
    compute,
    dtype_of,
    rank_of,
    reshape,
    scalar,
    shape_of,
)
from athanor.frontends.onnx.text import string_constant

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def post_transform_name(node: Node) -> str:
    """The attribute post_transform, checked."""
    name = node.string("post_transform", "NONE")
    if name not in POST_TRANSFORMS:
        raise node.error(f"post_transform={name!r} is none of {', '.join(POST_TRANSFORMS)}")
    return name


def post_transformed(scores: relax.Expr, name: str, builder: Builder) -> relax.Expr:
    """Scores (rows, classes) after a post transform."""
    if name == "SOFTMAX":
        return builder.emit(R.nn.softmax(scores, axis=-1))
    if name == "LOGISTIC":
        return builder.emit(R.sigmoid(scores))
    if name == "SOFTMAX_ZERO":
        return _softmax_zero(scores, builder)
    if name == "PROBIT":
        return compute(builder, "probit", _probit, scores)
    return scores


def _softmax_zero(scores: relax.Expr, builder: Builder) -> relax.Expr:
    """As softmax, but scores of 0 (up to 1e-7) stay 0."""
    dtype = dtype_of(scores)

    def emit(operator: Any, *values: Any) -> relax.Expr:
        operands = [scalar(v, dtype) if isinstance(v, float) else v for v in values]
        return builder.emit(operator(*operands))

    largest = builder.emit(R.max(scores, axis=-1, keepdims=True))
    usual = emit(R.exp, emit(R.subtract, scores, largest))
    small = emit(R.multiply, scores, emit(R.exp, emit(R.negative, largest)))
    powers = emit(R.where, emit(R.greater, emit(R.abs, scores), 1e-7), usual, small)
    total = builder.emit(R.sum(powers, axis=-1, keepdims=True))
    shares = emit(R.divide, powers, total)
    return emit(R.where, emit(R.equal, total, 0.0), 0.5, shares)


def _probit(scores: te.Tensor) -> te.Tensor:
    """`sqrt(2) erf_inv(2 p - 1)`, with the inverse that ONNX Runtime uses (Winitzki's)."""
    dtype = scores.dtype

    def number(value: float) -> Any:
        return tirx.const(value, dtype)

    def element(*i: Any) -> Any:
        x = number(2) * scores(*i) - number(1)
        log = tirx.log((number(1) - x) * (number(1) + x))
        v = number(2 / (math.pi * 0.147)) + number(0.5) * log
        root = tirx.sqrt(tirx.sqrt(v * v - number(1 / 0.147) * log) - v)
        signed = tirx.Select(x < number(0), -root, root)
        return number(1.41421356) * signed

    return te.compute(scores.shape, element, name="probit")


def class_labels(node: Node, integers: str) -> list[Any]:
    """The class labels, strings or integers; `integers` is the attribute that has the latter."""
    for name, read in (("classlabels_strings", node.strings), (integers, node.ints)):
        if node.has(name) and (labels := read(name)):
            return list(labels)
    raise node.error("no class labels")


def labels_at(
    places: relax.Expr, labels: Sequence[Any], builder: ImportBuilder
) -> relax.Expr | Carried:
    """The labels at int64 places, which are inside."""
    if isinstance(labels[0], str):
        table = string_constant(np.array(labels, object), "a class label", builder)
        return Carried(builder.emit(R.take(table, places, axis=0)), STRING)
    if list(labels) == list(range(len(labels))):
        return places
    return builder.emit(R.take(constant(np.array(labels, np.int64)), places, axis=0))


def name_columns(node: Node, output: int, labels: Sequence[Any], builder: ImportBuilder) -> None:
    """Keep what the columns of an output stand for, for the artifact's metadata."""
    if output < len(node.outputs):
        builder.columns[node.outputs[output]] = tuple(labels)


def argmax_labels(
    scores: relax.Expr, labels: Sequence[Any], builder: ImportBuilder
) -> relax.Expr | Carried:
    """The label of the largest score in each row; of the first one, of equals."""
    best = builder.emit(R.argmax(scores, axis=-1))
    return labels_at(cast(best, "int64", builder), labels, builder)


def labels_above(
    scores: relax.Expr, limit: float, labels: Sequence[Any], builder: ImportBuilder
) -> relax.Expr | Carried:
    """Of two labels, the second one where the score (rows, 1) is above the limit."""
    second = builder.emit(R.greater(scores, scalar(limit, dtype_of(scores))))
    places = reshape(cast(second, "int64", builder), [shape_of(scores)[0]], builder)
    return labels_at(places, labels, builder)


def two_columns(first: relax.Expr, second: relax.Expr, builder: Builder) -> relax.Expr:
    """Scores (rows, 1) of two classes side by side."""
    return builder.emit(R.concat([first, second], axis=1))


def as_matrix(node: Node, x: relax.Expr, builder: Builder) -> tuple[relax.Expr, int]:
    """Input rows as float32 (or float64) and the number of columns, which has to be fixed."""
    dims = shape_of(x)
    if rank_of(x) == 1:
        dims = [1, *dims]
        x = builder.emit(R.reshape(x, relax.ShapeExpr(dims)))
    if len(dims) != 2 or not isinstance(dims[1], int) or dims[1] < 1:
        raise node.error(f"input {dims} has to be (rows, fixed number of features)")
    return cast(x, "float64" if dtype_of(x) == "float64" else "float32", builder), dims[1]


def zip_map(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """The scores as they are: (rows, classes), in the order of the class labels.

    ONNX makes a map from labels to scores of each row. An artifact has the array, and the labels of
    its columns in the metadata.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html
    """
    (scores,) = inputs
    labels = class_labels(node, "classlabels_int64s")
    dims = shape_of(scores)
    if not dims or dims[-1] != len(labels):
        raise node.error(f"{len(labels)} class labels for scores {dims}")
    if len(dims) == 1:
        scores = reshape(scores, [1, *dims], builder)
    name_columns(node, 0, labels, builder)
    return scores
