"""Reading the trees of TreeEnsemble, TreeEnsembleClassifier and TreeEnsembleRegressor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.forest import MODES, Forest, ForestBuilder
from athanor.frontends.onnx.tensor_data import to_array


def legacy_forest(node: Node, dtype: np.dtype, columns: int, weights: str) -> Forest:
    """The trees of TreeEnsembleRegressor (`weights` "target") and Classifier ("class")."""
    trees, numbers = node.ints("nodes_treeids"), node.ints("nodes_nodeids")
    count = len(trees)
    modes, features = node.strings("nodes_modes"), node.ints("nodes_featureids")
    values = tensor_or_floats(node, "nodes_values")
    true, false = node.ints("nodes_truenodeids"), node.ints("nodes_falsenodeids")
    missing = node.ints("nodes_missing_value_tracks_true", [0] * count)
    lists = {"nodes_nodeids": numbers, "nodes_modes": modes, "nodes_featureids": features}
    lists |= {"nodes_values": values, "nodes_truenodeids": true, "nodes_falsenodeids": false}
    lists |= {"nodes_missing_value_tracks_true": missing}
    for name, entries in lists.items():
        if len(entries) != count:
            raise node.error(f"{name} has {len(entries)} entries for {count} nodes")
    builder = ForestBuilder(node, dtype, columns)
    builder.add(count)
    places = {key: place for place, key in enumerate(zip(trees, numbers, strict=True))}
    if len(places) != count:
        raise node.error("two nodes of one tree have the same number")

    def place_of(tree: int, number: int, what: str) -> int:
        if (tree, number) not in places:
            raise node.error(f"{what} names node {number} of tree {tree}: no such node")
        return places[tree, number]

    inner: set[int] = set()
    for place, mode in enumerate(modes):
        if mode == "LEAF":
            continue
        successors = (
            place_of(trees[place], true[place], "nodes_truenodeids"),
            place_of(trees[place], false[place], "nodes_falsenodeids"),
        )
        inner.update(successors)
        value, nan_true = [float(values[place])], bool(missing[place])
        builder.branch(place, mode, features[place], value, successors, nan_true)
    roots: dict[int, int] = {}
    for place, tree in enumerate(trees):
        if place not in inner:
            if tree in roots:
                raise node.error(f"tree {tree} has two roots")
            roots[tree] = place
    if set(roots) != set(trees):
        raise node.error("a tree's nodes form a cycle")

    leaf_weights = tensor_or_floats(node, f"{weights}_weights")
    leaf_trees, leaf_nodes, targets = (
        node.ints(f"{weights}_{name}") for name in ("treeids", "nodeids", "ids")
    )
    if any(len(column) != len(leaf_weights) for column in (leaf_trees, leaf_nodes, targets)):
        raise node.error(f"{weights}_ids and {weights}_weights differ in length")
    what = f"{weights}_nodeids"
    leaves = [
        place_of(tree, number, what) for tree, number in zip(leaf_trees, leaf_nodes, strict=True)
    ]
    return builder.build(list(roots.values()), leaves, targets, leaf_weights)


def tensor_or_floats(node: Node, name: str, default: Sequence[float] | None = None) -> np.ndarray:
    """An attribute that is a list of floats, or in `<name>_as_tensor` a tensor of doubles."""
    if node.has(f"{name}_as_tensor"):
        return tensor_attribute(node, f"{name}_as_tensor")
    return np.array(node.floats(name, default), np.float32)


def tensor_attribute(node: Node, name: str) -> np.ndarray:
    """The elements of a tensor in an attribute, in one dimension."""
    value = node.attributes.get(name)
    if not isinstance(value, onnx.TensorProto):
        raise node.error(f"attribute {name!r} is missing, or no tensor")
    return to_array(value, None).reshape(-1)


def modern_forest(node: Node, dtype: np.dtype, columns: int) -> Forest:
    """The trees of TreeEnsemble."""
    features = node.ints("nodes_featureids")
    splits = tensor_attribute(node, "nodes_splits").astype(np.float64).tolist()
    modes = tensor_attribute(node, "nodes_modes").tolist()
    count = len(features)
    missing = node.ints("nodes_missing_value_tracks_true", [0] * count)
    weights, targets = tensor_attribute(node, "leaf_weights"), node.ints("leaf_targetids")
    sides = [
        (node.ints(f"nodes_{side}nodeids"), node.ints(f"nodes_{side}leafs"))
        for side in ("true", "false")
    ]
    lists = [splits, modes, missing, *(entries for side in sides for entries in side)]
    if any(len(entries) != count for entries in lists) or len(targets) != len(weights):
        raise node.error("the nodes_ attributes, or the leaf_ attributes, differ in length")
    members = _members(node, modes)
    builder = ForestBuilder(node, dtype, columns)
    builder.add(count + len(weights))

    def successor(place: int, side: int) -> int:
        numbers, leaves = sides[side]
        number, is_leaf = numbers[place], bool(leaves[place])
        if not 0 <= number < (len(weights) if is_leaf else count):
            raise node.error(f"node {place}: no such successor {number}")
        return count + number if is_leaf else number

    for place, code in enumerate(modes):
        if code not in range(len(MODES)):
            raise node.error(f"node mode {code} is unknown")
        values = members[place] if place in members else [splits[place]]
        successors = (successor(place, 0), successor(place, 1))
        builder.branch(
            place, MODES[code], features[place], values, successors, bool(missing[place])
        )
    roots = node.ints("tree_roots")
    if any(not 0 <= root < count for root in roots):
        raise node.error(f"tree_roots={roots} for {count} nodes")
    return builder.build(roots, list(range(count, count + len(weights))), targets, weights)


def _members(node: Node, modes: Sequence[int]) -> dict[int, list[float]]:
    """The sets of BRANCH_MEMBER nodes: in the order of the nodes, each ended by a NaN."""
    places = [place for place, mode in enumerate(modes) if mode == MODES.index("BRANCH_MEMBER")]
    if not places:
        return {}
    values = []
    if node.has("membership_values"):
        values = tensor_attribute(node, "membership_values").astype(np.float64).tolist()
    sets: list[list[float]] = [[]]
    for value in values:
        if np.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    if sets[-1] == []:
        sets.pop()
    if len(sets) != len(places):
        raise node.error(f"membership_values has {len(sets)} sets for {len(places)} nodes")
    return dict(zip(places, sets, strict=True))
