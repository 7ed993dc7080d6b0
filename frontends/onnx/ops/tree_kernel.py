"""The walk of a batch through a forest as TensorIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.frontends.onnx.ops.loop_kernel import int64, loop

LANES = 8
"""Walks side by side: each step waits for two loads and a comparison, and eight of them hide each
other's waiting. More places would not fit the general registers of x86-64."""

TILE = 32
"""Rows that go through one tree before the next: they share its nodes in the first-level cache."""


@dataclass(frozen=True)
class TreeShape:
    """What a kernel is made for.

    Leaves give one (target, weight) each, or, if `dense_rows` is not 0, a row of that many in a
    table of weights for all targets. `combine` is sum, min or max; for the last two a weight of NaN
    is none. `depth` is that of every tree, or 0 where they differ.
    """

    columns: int
    nodes: int
    trees: int
    targets: int
    dense_rows: int
    dtype: str
    combine: str
    depth: int

    @property
    def groups(self) -> int:
        """Groups of LANES trees; the last one is filled up."""
        return -(-self.trees // LANES)


def tree_kernel(shape: TreeShape, rows: Any) -> tirx.PrimFunc:
    """X (rows, columns) to Y (rows, targets), the combined weights of the leaves.

    F, B, N: feature, threshold and next of a Forest; R (groups * LANES,) its roots and D (groups,)
    the depth of each group of trees. G (nodes,): a leaf's target, or its row in W; W: the weight of
    each node, or the table. LANES rows walk one tree together; of the rows that are left over, each
    walks LANES trees together. Either way a row's weights are combined in the order of the trees.
    """
    dense = shape.dense_rows > 0
    sizes = {
        "X": ((rows, shape.columns), shape.dtype),
        "F": ((shape.nodes,), "int32"),
        "B": ((shape.nodes,), shape.dtype),
        "N": ((2 * shape.nodes,), "int32"),
        "R": ((shape.groups * LANES,), "int32"),
        "D": ((shape.groups,), "int32"),
        "G": ((shape.nodes,), "int32"),
        "W": ((shape.dense_rows, shape.targets) if dense else (shape.nodes, 1), shape.dtype),
        "Y": ((rows, shape.targets), shape.dtype),
    }
    lanes, tile = int64(LANES), int64(TILE)
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("tree_ensemble")
            buffers = {name: I.arg(name, I.buffer(*size)) for name, size in sizes.items()}
            I.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            tiles = tirx.floordiv(rows + tile - 1, tile)
            with I.parallel(int64(0), tiles) as number, I.sblock("tile"):
                first = I.axis.spatial(tiles, number) * tile
                # whole buffers: what a row reads depends on where it is
                regions = {
                    name: buffer[tuple(slice(0, dim) for dim in sizes[name][0])]
                    for name, buffer in buffers.items()
                }
                I.reads(*regions.values())
                I.writes(regions["Y"])
                place = I.sblock_alloc_buffer((LANES,), "int64", scope="local")
                walk = _Walk(shape, place, **buffers)
                count = tirx.min(rows - first, tile)
                whole = tirx.floordiv(count, lanes) * lanes
                with loop(count) as row, loop(shape.targets) as target:
                    walk.start(first + row, target)
                with (
                    loop(shape.trees) as tree,
                    loop(tirx.floordiv(count, lanes)) as part,
                ):
                    base = first + part * lanes
                    walk.together(lambda i: base + i, lambda i: tree, tirx.floordiv(tree, lanes))
                with loop(count - whole) as row, loop(shape.groups) as group:
                    base = group * lanes
                    walk.together(lambda i: first + whole + row, lambda i: base + i, group)
    return frame.get()


@dataclass(frozen=True)
class _Walk:
    """Emits the statements of LANES walks."""

    shape: TreeShape
    place: Any
    X: Any
    F: Any
    B: Any
    N: Any
    R: Any
    D: Any
    G: Any
    W: Any
    Y: Any

    def start(self, row: Any, target: Any) -> None:
        """The total before the first tree."""
        empty = 0.0 if self.shape.combine == "sum" else float("nan")
        I.buffer_store(self.Y, tirx.const(empty, self.shape.dtype), [row, target])

    def together(self, row_of: Any, tree_of: Any, group: Any) -> None:
        """From the roots to the leaves, and their weights to the totals."""
        with I.unroll(int64(0), int64(LANES)) as i:
            I.buffer_store(self.place, self.R[tree_of(i)].astype("int64"), [i])
        depth = int64(self.shape.depth) if self.shape.depth else self.D[group].astype("int64")
        with I.serial(int64(0), depth), I.unroll(int64(0), int64(LANES)) as i:
            place = self.place[i]
            value = self.X[row_of(i), self.F[place].astype("int64")]
            side = (value <= self.B[place]).astype("int64")
            I.buffer_store(self.place, self.N[place * 2 + side].astype("int64"), [i])
        with I.unroll(int64(0), int64(LANES)) as i:
            place, row = self.place[i], row_of(i)
            if self.shape.dense_rows:
                with loop(self.shape.targets) as target:
                    self._add(row, target, self.W[self.G[place].astype("int64"), target])
            else:
                single = self.shape.targets == 1
                target = int64(0) if single else self.G[place].astype("int64")
                self._add(row, target, self.W[place, 0])

    def _add(self, row: Any, target: Any, weight: Any) -> None:
        total = self.Y[row, target]
        if self.shape.combine == "sum":
            merged = total + weight
        else:
            wins = weight < total if self.shape.combine == "min" else weight > total
            merged = tirx.Select(tirx.any(wins, tirx.isnan(total)), weight, total)
        I.buffer_store(self.Y, merged, [row, target])
