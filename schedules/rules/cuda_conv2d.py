"""GPU schedule of convolutions."""

from __future__ import annotations

import math

from tvm import s_tir, tirx
from tvm.ir import Expr

from athanor.schedules import blocks
from athanor.schedules.compute.conv2d_channels_last import CHANNELS_LAST, GEOMETRY
from athanor.schedules.product_kernel import product_kernel
from athanor.schedules.product_tiles import NUMBERS
from athanor.schedules.tiled_product import (
    Block,
    ProductCall,
    TiledProduct,
    address,
    product,
    vector_of,
)
from athanor.targets.target import TargetSpec

_WORTH_TILES = 1 << 15
"""Multiply-adds below which one thread for each element is as good."""


class CUDAConv2d:
    """As CUDAMatmul, whose rows are output pixels and whose depth are the inputs of one.

        for tile in blockIdx.x:  for thread in threadIdx.x:
            athanor::convolution(shared, data, weight, ...)    # gathers what a pixel meets
            for each vector of the tile, a thread's:  out = epilogue(shared)

    Matches: `conv2d_channels_last` of one group, any sizes, strides, dilation and padding, and
    elementwise blocks behind it. Declines (None): anything else, convolutions of few
    multiply-adds, 16-bit numbers before sm_80.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        gpu = target.gpu
        assert gpu is not None, f"{target.name} has no device"
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or blocks.find_kind(sch, CHANNELS_LAST) is None:
            return None
        block, _ = blocks.find_kind(sch, CHANNELS_LAST) or (leaves[0], "")
        found = _convolution(sch, block)
        if found is None or (found.dtype != "float32" and not gpu.tensor_cores):
            return None
        sizes = [blocks.constant(extent) for extent in found.extents]
        if math.prod(size or _WORTH_TILES for size in sizes) < _WORTH_TILES:
            return None
        kind = "tf32" if gpu.precision == "tf32" and found.dtype == "float32" else found.dtype
        return product_kernel(sch, block, found, NUMBERS[kind], gpu)


def _convolution(sch: s_tir.Schedule, block: Block) -> TiledProduct | None:
    stmt = sch.get(block)
    numbers = [int(number) for number in stmt.annotations[GEOMETRY]]
    stride_y, stride_x, step_y, step_x, top, left, groups = numbers
    loads = [
        load for load in blocks.loads(stmt.body.value) if not load.source.same_as(stmt.body.buffer)
    ]
    dtype = str(loads[0].source.dtype)
    if groups != 1 or len(loads) != 2 or str(loads[1].source.dtype) != dtype:
        return None
    if dtype not in ("float32", "float16", "bfloat16"):
        return None
    data, weight = (load.source for load in loads)
    _, height, width, channels = data.shape
    _, _, kernel_width, _ = weight.shape
    axes = [(iterator.var, iterator.dom.extent) for iterator in stmt.iter_vars[:4]]
    (_, _), (_, out_height), (_, out_width), _ = axes
    bits = 32 if dtype == "float32" else 16
    depth = product(list(weight.shape[1:]))
    vectors = vector_of(bits, channels), vector_of(bits, depth)
    zero = tirx.const(0, "int64")

    def call(at: ProductCall) -> Expr:
        first_weight = tirx.BufferLoad(weight, [at.first_column, zero, zero, zero])
        sizes = [channels, height, width, channels, out_width, product([out_height, out_width])]
        sizes += [kernel_width, stride_y, stride_x, top, left, step_y, step_x, at.first_row]
        return tirx.call_extern(
            "int32",
            f"athanor::convolution<{at.tile}, {vectors[0]}, {vectors[1]}>",
            at.shared,
            address(tirx.BufferLoad(data, [zero] * 4), {}),
            *(_int32(size) for size in sizes),
            at.rows,
            tirx.address_of(first_weight),
            at.columns,
            at.begin,
            at.end,
            _int32(depth),
        )

    return TiledProduct((), tuple(axes[:3]), axes[3], depth, dtype, *vectors, (True, True), call)


def _int32(value: Expr | int) -> Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value.astype("int32")
