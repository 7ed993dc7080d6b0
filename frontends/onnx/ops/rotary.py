"""Rotary embeddings: queries and keys turned by angles that their positions give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_equal
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import cast_shape
from athanor.frontends.onnx.ops.indexing import from_front
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    compute,
    dtype_of,
    rank_of,
    reshape,
    shape_of,
)

Inputs = list[relax.Expr]
Builder = relax.BlockBuilder
Angle = Callable[[te.Tensor, Any, Any, Any], tirx.Expr]
"""An element of a table: of which batch, place in the sequence, and pair."""


def rotary_embedding(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The standard's: tables for each element, or tables that position_ids choose rows of.

    inputs: x (B, N, S, H) or (B, S, N * H); cos and sin (B, S, rotary_embedding_dim / 2), or
    (positions, rotary_embedding_dim / 2) with position_ids (B, S).
    Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
    """
    x, cos, sin, positions = [*inputs, None][:4]
    heads = node.int("num_heads", 0)
    if rank_of(x) == 3 and not heads:
        raise node.error("num_heads is missing, which x of rank 3 needs")
    size = shape_of(x)[-1] if rank_of(x) == 4 else shape_of(x)[-1] // heads
    width = node.int("rotary_embedding_dim", 0) or size
    wanted = 3 if positions is None else 2
    if rank_of(cos) != wanted or rank_of(sin) != wanted:
        raise node.error(f"cos and sin are of rank {rank_of(cos)} and {rank_of(sin)}, not {wanted}")
    _check(node, x, heads, width, cos, sin)
    interleaved = bool(node.int("interleaved", 0))
    if positions is not None:
        positions = _of_sequences(node, x, positions, builder)
        return rotated(x, positions, cos, sin, width, interleaved, builder, heads)
    tables = [_of_sequences(node, x, table, builder) for table in (cos, sin)]
    return _turned(x, tables, lambda: _row, width, interleaved, builder, heads)


def _of_sequences(node: Node, x: relax.Expr, given: relax.Expr, builder: Builder) -> relax.Expr:
    """A table or positions for the sequences of x; one may serve all of a batch."""
    dims = shape_of(given)
    wanted = [shape_of(x)[0], shape_of(x)[1 if rank_of(x) == 3 else 2], *dims[2:]]
    if is_equal(dims[0], 1):
        wanted[0] = 1
    if any(is_equal(a, b) is False for a, b in zip(dims, wanted, strict=True)):
        raise node.error(f"{dims} does not fit the batch and sequences of x {shape_of(x)}")
    return cast_shape(given, wanted, builder)


def _row(table: te.Tensor, b: Any, s: Any, *rest: Any) -> tirx.Expr:
    """An element of what `_of_sequences` returns."""
    return table(0 if is_equal(table.shape[0], 1) else b, s, *rest)


