"""Tiles of products that a test asks for, in the place of those that the compiler prefers."""

from contextlib import nullcontext
from unittest import mock

from athanor.schedules.decisions import nearest

NAMES = ("product_rows", "product_columns", "product_split", "product_stages")
WARPS = ("warp_rows", "warp_columns")


def tiles(*values):
    """Within it, products have these rows, columns, split and stages, or the nearest there are.

    Two more may follow, the rows and columns of a warp.
    """
    if not values:
        return nullcontext()
    wanted = dict(zip((*NAMES, *WARPS), values, strict=False))

    def decide(_sch, name, candidates, preferred):
        return nearest(candidates, wanted.get(name, preferred))

    return mock.patch("athanor.schedules.product_tiles.decide", decide)
