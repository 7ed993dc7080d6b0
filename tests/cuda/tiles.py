"""Tiles of products that a test asks for, in the place of those that the compiler prefers."""

from contextlib import nullcontext
from unittest import mock

from athanor.schedules.decisions import nearest

NAMES = ("product_rows", "product_columns", "product_split", "product_stages")


def tiles(*values):
    """Within it, products have these rows, columns, split and stages, or the nearest there are."""
    if not values:
        return nullcontext()
    wanted = dict(zip(NAMES, values, strict=True))

    def decide(_sch, name, candidates, _preferred):
        return nearest(candidates, wanted[name])

    return mock.patch("athanor.schedules.product_tiles.decide", decide)
