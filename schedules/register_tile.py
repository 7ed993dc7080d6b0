"""Which tile of accumulators fills a machine's vector registers best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from athanor.targets.target import TargetSpec

LOAD_PIPES = 2
"""Vectors that one core loads in a cycle, on every machine served here."""

L2_BYTES_PER_CYCLE = 24
"""What the L2 cache delivers in a long stream: three quarters of its 32 bytes a cycle."""


@dataclass(frozen=True)
class RegisterTile:
    """Pixels x vectors of accumulators, and what a line of pixels costs in it."""

    pixels: int
    vectors: int
    cycles: float
    """Of one reduction step over the whole line and one tile of channels."""


def most_pixels(vectors: int, target: TargetSpec) -> int:
    """Pixels that fit beside `vectors` weight vectors and one broadcast; 0: not even one."""
    # With 128 bits there is no load that broadcasts: pixels are loaded ahead and then spread, and
    # SSE needs room for products. Where LLVM begins to spill, seen in its assembly.
    others = 1 if target.vector_bits > 128 else 5
    if target.vector_registers - others < 2 * vectors:
        # One pixel uses each weight once, so its weights need one register, not `vectors`.
        return 1 if target.vector_registers - others > vectors else 0
    return (target.vector_registers - others - vectors) // vectors


def step_cycles(pixels: int, vectors: int, taps: int, target: TargetSpec) -> float:
    """Cycles of one of `taps` reduction steps, by what limits it.

    Multiply-adds, loads, the latency of the chain, or the weights' way from the L2 cache where
    those of all steps are more than stays in L1 from one tile to the next.
    """
    sums = pixels * vectors
    chains = target.fma_pipes * target.fma_latency
    # Measured on Zen 3: 12 sums run at 98% of what the pipes take, 10 at 96%, 8 at 94%: a chain
    # that just covers the latency has no slack for loads that come late.
    slack = 1.06 if sums == chains else 1.02 if sums < chains else 1 + 0.06 * (chains / sums) ** 3
    work = max(sums / target.fma_pipes, target.fma_latency) * slack
    step_bytes = vectors * target.vector_bits // 8
    stream = step_bytes / L2_BYTES_PER_CYCLE if step_bytes * taps > target.l1_bytes // 2 else 0.0
    return max(work, stream, (pixels + vectors) / LOAD_PIPES)


def line_cycles(length: int, pixels: int, vectors: int, taps: int, target: TargetSpec) -> float:
    """Cycles of one reduction step over a line of pixels that tiles cut, the last one short."""
    full, rest = divmod(length, pixels)
    cycles = full * step_cycles(pixels, vectors, taps, target)
    return cycles + (step_cycles(rest, vectors, taps, target) if rest else 0)


def best_pixels(
    length: int | None, vectors: int, taps: int, target: TargetSpec, limit: int = 64
) -> RegisterTile:
    """The tile with that many vectors that takes a line (None: any length) in least cycles.

    limit: pixels of a tile at most, for other reasons than registers.
    """
    most = min(limit, most_pixels(vectors, target))
    if length is None:
        return RegisterTile(most, vectors, step_cycles(most, vectors, taps, target) / most)
    sizes = range(1, min(most, length) + 1)
    return min(
        (RegisterTile(p, vectors, line_cycles(length, p, vectors, taps, target)) for p in sizes),
        key=lambda tile: (tile.cycles, -tile.pixels),
    )


def best_tile(
    length: int | None, channel_blocks: int, block: int, taps: int, target: TargetSpec
) -> RegisterTile:
    """The cheapest tile over a line of pixels for that many blocks of output channels."""
    choices = vector_counts(channel_blocks, block, target)
    tiles = [best_pixels(length, v, taps, target) for v in choices]
    return min(tiles, key=lambda tile: (tile.cycles / tile.vectors, -tile.pixels))


def vector_counts(channel_blocks: int, block: int, target: TargetSpec) -> list[int]:
    """How many vectors of output channels a tile may have.

    They divide one block, or fill a whole number of blocks that divides them all.
    """
    per_block = max(1, block // target.lanes(32))
    choices = divisors(per_block)
    choices += [n * per_block for n in range(2, channel_blocks + 1) if channel_blocks % n == 0]
    return [vectors for vectors in choices if most_pixels(vectors, target)]


def divisors(number: int) -> list[int]:
    """Divisors in ascending order."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})
