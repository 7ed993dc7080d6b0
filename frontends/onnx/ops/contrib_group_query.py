"""The com.microsoft domain: GroupQueryAttention, the attention of decoders with a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import is_equal, is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.contrib_attention import (
    LOWEST,
    added,
    join_heads,
    last_axis_parts,
    product,
    scores_of,
    split_heads,
)
from athanor.frontends.onnx.ops.rotary import rotated
from athanor.frontends.onnx.tensors import cast, compute, dtype_of, reshape, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_REFUSED = {12: "k_scale", 13: "v_scale", 14: "q_norm_weight", 15: "k_norm_weight"}


@dataclass(frozen=True)
class _Lengths:
    """Of one node: queries S, past P, keys T after the step, and whether there is no past."""

    queries: Any
    past: Any
    keys: Any
    is_prompt: bool
    seqlens: relax.Expr  # (B,), the number of valid keys of each sequence, less 1


def group_query_attention(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr, ...]:
    """Causal attention in which `num_heads / kv_num_heads` queries share a key.

    inputs: query (B, S, N * H), or all three packed; key and value (B, S, Nkv * H), past_key and
    past_value (B, Nkv, P, H), seqlens_k (B,), total_sequence_length, cos and sin tables,
    position_ids, attention_bias, head_sink. Results: output, present_key, present_value, whose
    rows beyond a sequence's length are 0.
    total_sequence_length has to follow from shapes: P + S, or at most P where the cache is a
    buffer of a fixed size.
    """
    optional = [inputs[i] if node.has_input(i, inputs) else None for i in range(16)]
    for index in range(12, 16):
        if optional[index] is not None:
            raise node.error(f"{_REFUSED[index]} is not supported")
    for name in ("qk_output", "sliding_window_cache", "kv_cache_bit_width"):
        if node.int(name, 0):
            raise node.error(f"{name}={node.int(name)} is not supported")
    heads, groups = node.int("num_heads"), node.int("kv_num_heads")
    if heads % groups:
        raise node.error(f"num_heads={heads} is no multiple of kv_num_heads={groups}")
    query, key, value = _heads_of(node, optional[:3], heads, groups, builder)
    lengths = _lengths(node, query, optional, builder)
    if node.int("do_rotary", 0):
        query, key = (_rotate(node, x, lengths, optional, builder) for x in (query, key))
    key = _present(optional[3], key, lengths, builder)
    value = _present(optional[4], value, lengths, builder)
    result = _attend(node, query, key, value, lengths, optional, builder)
    return join_heads(result, builder), key, value


def _heads_of(
    node: Node, given: list[Any], heads: int, groups: int, builder: Builder
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Query, key and value as (B, heads, S, H)."""
    query, key, value = given
    if key is None:
        size = shape_of(query)[2] // (heads + 2 * groups)
        widths = [heads * size, groups * size, groups * size]
        query, key, value = last_axis_parts(query, widths, builder)
    elif value is None:
        raise node.error("value is missing")
    return (
        split_heads(query, heads, builder),
        split_heads(key, groups, builder),
        split_heads(value, groups, builder),
    )


def _lengths(node: Node, query: relax.Expr, optional: list[Any], builder: Builder) -> _Lengths:
    queries = shape_of(query)[2]
    if optional[5] is None or optional[6] is None:
        raise node.error("seqlens_k and total_sequence_length are needed")
    seqlens = reshape(optional[5], [shape_of(query)[0]], builder)
    total = node.elements(6, "total_sequence_length")[0]
    past = shape_of(optional[3])[2] if optional[3] is not None else 0
    grown = simplify(past + queries)
    fits = is_equal(total, grown)
    if fits is not False:
        assert isinstance(builder, ImportBuilder), "converters run with the importer's builder"
        builder.require_equal(total, grown)
        is_prompt = not is_symbolic(past) and past == 0
        return _Lengths(queries, past, grown, is_prompt, seqlens)
    if is_symbolic(total) or is_symbolic(past) or total > past or is_symbolic(queries):
        raise node.error(
            f"total_sequence_length={total} is neither {grown} nor within the cache of {past}"
        )
    return _Lengths(queries, past, past, queries == total, seqlens)


def _begin(lengths: _Lengths, seqlens: te.Tensor, batch: Any) -> Any:
    """How many keys sequence `batch` had before this step."""
    if lengths.is_prompt:
        return tirx.const(0, "int64")
    valid = seqlens(batch).astype("int64") + tirx.const(1, "int64")
    return tirx.max(valid - lengths.queries, tirx.const(0, "int64"))


