"""Matrix products over packed weights and over run-time operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from athanor.schedules.blocks import KIND, constant
from athanor.schedules.compute import bf16, int16
from athanor.targets.target import TargetSpec

DOT_CYCLES = 60
"""To add up the lanes of a dot product and store one number."""
STREAM_ROWS = 0.8
"""Rows that could be multiplied in the time that streaming the panel past a tile adds: measured
for 6 rows of two 256-bit vectors; where tiles are larger, the stream hides behind them."""
ROWS = "athanor.rows"
"""Block annotation: rows of the register tile that M was rounded up for."""


NARROW_COST = 1.07
"""Time of a column in a panel of half the width: each broadcast serves half the multiply-adds."""
FEW_ROWS = 16
"""Rows up to which panels of a right operand that every run fills are not worth it."""
ONE_VECTOR_ROWS = 8
"""Rows of a tile of one vector: two pipes times four cycles of latency. Twice that where a panel is
half a vector and registers allow."""
SHALLOW = 64
"""Steps of a sum up to which panels are one vector, of 512 bits: those were measured."""


def matmul_panel(target: TargetSpec, columns: int | None = None, depth: int | None = None) -> int:
    """Columns of one panel of a packed weight: the width of the register tile.

    Two vectors, so that two multiply-add pipes share each broadcast of the left operand; four
    where registers are many and short (32 of 128 bits), to load less for each multiply-add. One
    vector where that leaves much less of the last panel empty, and where so few steps are summed up
    (depth) that storing the tile counts: fewer rows of the result at once (1000 x 3 x 1000: 90 us
    rather than 120; 300 x 64 x 400: 132 rather than 139).
    """
    lanes = target.lanes(32)
    if depth is not None and (part := part_of_vector(target, columns)):
        return part
    if lanes >= 16 and depth is not None and depth <= SHALLOW:
        return lanes
    wide = lanes * (4 if lanes <= 4 and target.vector_registers >= 32 else 2)
    if columns is None or -(-columns // lanes) * lanes * NARROW_COST > -(-columns // wide) * wide:
        return wide
    return lanes


def part_of_vector(target: TargetSpec, columns: int | None) -> int | None:
    """Columns of a panel of half a vector of 512 bits where that holds all columns."""
    half = target.lanes(32) // 2
    return half if half >= 8 and columns is not None and columns <= half else None


def run_time_panel(target: TargetSpec, columns: int | None) -> int:
    """Columns of a panel that every run fills from the right operand.

    Four vectors where the registers allow it and no more columns are padded than by panels of 16:
    fewer loads for each multiply-add (12 times 50x64 by 64x50: 45 us rather than 55).
    """
    if part := part_of_vector(target, columns):
        return part
    narrow, wide = 16, 4 * target.lanes(32)
    if columns is None or target.vector_registers < 32 or wide <= narrow:
        return narrow
    return wide if -(-columns // wide) * wide == -(-columns // narrow) * narrow else narrow


def worth_dots(depth: int, columns: int, target: TargetSpec) -> bool:
    """Whether so few columns are better computed one by one, with lanes along `depth`."""
    lanes = target.lanes(32)
    return columns * (depth / lanes + DOT_CYCLES) < -(-columns // lanes) * depth


def tile_rows(
    rows: int | None, panel: int, depth: int | None = None, target: TargetSpec | None = None
) -> int:
    """Rows of the register tile for `rows` rows in all (None: symbolic) and that panel width.

    depth: elements from one row to the next, where the tile reads the rows where they lie.
    target: if known, tiles of panels of one vector may have more rows, or more hide the latency.

    At most what the accumulators leave of the registers: 6 rows of 2 vectors (16 registers), 14
    of 2 (32 registers), 6 of 4 (from 64 columns on). Among those the one that takes least time for
    rows, empty ones too, and for the panel that every tile streams once from the L2 cache.
    """
    most = 14 if 32 <= panel < 64 else 6
    if target is not None and rows is not None and panel <= target.lanes(32):
        # A tile of all rows reads the panel once; 256 bits are multiplied twice a cycle.
        if rows <= ONE_VECTOR_ROWS or panel <= 8:
            most = ONE_VECTOR_ROWS
        if panel < target.lanes(32) and target.vector_registers >= 32:
            most = 2 * ONE_VECTOR_ROWS
    if depth is not None:
        # Rows a multiple of 4 KiB apart meet in one set of the L1 cache, which has 8 lines or more.
        most = min(most, 8 * (4096 // math.gcd(4 * depth, 4096)))
    if rows is None:
        return min(8, most) if panel >= 32 else most
    if rows <= most:
        return max(1, rows)
    # Half-filled tiles do not hide the latency of the multiply-add: four rows at least.
    stream = STREAM_ROWS if panel < 32 else STREAM_ROWS / 4
    return min(range(most, 3, -1), key=lambda tile: math.ceil(rows / tile) * (tile + stream))


def pack_matmul_weight(
    weight: np.ndarray, transposed: bool, target: TargetSpec, panel: int | None = None
) -> np.ndarray:
    """Weight (K, N), or (N, K) if transposed -> panels (ceil(N / nt), K, nt), zero padded.

    nt is `panel`, by itself `matmul_panel(target, N)`; panel p holds the columns from p * nt on.
    """
    return np.ascontiguousarray(weight_panels(weight, transposed, target, panel))


def weight_panels(
    weight: np.ndarray, transposed: bool, target: TargetSpec, panel: int | None = None
) -> np.ndarray:
    """As `pack_matmul_weight`, but a view of the weight where panels are full."""
    n, k = weight.shape if transposed else weight.shape[::-1]
    panel = panel or matmul_panel(target, n)
    panels = -(-n // panel)
    if n % panel:
        missing = (0, panels * panel - n)
        weight = np.pad(weight, (missing, (0, 0)) if transposed else ((0, 0), missing))
    if transposed:
        return weight.reshape(panels, panel, k).transpose(0, 2, 1)
    return weight.reshape(k, panels, panel).transpose(1, 0, 2)


def matmul_packed(a: te.Tensor, b_packed: te.Tensor, n: int, rows: int | None = None) -> te.Tensor:
    """`a @ b` for a (..., M, K) or (K,) and b (K, n) packed by `pack_matmul_weight`.

    rows: of the register tile, by itself `tile_rows`.

    Result: (..., M, n) or (n,), dtype of `a`, accumulated in it. A bfloat16 `a` has an even K and
    meets words of `bf16.pack_pairs`; its result is float32, accumulated in it. So does an int16 one
    with `int16.pack_pairs`; its result is int32, which wraps. The product itself is a block of KIND
    "matmul" over (batch..., row, column), rows and columns rounded up to whole register tiles: rows
    past the end repeat the last one, columns past the end meet the zeros of the packing, so the
    inner loops have no conditions. A second block stores what is wanted.

    Leading axes are rows too where their product is known or is one symbol; else they are a
    batch, for the scheduler cannot prove much about tiles of a product of symbols.
    """
    lead = list(a.shape[:-1])
    panels, depth, panel = (constant(dim) for dim in b_packed.shape)
    assert panels is not None and depth is not None and panel is not None
    batch, folded = _batch_and_rows(lead)
    dots = {"bfloat16": bf16.dot, "int16": int16.dot}.get(str(a.dtype))
    left = a if dots is None else bf16.bits(a)
    total: tirx.Expr | int = (
        math.prod(int(dim) for dim in folded) if _is_static(folded) else _symbol(folded)
    )
    known = constant(total)
    rows = rows or tile_rows(known, panel, depth)
    padded, exact = _round_up(total, rows), _divides(total, rows)
    k = te.reduce_axis((0, depth), name="k")

    def element(*indices: tirx.Expr) -> tirx.Expr:
        *outer, i, j = indices
        row = unflatten(i if exact else _clamped(i, total), folded)
        right = b_packed[j // panel, k, j % panel]
        if dots is not None:
            pair = bf16.pair(left(*outer, *row, 2 * k), left(*outer, *row, 2 * k + 1))
            return te.sum(dots(pair, right), axis=k)
        return te.sum(left(*outer, *row, k) * right, axis=k)

    product = te.compute(
        (*batch, padded, panels * panel),
        element,
        name="matmul",
        attrs={KIND: "matmul", ROWS: rows},
    )

    def wanted(*indices: tirx.Expr) -> tirx.Expr:
        outer, inner = indices[: len(batch)], indices[len(batch) : -1]
        return product(*outer, flatten(inner, folded), indices[-1])

    return te.compute((*lead, n), wanted, name="matmul_out")


def matmul_dots(a: te.Tensor, rows: te.Tensor) -> te.Tensor:
    """`a @ b` for a (..., K) and few columns of b, given as rows (N, K); result (..., N)."""
    k = te.reduce_axis((0, rows.shape[1]), name="k")
    return te.compute(
        (*a.shape[:-1], rows.shape[0]),
        lambda *i: te.sum(a(*i[:-1], k) * rows[i[-1], k], axis=k),
        name="matmul_dots",
    )


def few_rows_matmul(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """`a @ b` for a (batch..., M, K) and b (batch..., K, N) of the run, of known sizes.

    Batch axes are equal or 1. Result: (batch..., M, N). b is read where it lies, as a map of one
    row that a convolution of one tap reads (`CPUConv2dPlain`): `batch_matmul` would fill panels to
    read them once or twice (8 x 597 x 462: 42 us rather than 72; 1 x 64 x 400: 2 rather than 6).
    """
    *batch_a, m, depth = a.shape
    *batch_b, _, n = b.shape
    batch = _broadcast(batch_a, batch_b)
    rc, kh, kw = (
        te.reduce_axis((0, extent), name) for extent, name in ((depth, "rc"), (1, "kh"), (1, "kw"))
    )
    images = math.prod(int(dim) for dim in batch)
    data = te.compute(
        (images, depth, 1, n),
        lambda i, k, h, w: b(*_places(unflatten(i, batch), batch_b), k, w),
        name="map",
    )
    weight = te.compute(
        (images, m, depth, 1),
        lambda i, o, k, h: a(*_places(unflatten(i, batch), batch_a), o, k),
        name="rows",
    )
    product = te.compute(
        (images, m, 1, n),
        lambda i, o, h, w: te.sum(
            data[i, rc, h + kh, w + kw] * weight[i, o, rc, kh], axis=[rc, kh, kw]
        ),
        name="matmul",
    )
    return te.compute(
        (*batch, m, n),
        lambda *i: product[flatten(i[:-2], batch), i[-2], 0, i[-1]],
        name="matmul_out",
    )


def batch_matmul(
    a: te.Tensor,
    b: te.Tensor,
    transpose_a: bool,
    transpose_b: bool,
    panel: int = 16,
    rows: int | None = None,
    columns: int | None = None,
) -> te.Tensor:
    """`a @ b` over leading batch axes, both operands known at run time only.

    a: (..., M, K), or (..., K, M) if transpose_a; b: (..., K, N), or (..., N, K) if transpose_b;
    batch axes of equal rank, equal or 1. Result: (..., M, N), dtype of `a`, accumulated in it.
    The product (KIND "batch_matmul") reads b from panels of `panel` columns, zero padded, that a
    block of KIND "matmul_panel" fills: the schedule rule makes one panel at a time, in cache.

    columns: N, where b comes in panels already: (..., ceil(N / panel), K, panel).
    """
    *batch_a, a0, a1 = a.shape
    *batch_b, b0, b1 = b.shape if columns is None else (*b.shape[:-3], b.shape[-2], columns)
    batch = _broadcast(batch_a, batch_b)
    m, depth = (a1, a0) if transpose_a else (a0, a1)
    n = b0 if transpose_b else b1
    rows = rows or tile_rows(constant(m), panel, None if transpose_a else constant(depth))
    padded, panels = _round_up(m, rows), _round_up(n, panel, count=True)
    if constant(m) is None and not isinstance(m, tirx.Var):
        # The scheduler has to find out that it is no less than m, and does not of a rounded 3 * s.
        padded = m + tirx.floormod(-m, rows)
    exact_rows, exact_columns = _divides(m, rows), _divides(n, panel)

    def fill(*indices: tirx.Expr) -> tirx.Expr:
        *place, p, k, lane = indices
        column = p * panel + lane
        value = b(*_places(place, batch_b), *((column, k) if transpose_b else (k, column)))
        if exact_columns:
            return value
        return tirx.if_then_else(column < n, value, tirx.const(0, b.dtype))

    filled = (
        b
        if columns is not None
        else te.compute(
            (*batch, panels, depth, panel), fill, name="panel", attrs={KIND: "matmul_panel"}
        )
    )
    k = te.reduce_axis((0, depth), name="k")

    def element(*indices: tirx.Expr) -> tirx.Expr:
        *place, i, j = indices
        row = i if exact_rows else _clamped(i, m)
        left = a(*_places(place, batch_a), *((k, row) if transpose_a else (row, k)))
        place = place if columns is None else _places(place, batch_b)
        right = filled(*place, tirx.floordiv(j, panel), k, tirx.floormod(j, panel))
        return te.sum(left * right.astype(a.dtype), axis=k)

    product = te.compute(
        (*batch, padded, panels * panel),
        element,
        name="matmul",
        attrs={KIND: "batch_matmul", ROWS: rows},
    )
    return te.compute((*batch, m, n), lambda *i: product(*i), name="matmul_out")


def _broadcast(batch_a: list[tirx.Expr], batch_b: list[tirx.Expr]) -> list[tirx.Expr]:
    return [y if constant(x) == 1 else x for x, y in zip(batch_a, batch_b, strict=True)]


def _places(indices: Sequence[tirx.Expr], dims: list[tirx.Expr]) -> list[tirx.Expr | int]:
    """Indices into batch axes of which some are 1."""
    return [0 if constant(d) == 1 else i for i, d in zip(indices, dims, strict=True)]


def _clamped(row: tirx.Expr, rows: tirx.Expr | int) -> tirx.Expr:
    """The last row where there is no such row; a condition, which `PartitionLoops` can decide."""
    known = constant(rows)
    if known is None:
        row, last = row.astype("int64"), rows - 1
    else:
        last = tirx.const(known - 1, str(row.ty.dtype))
    return tirx.Select(row <= last, row, last)


def _round_up(extent: tirx.Expr, step: int, count: bool = False) -> tirx.Expr | int:
    """`extent` rounded up to a multiple of `step`, or how many steps that is."""
    known = constant(extent)
    steps = tirx.floordiv(extent + (step - 1), step) if known is None else -(-known // step)
    return steps if count else steps * step


def _divides(extent: tirx.Expr, step: int) -> bool:
    known = constant(extent)
    return known is not None and known % step == 0


def _batch_and_rows(lead: list[tirx.Expr]) -> tuple[list[tirx.Expr], list[tirx.Expr]]:
    """Leading axes -> those that stay a batch, those that become rows."""
    symbols = [dim for dim in lead if constant(dim) is None]
    others = [dim for dim in lead if constant(dim) not in (None, 1)]
    if not symbols or (len(symbols) == 1 and not others):
        return [], lead
    return lead[:-1], lead[-1:]


def _is_static(dims: list[tirx.Expr]) -> bool:
    return all(constant(dim) is not None for dim in dims)


def _symbol(dims: list[tirx.Expr]) -> tirx.Expr:
    return next(dim for dim in dims if constant(dim) is None)


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
