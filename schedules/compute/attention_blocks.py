"""How many keys of an attention are held at once beside a block of queries."""

from __future__ import annotations

from athanor.schedules.blocks import constant
from athanor.schedules.compute.attention import Attention, key_rows
from athanor.targets.target import TargetSpec

KEY_BLOCK = 256
"""Most keys whose scores are held at once: beside 32 queries 32 KiB, half of a small L2 cache's
share of one core with the key and value rows that they meet."""
LARGEST_KEY_BLOCK = 1024
"""That a tuner may try: beside 32 queries 128 KiB."""


def key_block(attention: Attention, target: TargetSpec) -> int:
    """Keys whose scores are held at once: all of them where they are few."""
    keys, rows = constant(attention.keys), key_rows(attention, target)
    return keys if keys is not None and keys <= KEY_BLOCK else KEY_BLOCK // 2 // rows * rows


def key_blocks(attention: Attention, target: TargetSpec) -> list[int]:
    """What `key_block` may be otherwise: whole register tiles of keys, or all keys."""
    keys, rows = constant(attention.keys), key_rows(attention, target)
    most = LARGEST_KEY_BLOCK if keys is None else min(keys - 1, LARGEST_KEY_BLOCK)
    sizes = [max(1, size // rows) * rows for size in (32, 64, 128, 256, 512, LARGEST_KEY_BLOCK)]
    found = {key_block(attention, target), *(size for size in sizes if size <= most)}
    if keys is not None and keys <= LARGEST_KEY_BLOCK:
        found.add(keys)
    return sorted(found)
