"""Matrix products over packed weights and over run-time operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from athanor.schedules.blocks import KIND, constant
from athanor.targets.target import TargetSpec

ROWS = "athanor.rows"
"""Block annotation: rows of the register tile that M was rounded up for."""


def matmul_panel(target: TargetSpec) -> int:
    """Columns of one panel of a packed weight: the width of the register tile.

    Two vectors, so that two multiply-add pipes share each broadcast of the left operand; four
    where registers are many and short (32 of 128 bits), to load less for each multiply-add.
    """
    lanes = target.lanes(32)
    return lanes * (4 if lanes <= 4 and target.vector_registers >= 32 else 2)


def tile_rows(rows: int | None, panel: int) -> int:
    """Rows of the register tile for `rows` rows in all (None: symbolic) and that panel width.

    At most what the accumulators leave of the registers: 6 rows of 2 vectors (16 registers), 14
    of 2 (32 registers), 6 of 4. Among those the largest that rounds `rows` up by least.
    """
    most = 14 if panel >= 32 else 6
    if rows is None:
        return 8 if panel >= 32 else most
    if rows <= most:
        return max(1, rows)
    # Half-filled tiles do not hide the latency of the multiply-add: four rows at least.
    return min(range(most, 3, -1), key=lambda tile: (math.ceil(rows / tile) * tile, -tile))


def pack_matmul_weight(
    weight: np.ndarray, transposed: bool, target: TargetSpec
) -> np.ndarray:
    """Weight (K, N), or (N, K) if transposed -> panels (ceil(N / nt), K, nt), zero padded.

    nt is `matmul_panel(target)`; panel p holds the columns from p * nt on.
    """
    columns = weight if transposed else weight.T
    n, k = columns.shape
    panel = matmul_panel(target)
    panels = -(-n // panel)
    padded = np.zeros((panels * panel, k), weight.dtype)
    padded[:n] = columns
    return np.ascontiguousarray(padded.reshape(panels, panel, k).transpose(0, 2, 1))


def matmul_packed(a: te.Tensor, b_packed: te.Tensor, n: int) -> te.Tensor:
    """`a @ b` for a (..., M, K) or (K,) and b (K, n) packed by `pack_matmul_weight`.

    Result: (..., M, n) or (n,), dtype of `a`, accumulated in it. The product itself is a block of
    KIND "matmul" over (rows, columns) with all leading axes in rows, both rounded up to whole
    register tiles: rows past the end repeat the last one, columns past the end meet the zeros of
    the packing, so the inner loops have no conditions. A second block stores what is wanted.
    """
    lead = list(a.shape[:-1])
    panels, depth, panel = (constant(dim) for dim in b_packed.shape)
    assert panels is not None and depth is not None and panel is not None
    total: tirx.Expr | int = 1
    for dim in lead:
        total = total * dim
    known = constant(total)
    rows = tile_rows(known, panel)
    if known is not None:
        padded: tirx.Expr | int = -(-known // rows) * rows
    else:
        padded = tirx.floordiv(total + (rows - 1), rows) * rows
    exact = known is not None and padded == known
    k = te.reduce_axis((0, depth), name="k")

    def element(i: tirx.Expr, j: tirx.Expr) -> tirx.Expr:
        row = i if exact else tirx.min(i, total - 1)
        left = a(*unflatten(row, lead), k)
        return te.sum(left * b_packed[j // panel, k, j % panel], axis=k)

    product = te.compute(
        (padded, panels * panel), element, name="matmul", attrs={KIND: "matmul", ROWS: rows}
    )
    return te.compute(
        (*lead, n), lambda *i: product[flatten(i[:-1], lead), i[-1]], name="matmul_out"
    )


def flatten(indices: Sequence[tirx.Expr], dims: Sequence[tirx.Expr]) -> tirx.Expr | int:
    """Row-major position of `indices` in `dims`; 0 for none."""
    position: tirx.Expr | int = 0
    for index, dim in zip(indices, dims, strict=True):
        position = position * dim + index
    return position


def unflatten(position: tirx.Expr, dims: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """The indices in `dims` of a row-major position."""
    indices: list[tirx.Expr] = []
    for axis in range(len(dims) - 1, -1, -1):
        if axis == 0:
            indices.insert(0, position)
        else:
            indices.insert(0, tirx.floormod(position, dims[axis]))
            position = tirx.floordiv(position, dims[axis])
    return indices
