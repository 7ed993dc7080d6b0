"""Boosted trees as gradient boosting libraries export them, with random splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

KIND = "tree ensembles"
PEERS = ("onnxruntime",)
"""Who can run them: OpenVINO has no operators of ai.onnx.ml."""

TREES, FEATURES = 500, 32
SHAPES = {"1,000 rows": (1000, 6), "1 row": (1, 6), "depth 3, 1,000 rows": (1000, 3)}
"""Rows and depth."""


def forest_models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Name and model of each."""
    for name, (rows, depth) in SHAPES.items():
        yield f"{TREES} trees: {name}", forest(np.random.default_rng(0), rows, depth)


def forest(rng: np.random.Generator, rows: int, depth: int) -> onnx.ModelProto:
    """A TreeEnsembleRegressor of complete trees; half the branches take missing values as true."""
    branches, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    number = np.arange(nodes)
    inner = number < branches
    leaves = number[~inner]

    def everywhere(values: np.ndarray) -> list:
        return np.tile(values, TREES).tolist()

    def drawn(values: np.ndarray) -> list:
        return np.where(np.tile(inner, TREES), values, 0).tolist()

    count = TREES * nodes
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=np.repeat(np.arange(TREES), nodes).tolist(),
        nodes_nodeids=everywhere(number),
        nodes_modes=["BRANCH_LT" if is_inner else "LEAF" for is_inner in everywhere(inner)],
        nodes_featureids=drawn(rng.integers(FEATURES, size=count)),
        nodes_values=drawn(rng.normal(size=count).astype(np.float32)),
        nodes_missing_value_tracks_true=drawn(rng.integers(2, size=count)),
        nodes_truenodeids=everywhere(np.where(inner, 2 * number + 1, 0)),
        nodes_falsenodeids=everywhere(np.where(inner, 2 * number + 2, 0)),
        target_treeids=np.repeat(np.arange(TREES), len(leaves)).tolist(),
        target_nodeids=everywhere(leaves),
        target_ids=[0] * (TREES * len(leaves)),
        target_weights=rng.normal(size=TREES * len(leaves)).astype(np.float32).tolist(),
    )
    graph = helper.make_graph(
        [node],
        "forest",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (rows, FEATURES))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (rows, 1))],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
