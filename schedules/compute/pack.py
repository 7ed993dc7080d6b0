"""NCHW <-> channel-blocked layouts, tile by tile in vector registers."""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up
# when a kernel is built; so annotations must not be postponed in this file.

import math
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from athanor.schedules.blocks import constant

PARALLEL_BYTES = 1 << 17
"""Below this much data waking a second core costs more than it gives."""
TASK_PIXELS = 1024
"""Of one task: 64 KiB of 16 channels there, and as much here."""


def unpack_kernel(
    batch: Any, channels: int, height: Any, width: Any, block: int, lanes: int
) -> tirx.PrimFunc:
    """(N, ceil(C / block), H, W, block) -> (N, C, H, W), float32; N, H, W may be symbolic.

    A tile of `lanes` pixels x `lanes` channels is loaded, transposed and stored as whole vectors.
    The last tile of an image overlaps the one before it, so that no pixel is left over. Pixels are
    counted through rows: an index past the width is a pixel of a later row.
    """
    batch, height, width = (_int64(size) for size in (batch, height, width))
    pixels, blocks = height * width, -(-channels // block)
    tasks, run, parallel = _tasks(pixels, batch, blocks, block)
    name = f"athanor_transpose_{lanes}"
    parts = block // lanes

    @T.prim_func(private=True, s_tir=True)
    def unpack(
        source: T.Buffer((batch, blocks, height, width, block), "float32"),
        target: T.Buffer((batch, channels, height, width), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
        for task in parallel(batch * blocks * tasks):
            n: T.let[T.int64] = task // (blocks * tasks)
            c: T.let[T.int64] = task // tasks % blocks
            first: T.let[T.int64] = task % tasks * run
            if pixels >= lanes:
                for tile in T.serial((T.min(run, pixels - first) + lanes - 1) // lanes):
                    for part in T.unroll(T.int64(parts)):
                        start: T.let[T.int64] = T.min(first + tile * lanes, pixels - lanes)
                        channel: T.let[T.int64] = c * block + part * lanes
                        if channel < channels:
                            T.evaluate(
                                T.call_extern(
                                    "int32",
                                    name,
                                    T.address_of(source[n, c, 0, start, part * lanes]),
                                    T.int64(block),
                                    T.int64(lanes),
                                    T.address_of(target[n, channel, 0, start]),
                                    pixels,
                                    T.min(channels - channel, T.int64(lanes)),
                                )
                            )
            else:
                for inner, row, column in T.grid(T.int64(block), height, width):
                    if c * block + inner < channels:
                        target[n, c * block + inner, row, column] = source[n, c, row, column, inner]

    return unpack


def pack_kernel(
    batch: Any, channels: int, height: Any, width: Any, block: int, lanes: int
) -> tirx.PrimFunc:
    """(N, C, H, W) -> (N, ceil(C / block), H, W, block), float32, zeros for missing channels.

    As `unpack_kernel`, the other way round.
    """
    batch, height, width = (_int64(size) for size in (batch, height, width))
    pixels, blocks = height * width, -(-channels // block)
    tasks, run, parallel = _tasks(pixels, batch, blocks, block)
    name = f"athanor_transpose_{lanes}"
    parts = block // lanes

    @T.prim_func(private=True, s_tir=True)
    def pack(
        source: T.Buffer((batch, channels, height, width), "float32"),
        target: T.Buffer((batch, blocks, height, width, block), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
        for task in parallel(batch * blocks * tasks):
            n: T.let[T.int64] = task // (blocks * tasks)
            c: T.let[T.int64] = task // tasks % blocks
            first: T.let[T.int64] = task % tasks * run
            if pixels >= lanes:
                for tile in T.serial((T.min(run, pixels - first) + lanes - 1) // lanes):
                    for part in T.unroll(T.int64(parts)):
                        start: T.let[T.int64] = T.min(first + tile * lanes, pixels - lanes)
                        channel: T.let[T.int64] = c * block + part * lanes
                        T.evaluate(
                            T.call_extern(
                                "int32",
                                name,
                                T.address_of(source[n, T.min(channel, channels - 1), 0, start]),
                                pixels,
                                T.max(T.min(channels - channel, T.int64(lanes)), T.int64(0)),
                                T.address_of(target[n, c, 0, start, part * lanes]),
                                T.int64(block),
                                T.int64(lanes),
                            )
                        )
            else:
                for row, column, inner in T.grid(height, width, T.int64(block)):
                    target[n, c, row, column, inner] = T.if_then_else(
                        c * block + inner < channels,
                        source[n, c * block + inner, row, column],
                        T.float32(0),
                    )

    return pack


def _int64(size: Any) -> tirx.Expr:
    return tirx.IntImm("int64", size) if isinstance(size, int) else size


def _tasks(
    pixels: tirx.Expr, batch: tirx.Expr, blocks: int, block: int
) -> tuple[tirx.Expr, tirx.Expr, Any]:
    """(tasks of one block's image, pixels of a task, loop over tasks)."""
    sizes = [constant(size) or 0 for size in (pixels, batch)]
    if all(sizes) and math.prod(sizes) * blocks * block * 4 < PARALLEL_BYTES:
        return _int64(1), pixels, T.serial
    run = _int64(TASK_PIXELS)
    return (pixels + run - 1) // run, run, T.parallel
