"""GPU schedule of matrix products."""

from __future__ import annotations

import math

from tvm import s_tir, tirx

from athanor.schedules import blocks
from athanor.schedules.product_kernel import product_kernel
from athanor.schedules.product_tiles import NUMBERS
from athanor.schedules.tiled_product import find_product
from athanor.targets.target import TargetSpec

_WORTH_TILES = 1 << 15
"""Multiply-adds below which one thread for each element is as good."""


class CUDAMatmul:
    """A tile of the result for each block of threads: `athanor::product` and what follows it.

        for tile in blockIdx.x:  for thread in threadIdx.x:
            athanor::product(shared, a, b, ...)       # targets/device/product.cuh
            for each vector of the tile, a thread's:  out = epilogue(shared)

    float16 and bfloat16 are multiplied on tensor cores and added up in float32; float32 by
    multiply-adds, or on tensor cores rounded to TF32 where the target says so. Where tiles are few
    and the depth is large, blocks share a tile's depth, and a second launch adds up their parts.

    Matches: one product, of any extents, batch axes and order of the operands' last two axes, with
    one of these dense, and elementwise blocks behind it. Declines (None): anything else, products
    of few elements, 16-bit numbers before sm_80.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        gpu = target.gpu
        assert gpu is not None, f"{target.name} has no device"
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves:
            return None
        sums = [block for block in leaves if not blocks.is_spatial(sch, block)]
        if len(sums) != 1:
            return None
        found = find_product(sch, sums[0])
        if found is None:
            return None
        sizes = [blocks.constant(extent) for extent in found.extents]
        if math.prod(size or _WORTH_TILES for size in sizes) < _WORTH_TILES:
            return None
        if found.dtype != "float32" and not gpu.tensor_cores:
            return None
        kind = "tf32" if gpu.precision == "tf32" and found.dtype == "float32" else found.dtype
        return product_kernel(sch, sums[0], found, NUMBERS[kind], gpu)
