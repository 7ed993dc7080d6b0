"""Tiles in which a GPU computes matrix products: decisions, and a model of its time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir

from athanor.schedules.decisions import decide, nearest
from athanor.targets.gpu import GPUSpec

STAGE_BYTES = 128
"""Depth of one stage of the pipeline (targets/device/tiles.cuh)."""
SUM_PADDING = 8
"""kSumPadding of targets/device/product.cuh."""

NUMBERS = {"float16": "Half", "bfloat16": "BFloat", "tf32": "TF32", "float32": "Single"}
"""The device functions' name of each kind of number."""
_BITS = {"Half": 16, "BFloat": 16, "TF32": 32, "Single": 32}

_WARPS = {
    (128, 256): (64, 64),
    (128, 128): (64, 32),
    (128, 64): (32, 32),
    (64, 128): (32, 64),
    (64, 64): (32, 32),
    (32, 128): (32, 32),
    (32, 64): (16, 32),
    (16, 128): (16, 32),
    (16, 64): (16, 16),
}
"""A warp's tile by the block's. Four warps for every 64 rows, as warpgroups of sm_90a want."""
_OTHER_WARPS = ((16, 16), (16, 32), (32, 32), (32, 64), (64, 32))
"""What a warp of `mma.sync` may take instead, where a block then has 4 to 8 of them: no more sums,
for those would spill registers."""
_PLAIN_WARPS = {(128, 128): (32, 64)}
"""Where multiply-adds of float32 want another: 8 x 8 sums for each thread."""
_PLAIN_TILES_AT_MOST = 128 * 128
"""Sums of a block that fit the registers of float32 kernels."""

_RATE = {"Half": 2048, "BFloat": 2048, "TF32": 1024, "Single": 128}
"""Multiply-adds of one multiprocessor in a cycle: between A100 and H100."""
_COPY_BYTES = 48
"""Bytes that one multiprocessor gets from the L2 cache in a cycle."""
_STEP_CYCLES = 60
"""Of a stage: barrier, addresses."""
_BLOCK_CYCLES = 2000
"""Of a block: first copies, storing the sums."""
_LAUNCH_CYCLES = 4000
"""Of the second launch that adds up the parts of the depth."""
_NOMINAL_ROWS = 512
"""Where only the run tells."""
_SPLITS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Tile:
    """How one block computes its part."""

    number: str
    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    stages: int
    split: int
    """Parts of the depth, each for blocks of its own."""
    depth_major: tuple[bool, bool]
    """Whether the depth is what lies together in either operand; else rows, or columns, do."""

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * 32

    @property
    def depth(self) -> int:
        """Numbers of one stage along the depth."""
        return STAGE_BYTES * 8 // _BITS[self.number]

    @property
    def width(self) -> int:
        """Floats from one row of the sums in shared memory to the next."""
        return self.columns + SUM_PADDING

    @property
    def shared_bytes(self) -> int:
        """Of the ring of stages, or of the sums, which take its place."""
        return _shared(self.number, self.rows, self.columns, self.stages, *self.depth_major)

    @property
    def template(self) -> str:
        """Template arguments."""
        sizes = (self.rows, self.columns, self.warp_rows, self.warp_columns, self.stages)
        return f"athanor::{self.number}, {', '.join(map(str, sizes))}"


def _shared(number: str, rows: int, columns: int, stages: int, a_depth: bool, b_depth: bool) -> int:
    depth = STAGE_BYTES * 8 // _BITS[number]
    sides = [
        n if major else -(-n // depth) * depth for n, major in ((rows, a_depth), (columns, b_depth))
    ]
    return max(stages * sum(sides) * STAGE_BYTES, rows * (columns + SUM_PADDING) * 4)


def choose_tile(
    sch: s_tir.Schedule,
    gpu: GPUSpec,
    number: str,
    sizes: tuple[int | None, int | None, int | None, int | None],
    depth_major: tuple[bool, bool] = (True, True),
) -> Tile:
    """The tile for `sizes` = (batch, rows, columns, depth), None where the run tells.

    What the model of the time prefers, or a tuner.
    """
    batch, rows, columns, depth = (
        size or known
        for size, known in zip(sizes, (1, _NOMINAL_ROWS, _NOMINAL_ROWS, 512), strict=True)
    )
    bits = _BITS[number]
    steps = -(-depth * bits // 8 // STAGE_BYTES)
    fits = [
        (m, n)
        for m, n in _WARPS
        if _shared(number, m, n, 2, *depth_major) <= gpu.shared_bytes
        and (number != "Single" or m * n <= _PLAIN_TILES_AT_MOST)
        and (number == "Single" or depth_major[0] or m * bits >= 1024)
    ]
    splits = [split for split in _SPLITS if split == 1 or steps >= 4 * split]
    if sizes[3] is None:
        splits = [1]

    def cycles(m: int, n: int, split: int) -> float:
        blocks = batch * -(-rows // m) * -(-columns // n) * split
        compute = m * n * (STAGE_BYTES * 8 // bits) / _RATE[number]
        copies = (m + n) * STAGE_BYTES / _COPY_BYTES
        block = -(-steps // split) * (max(compute, copies) + _STEP_CYCLES) + _BLOCK_CYCLES
        more = 0.0
        if split > 1:
            moved = batch * rows * columns * 4 * (split + 1)
            more = _LAUNCH_CYCLES + moved / (gpu.multiprocessors * _COPY_BYTES / 2)
        return math.ceil(blocks / gpu.multiprocessors) * block + more

    best = min(
        ((m, n, split) for m, n in fits for split in splits), key=lambda choice: cycles(*choice)
    )
    m = decide(sch, "product_rows", sorted({m for m, _ in fits}), best[0])
    widths = sorted(n for other, n in fits if other == m)
    n = decide(sch, "product_columns", widths, best[1] if best[1] in widths else widths[-1])
    split = decide(sch, "product_split", splits, best[2])
    depths = [s for s in (2, 3, 4, 5) if _shared(number, m, n, s, *depth_major) <= gpu.shared_bytes]
    stages = decide(sch, "product_stages", depths, min(4, depths[-1]))
    return Tile(number, m, n, *_warp(sch, gpu, number, m, n), stages, split, depth_major)


def _warp(sch: s_tir.Schedule, gpu: GPUSpec, number: str, m: int, n: int) -> tuple[int, int]:
    """Rows and columns of a warp's part of the tile."""
    warps = _WARPS | (_PLAIN_WARPS if number == "Single" else {})
    rows, columns = warps[m, n]
    if number == "Single" or any(name.endswith("a") for name in gpu.architectures):
        return rows, columns
    others = {
        (a, b)
        for a, b in _OTHER_WARPS
        if not m % a and not n % b and 4 <= m * n // (a * b) <= 8 and a * b <= rows * columns
    }
    options = sorted(others | {(rows, columns)})
    a = decide(sch, "warp_rows", sorted({a for a, _ in options}), rows)
    widths = sorted(b for other, b in options if other == a)
    return a, decide(sch, "warp_columns", widths, nearest(widths, columns))
