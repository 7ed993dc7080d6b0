"""Tree ensembles of ai.onnx.ml: random forests and boosted trees, on packed node arrays."""

from __future__ import annotations

import numpy as np
from tvm import relax, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.forest import Forest
from athanor.frontends.onnx.ops.ml_scores import (
    POST_TRANSFORMS,
    argmax_labels,
    as_matrix,
    class_labels,
    labels_above,
    name_columns,
    post_transform_name,
    post_transformed,
    two_columns,
)
from athanor.frontends.onnx.ops.tree_kernel import LANES, TreeShape, tree_kernel
from athanor.frontends.onnx.ops.tree_nodes import (
    legacy_forest,
    modern_forest,
    tensor_or_floats,
)
from athanor.frontends.onnx.small_types import Carried
from athanor.frontends.onnx.tensors import cast, dtype_of, np_dtype, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


def tree_ensemble(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The sum (average, minimum, maximum) of the leaves that each row ends in.

    inputs: x (rows, features). Result (rows, n_targets) in x's type.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    forest = modern_forest(node, np_dtype(dtype_of(x)), columns)
    aggregate = node.int("aggregate_function", 1)
    transform = node.int("post_transform", 0)
    if aggregate not in range(len(_AGGREGATES)) or transform not in range(len(POST_TRANSFORMS)):
        raise node.error(f"aggregate_function={aggregate}, post_transform={transform}")
    scores = _scores(node, x, forest, node.int("n_targets"), _AGGREGATES[aggregate], builder)
    result = post_transformed(scores, POST_TRANSFORMS[transform], builder)
    return cast(result, dtype_of(inputs[0]), builder)


def tree_ensemble_regressor(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """As TreeEnsemble, plus base_values; the result is float32.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    forest = legacy_forest(node, np_dtype(dtype_of(x)), columns, "target")
    aggregate = node.string("aggregate_function", "SUM")
    if aggregate not in _AGGREGATES:
        raise node.error(f"aggregate_function={aggregate!r} is none of {', '.join(_AGGREGATES)}")
    targets = node.int("n_targets")
    scores = _scores(node, x, forest, targets, aggregate, builder)
    base = tensor_or_floats(node, "base_values", [])
    if base.size not in (0, targets):
        raise node.error(f"{base.size} base_values for {targets} targets")
    if base.size:
        scores = builder.emit(R.add(scores, constant(base, dtype_of(scores))))
    result = post_transformed(scores, post_transform_name(node), builder)
    return cast(result, "float32", builder)


def tree_ensemble_classifier(
    node: Node, inputs: Inputs, builder: ImportBuilder
) -> tuple[relax.Expr | Carried, relax.Expr]:
    """Labels (rows,) and scores (rows, classes) of an ensemble that votes.

    Two classes of which the leaves score the first only: the score s is the second one's, and the
    first one's is 1 - s where all weights are positive (probabilities), else -s (margins). That is
    what exporters mean by it; LOGISTIC makes a margin of either.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html
    """
    x, columns = as_matrix(node, inputs[0], builder)
    labels = class_labels(node, "classlabels_int64s")
    count = len(labels)
    if count < 2:
        raise node.error("a classifier needs two class labels or more")
    name_columns(node, 1, labels, builder)
    forest = legacy_forest(node, np_dtype(dtype_of(x)), columns, "class")
    transform = post_transform_name(node)
    base = tensor_or_floats(node, "base_values", [])
    scored = set(forest.leaf_targets.tolist())
    one_score = count == 2 and scored == {0}
    if count == 2 and scored == {1}:
        raise node.error("of two classes, the second one alone has weights; score the first")
    if base.size not in (0, 1 if one_score else count):
        raise node.error(f"{base.size} base_values for {'one score' if one_score else count}")
    scores = _scores(node, x, forest, 1 if one_score else count, "SUM", builder)
    dtype = dtype_of(scores)
    if base.size:
        scores = builder.emit(R.add(scores, constant(base, dtype)))
    if not one_score:
        chosen = argmax_labels(scores, labels, builder)
        result = post_transformed(scores, transform, builder)
        return chosen, cast(result, "float32", builder)

    if transform not in ("NONE", "LOGISTIC"):
        raise node.error(f"post_transform={transform} of the score of one class out of two")
    is_share = transform == "NONE" and bool((forest.leaf_weights >= 0).all())
    chosen = labels_above(scores, 0.5 if is_share else 0.0, labels, builder)
    other = builder.emit(R.subtract(scalar(1 if is_share else 0, dtype), scores))
    result = post_transformed(two_columns(other, scores, builder), transform, builder)
    return chosen, cast(result, "float32", builder)


def _scores(
    node: Node, x: relax.Expr, forest: Forest, targets: int, aggregate: str, builder: Builder
) -> relax.Expr:
    """The combined weights (rows, targets)."""
    trees = len(forest.roots)
    if targets < 1 or trees < 1:
        raise node.error(f"{trees} trees for {targets} targets")
    if ((forest.leaf_targets < 0) | (forest.leaf_targets >= targets)).any():
        raise node.error(f"a leaf's target is outside [0, {targets - 1}]")
    combine = {"AVERAGE": "sum", "SUM": "sum", "MIN": "min", "MAX": "max"}[aggregate]
    if combine != "sum" and np.isnan(forest.leaf_weights).any():
        raise node.error(f"aggregate_function={aggregate} with a weight of NaN")
    if forest.negates:
        x = builder.emit(R.concat([x, builder.emit(R.negative(x))], axis=1))
    dtype, (rows, columns) = dtype_of(x), shape_of(x)
    dense, group, weights = _leaf_table(node, forest, targets, combine)
    roots, depths = _in_groups(forest)
    shape = TreeShape(
        columns=int(columns),
        nodes=len(forest.feature),
        trees=trees,
        targets=targets,
        dense_rows=len(weights) if dense else 0,
        dtype=dtype,
        combine=combine,
        depth=int(depths[0]) if len(set(depths.tolist())) == 1 else 0,
    )
    variable = tirx.Var("rows", "int64") if is_symbolic(rows) else tirx.IntImm("int64", rows)
    kernel = builder.add_func(tree_kernel(shape, variable), "tree_ensemble")
    arrays = [forest.feature, forest.threshold, forest.next, roots, depths, group, weights]
    arguments = [x, *(constant(array) for array in arrays)]
    call = relax.call_tir(kernel, arguments, relax.TensorType([rows, targets], dtype))
    scores = builder.emit(call)
    if aggregate == "AVERAGE":
        scores = builder.emit(R.divide(scores, scalar(trees, dtype)))
    if combine != "sum":  # a target that no leaf had a weight for
        scores = builder.emit(R.where(builder.emit(R.isnan(scores)), scalar(0, dtype), scores))
    return scores


def _in_groups(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    """The roots, the last group filled up with a leaf, and the depth of each group."""
    filled = -(-len(forest.roots) // LANES) * LANES - len(forest.roots)
    leaf = np.full(filled, len(forest.feature) - 1)
    roots = np.concatenate([forest.roots, leaf]).astype(np.int32)
    depths = np.pad(forest.depth, (0, filled)).reshape(-1, LANES).max(axis=1)
    return roots, depths


def _leaf_table(
    node: Node, forest: Forest, targets: int, combine: str
) -> tuple[bool, np.ndarray, np.ndarray]:
    """Whether leaves score several targets; for each node its target or row in the table; weights.

    One target: a weight for each node. Several: a table (rows, targets), with a first row for what
    has no weights. No weight is 0 in a sum, else NaN.
    """
    merge = {"sum": np.add, "min": np.fmin, "max": np.fmax}[combine]
    none, dtype = 0.0 if combine == "sum" else np.nan, forest.threshold.dtype
    places, targets_of = forest.leaf_places, forest.leaf_targets
    group = np.zeros(len(forest.feature), np.int32)
    group[places] = targets_of
    if (group[places] == targets_of).all():
        weights = np.full((len(group), 1), none, dtype)
        merge.at(weights[:, 0], places, forest.leaf_weights)
        return False, group, weights
    leaves, rows = np.unique(places, return_inverse=True)
    if (len(leaves) + 1) * targets > 64 * len(places) + 1_000_000:
        raise node.error(f"{len(places)} weights for {len(leaves)} leaves and {targets} targets")
    group[:] = 0
    group[leaves] = np.arange(1, len(leaves) + 1)
    table = np.full((len(leaves) + 1, targets), none, dtype)
    merge.at(table, (rows + 1, targets_of), forest.leaf_weights)
    return True, group, table