def contrib_rotary_embedding(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """That of com.microsoft.

    inputs: x (B, S, D) or (B, N, S, H), position_ids (1,) the first position, or (B, S), and
    cos and sin tables (positions, rotary_embedding_dim / 2).
    """
    x, positions, cos, sin = inputs
    if node.int("is_packed_batching", 0) or node.float("scale", 1.0) != 1.0:
        raise node.error("is_packed_batching and scale are not supported")
    width, heads = node.int("rotary_embedding_dim", 0), node.int("num_heads", 0)
    if rank_of(x) == 3:
        # without num_heads the tables tell the size of a head
        heads = heads or shape_of(x)[-1] // (shape_of(cos)[1] * 2)
    size = shape_of(x)[-1] if rank_of(x) == 4 else shape_of(x)[-1] // heads
    width = width or size
    _check(node, x, heads, width, cos, sin)
    interleaved = bool(node.int("interleaved", 0))
    if rank_of(positions) == 2:
        positions = _of_sequences(node, x, positions, builder)
    return rotated(x, positions, cos, sin, width, interleaved, builder, heads)


def _check(
    node: Node, x: relax.Expr, heads: int, width: int, cos: relax.Expr, sin: relax.Expr
) -> None:
    """That heads and tables fit."""
    last = shape_of(x)[-1]
    if rank_of(x) == 3 and last % heads:
        raise node.error(f"x {shape_of(x)} has no {heads} heads of one size")
    size = last if rank_of(x) == 4 else last // heads
    if not 0 < width <= size or width % 2:
        raise node.error(f"rotary_embedding_dim={width} is not even and 2 to {size}, a head's size")
    if not is_equal(shape_of(cos)[-1] * 2, width) or not all(
        is_equal(a, b) for a, b in zip(shape_of(cos), shape_of(sin), strict=True)
    ):
        raise node.error(
            f"tables {shape_of(cos)} and {shape_of(sin)} do not fit a rotation of {width} elements"
        )


def rotated(
    x: relax.Expr,
    positions: relax.Expr,
    cos: relax.Expr,
    sin: relax.Expr,
    width: int,
    interleaved: bool,
    builder: Builder,
    heads: int = 0,
) -> relax.Expr:
    """X (B, N, S, H), or (B, S, heads * H), with the first `width` elements of H turned in pairs.

    positions: (B, S), or (1,) the position of the first element of each sequence, of rows of the
    tables cos and sin (positions, width / 2): negative ones count from the end,
    and what is outside takes the first or last row.
    """
    first = rank_of(positions) == 1

    def kernel(places: te.Tensor) -> Angle:
        def angle(table: te.Tensor, b: Any, s: Any, i: Any) -> tirx.Expr:
            place = places(0).astype("int64") + s if first else _row(places, b, s)
            return table(from_front(place, table.shape[0]), i)

        return angle

    return _turned(x, [cos, sin, positions], kernel, width, interleaved, builder, heads)


def _turned(
    x: relax.Expr,
    tables: Inputs,
    angles: Callable[..., Angle],
    width: int,
    interleaved: bool,
    builder: Builder,
    heads: int,
) -> relax.Expr:
    """See `rotated`; tables: cos, sin and what `angles` makes an `Angle` of.

    Heads stay where they are. Pairs of neighbours get an axis of their own where they are all
    of a head, so that two loops of vectors need no address by element (0.18 -> 0.03 ms for 12
    heads of 128x64; pairs of a half each, 0.03).
    """
    shape, dtype = shape_of(x), dtype_of(x)
    joined = rank_of(x) == 3
    if joined:
        x = reshape(x, [*shape[:2], heads, shape[2] // heads], builder)
    size = shape_of(x)[3]
    half, wide = width // 2, accumulation_dtype(dtype)
    paired = interleaved and size % 2 == 0

    def kernel(data: te.Tensor, cos: te.Tensor, sin: te.Tensor, *places: te.Tensor) -> te.Tensor:
        angle = angles(*places)

        def element(b: Any, outer: Any, inner: Any, h: Any, pair: Any, turn: Any) -> Any:
            def at(h: Any) -> Any:
                return data(b, outer, inner, h).astype(wide)

            def of(table: te.Tensor) -> Any:
                return angle(table, b, outer if joined else inner, pair).astype(wide)

            near = 1 if interleaved else half
            result = tirx.if_then_else(
                turn == 0,
                at(h) * of(cos) - at(h + near) * of(sin),
                at(h) * of(cos) + at(h - near) * of(sin),
            )
            if width < size:
                result = tirx.if_then_else(pair < half if interleaved else h < width, result, at(h))
            return result.astype(dtype)

        if paired:
            return te.compute(
                (*data.shape[:3], size // 2, 2),
                lambda b, outer, inner, pair, turn: element(
                    b, outer, inner, 2 * pair + turn, pair, turn
                ),
                name="rotate",
            )

        def flat(b: Any, outer: Any, inner: Any, h: Any) -> Any:
            if interleaved:
                return element(b, outer, inner, h, h // 2, h % 2)
            turn = tirx.Select(h < half, 0, 1)
            return element(b, outer, inner, h, h - turn * half, turn)

        return te.compute(data.shape, flat, name="rotate")

    result = compute(builder, "rotate", kernel, x, *tables)
    return reshape(result, shape, builder) if joined or paired else result
