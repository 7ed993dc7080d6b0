"""GPU schedule of float32 matrix products of fixed shapes."""

from __future__ import annotations

import math

from tvm import s_tir, tirx
from tvm.s_tir import dlight

from athanor.schedules import blocks
from athanor.targets.target import TargetSpec

_WORTH_TILES = 1 << 15
"""Multiply-adds below which one thread for each element is as good."""


class CUDAMatmul:
    """A tile of the result for each block of threads, its operands in shared memory.

    The schedule is dlight's for GPUs, with what follows the product (bias, activation) in it. It
    reads fp32 operands and multiplies in fp32, so no bit is lost to TF32.

    Matches: one product of float32, all extents constant, and spatial blocks around it.
    Declines (None): other types, symbolic extents (dlight mixes 32- and 64-bit indices there),
    products of few elements.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        assert target.gpu is not None, f"{target.name} has no device"
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves:
            return None
        left = [block for block in leaves if not blocks.is_spatial(sch, block)]
        if len(left) != 1 or not _is_product(sch, left[0]):
            return None
        with target.gpu.tvm:
            return dlight.gpu.Matmul().apply(func, target.gpu.tvm, False)


def _is_product(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Whether a block is `c[..., i, j] += a[..., i, k] * b[..., k, j]` worth tiles."""
    sizes = blocks.extents(sch, block)
    kinds = blocks.iterator_kinds(sch, block)
    stmt = sch.get(block)
    if None in sizes or kinds not in ("SSR", "SSSR") or len(stmt.reads) != 2:
        return False
    buffers = [region.source for region in (*stmt.reads, *stmt.writes)]
    if any(str(buffer.dtype) != "float32" for buffer in buffers):
        return False
    if not isinstance(stmt.body, tirx.BufferStore):
        return False
    value = stmt.body.value
    if not (isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)):
        return False
    known = [size for size in sizes if size is not None]
    return min(known[-3:]) > 1 and math.prod(known) >= _WORTH_TILES