def _rotate(
    node: Node, x: relax.Expr, lengths: _Lengths, optional: list[Any], builder: Builder
) -> relax.Expr:
    cos, sin, given = optional[7], optional[8], optional[9]
    if cos is None or sin is None:
        raise node.error("do_rotary=1 needs cos_cache and sin_cache")
    batch = shape_of(x)[0]
    if given is not None and lengths.is_prompt:
        # of a prompt, the first element alone counts
        first = builder.emit(R.strided_slice(given, [0, 1], [0, 0], [1, 1]))
        positions = reshape(first, [1], builder)
    elif given is not None:
        positions = given
    else:

        def kernel(seqlens: te.Tensor, sizes: list[Any]) -> te.Tensor:
            def element(b: Any, i: Any) -> Any:
                return _begin(lengths, seqlens, b) + i

            return te.compute(tuple(sizes), element, name="positions")

        sizes = relax.ShapeExpr([batch, lengths.queries])
        positions = compute(builder, "positions", kernel, lengths.seqlens, sizes)
    width, interleaved = shape_of(cos)[1] * 2, bool(node.int("rotary_interleaved", 0))
    if width > shape_of(x)[3]:
        raise node.error(f"tables of {width} elements are wider than a head of {shape_of(x)[3]}")
    return rotated(x, positions, cos, sin, width, interleaved, builder)


def _present(
    past: relax.Expr | None, new: relax.Expr, lengths: _Lengths, builder: Builder
) -> relax.Expr:
    """The cache after this step: the new rows follow the valid ones of each sequence."""
    if past is None:
        return new
    batch, groups, _, size = shape_of(new)

    def kernel(old: te.Tensor, rows: te.Tensor, seqlens: te.Tensor, sizes: list[Any]) -> te.Tensor:
        def element(b: Any, n: Any, p: Any, h: Any) -> Any:
            begin = _begin(lengths, seqlens, b)
            kept = old(b, n, tirx.max(tirx.min(p, old.shape[2] - 1), 0), h)
            place = tirx.max(tirx.min(p - begin, rows.shape[2] - 1), 0)
            fresh = tirx.Select(
                p - begin < rows.shape[2], rows(b, n, place, h), tirx.const(0, rows.dtype)
            )
            return tirx.Select(p < begin, kept, fresh)

        return te.compute(tuple(sizes), element, name="append_to_cache")

    sizes = relax.ShapeExpr([batch, groups, lengths.keys, size])
    return compute(builder, "append_to_cache", kernel, past, new, lengths.seqlens, sizes)


def _attend(
    node: Node,
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    lengths: _Lengths,
    optional: list[Any],
    builder: Builder,
) -> relax.Expr:
    batch, heads, queries, size = shape_of(query)
    groups = shape_of(key)[1]
    # the queries that share a key lie one after another, as if they were one longer sequence
    together = reshape(query, [batch, groups, heads // groups * queries, size], builder)
    scale = node.float("scale", 0.0) or 1.0 / math.sqrt(size)
    scores = scores_of(together, key, scale, builder)
    dims = [batch, heads, queries, lengths.keys]
    scores = reshape(scores, dims, builder)
    wide, cap = dtype_of(scores), node.float("softcap", 0.0)
    if cap > 0:
        ratio = builder.emit(R.divide(scores, scalar(cap, wide)))
        bounded = builder.emit(R.tanh(ratio))
        scores = builder.emit(R.multiply(bounded, scalar(cap, wide)))
    if optional[10] is not None:
        scores = added(scores, optional[10], builder)
    scores = added(scores, _visible(node, lengths, batch, wide, builder), builder)
    weights = _softmax(node, scores, optional[11], builder)
    weights = reshape(weights, [*shape_of(together)[:3], lengths.keys], builder)
    result = product(cast(weights, dtype_of(value), builder), value, builder)
    return reshape(result, [batch, heads, queries, size], builder)


def _visible(node: Node, lengths: _Lengths, batch: Any, dtype: str, builder: Builder) -> relax.Expr:
    """(B, 1, S, T): 0 where a query sees a key, the lowest number elsewhere."""
    window, causal = node.int("local_window_size", -1), node.int("causal", 1)

    def kernel(seqlens: te.Tensor, sizes: list[Any]) -> te.Tensor:
        def element(b: Any, _n: Any, i: Any, j: Any) -> Any:
            position = _begin(lengths, seqlens, b) + i
            seen = j <= position if causal else j <= seqlens(b).astype("int64")
            if window > 0:
                seen = tirx.all(seen, j > position - window)
            return tirx.Select(seen, tirx.const(0.0, dtype), tirx.const(LOWEST, dtype))

        return te.compute(tuple(sizes), element, name="visible_keys")

    sizes = relax.ShapeExpr([batch, 1, lengths.queries, lengths.keys])
    return compute(builder, "visible_keys", kernel, lengths.seqlens, sizes)


def _softmax(node: Node, scores: relax.Expr, sink: Any, builder: Builder) -> relax.Expr:
    """Softmax over the keys, with one more key that has no value where the node has a sink."""
    if sink is None and node.int("smooth_softmax", -1) != 1:
        return builder.emit(R.nn.softmax(scores, axis=-1))
    batch, heads, queries, keys = shape_of(scores)
    dtype = dtype_of(scores)
    column = scalar(0, dtype)
    if sink is not None:
        column = cast(reshape(sink, [1, heads, 1, 1], builder), dtype, builder)
    shape = relax.ShapeExpr([batch, heads, queries, 1])
    column = builder.emit(R.broadcast_to(column, shape))
    wider = builder.emit(R.concat([scores, column], axis=3))
    weights = builder.emit(R.nn.softmax(wider, axis=-1))
    return builder.emit(R.strided_slice(weights, [3], [0], [keys]))
