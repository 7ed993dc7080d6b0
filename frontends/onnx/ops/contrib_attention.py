"""The com.microsoft domain: attention over heads, with masks, caches and biases.

Inside, tensors are (batch, heads, sequence, size of a head): "BNSH" in ONNX Runtime's words.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_equal, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import cast_shape, unify
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

LOWEST = -3.4028234663852886e38
"""What hides a key from a query where the operator says "never": the lowest float32."""


def split_heads(x: relax.Expr, heads: int, builder: Builder) -> relax.Expr:
    """(B, S, heads * H) -> (B, heads, S, H)."""
    batch, length, width = shape_of(x)
    parted = reshape(x, [batch, length, heads, width // heads], builder)
    return builder.emit(R.permute_dims(parted, [0, 2, 1, 3]))


def join_heads(x: relax.Expr, builder: Builder) -> relax.Expr:
    """(B, heads, S, H) -> (B, S, heads * H)."""
    batch, heads, length, size = shape_of(x)
    moved = builder.emit(R.permute_dims(x, [0, 2, 1, 3]))
    return reshape(moved, [batch, length, heads * size], builder)


def scores_of(query: relax.Expr, key: relax.Expr, scale: float, builder: Builder) -> relax.Expr:
    """`query @ key^T * scale`, in float32 for half precision."""
    transposed = builder.emit(R.permute_dims(key, [0, 1, 3, 2]))
    wide = accumulation_dtype(dtype_of(query))
    product = builder.emit(R.matmul(query, transposed, out_dtype=wide))
    return builder.emit(R.multiply(product, scalar(scale, wide)))


def weighted(scores: relax.Expr, value: relax.Expr, builder: Builder) -> relax.Expr:
    """`softmax(scores) @ value` in value's type."""
    dtype = dtype_of(value)
    weights = builder.emit(R.nn.softmax(scores, axis=-1))
    return product(cast(weights, dtype, builder), value, builder)


def product(left: relax.Expr, right: relax.Expr, builder: Builder) -> relax.Expr:
    """A matrix product in the operands' type, summed in float32 for half precision."""
    dtype = dtype_of(right)
    result = builder.emit(R.matmul(left, right, out_dtype=accumulation_dtype(dtype)))
    return cast(result, dtype, builder)


def added(scores: relax.Expr, bias: relax.Expr, builder: Builder) -> relax.Expr:
    """Scores plus a bias that broadcasts to them."""
    bias = cast(bias, dtype_of(scores), builder)
    return builder.emit(R.add(*unify([scores, bias], builder)))


def causal_bias(
    queries: Any, keys: Any, past: Any, dtype: str, builder: Builder, hidden: float = LOWEST
) -> relax.Expr:
    """(queries, keys): 0 where query i may see key j, which is j <= past + i, else `hidden`."""

    def kernel(sizes: list[Any], shift: list[Any]) -> te.Tensor:
        def element(i: Any, j: Any) -> Any:
            seen = j <= i + shift[0]
            return tirx.Select(seen, tirx.const(0.0, dtype), tirx.const(hidden, dtype))

        return te.compute(tuple(sizes), element, name="causal_bias")

    sizes, shift = relax.ShapeExpr([queries, keys]), relax.ShapeExpr([past])
    return compute(builder, "causal_bias", kernel, sizes, shift)


def concat_past(past: relax.Expr, new: relax.Expr, builder: Builder) -> relax.Expr:
    """Past and new keys or values along the sequence."""
    return builder.emit(R.concat([past, new], axis=2))


def attention(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr | None, ...]:
    """Self attention of BERT and GPT-2 with merged projections; results output and present.

    inputs: x (B, S, D), weights (D, Dq + Dk + Dv), optional bias, mask_index, past
    (2, B, N, P, H) and attention_bias.
    """
    if node.has_input(6, inputs):
        raise node.error("past_sequence_length is not supported")
    projected = product(inputs[0], inputs[1], builder)
    if node.has_input(2, inputs):
        projected = builder.emit(R.add(projected, inputs[2]))
    mask, past, bias = (inputs[i] if node.has_input(i, inputs) else None for i in (3, 4, 5))
    return attention_of(node, projected, mask, past, bias, builder)


def attention_of(
    node: Node,
    projected: relax.Expr,
    mask: relax.Expr | None,
    past: relax.Expr | None,
    bias: relax.Expr | None,
    builder: Builder,
) -> tuple[relax.Expr | None, ...]:
    """What follows on the projections of Attention and QAttention, (B, S, Dq + Dk + Dv)."""
    if node.int("do_rotary", 0) or node.int("past_present_share_buffer", 0):
        raise node.error("do_rotary and past_present_share_buffer are not supported")
    heads, total_width = node.int("num_heads"), shape_of(projected)[2]
    widths = node.ints("qkv_hidden_sizes", [total_width // 3] * 3)
    if sum(widths) != total_width or any(width % heads for width in widths):
        raise node.error(f"hidden sizes {widths} do not fit {heads} heads and {total_width}")
    query, key, value = (
        split_heads(part, heads, builder) for part in last_axis_parts(projected, widths, builder)
    )
    past_length: Any = 0
    if past is not None:
        past_length = shape_of(past)[3]
        key, value = (
            concat_past(_half(past, index, builder), new, builder)
            for index, new in enumerate((key, value))
        )
    biases = [bias] if bias is not None else []
    result = attended(node, query, key, value, past_length, mask, biases, builder)
    present = None
    if len(node.outputs) > 1 and node.outputs[1]:
        pair = [reshape(half, [1, *shape_of(half)], builder) for half in (key, value)]
        present = R.concat(pair, axis=0)
    return join_heads(result, builder), present


def last_axis_parts(x: relax.Expr, widths: list[int], builder: Builder) -> list[relax.Expr]:
    """Slices of the last axis."""
    axis, begin, parts = rank_of(x) - 1, 0, []
    for width in widths:
        parts.append(builder.emit(R.strided_slice(x, [axis], [begin], [begin + width])))
        begin += width
    return parts


def _half(past: relax.Expr, index: int, builder: Builder) -> relax.Expr:
    part = builder.emit(R.strided_slice(past, [0], [index], [index + 1]))
    return reshape(part, shape_of(past)[1:], builder)


def attended(
    node: Node,
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    past_length: Any,
    mask: relax.Expr | None,
    biases: Inputs,
    builder: Builder,
) -> relax.Expr:
    """The heads' results with the masks and attributes of Attention and MultiHeadAttention."""
    size = shape_of(query)[-1]
    given = node.float("scale", 0.0)
    scores = scores_of(query, key, given if given else 1.0 / math.sqrt(size), builder)
    wide = dtype_of(scores)
    batch, _, queries, keys = shape_of(scores)
    for bias in biases:
        scores = added(scores, bias, builder)
    if mask is not None:
        hidden = node.float("mask_filter_value", -10000.0)
        scores = added(
            scores, mask_bias(node, mask, batch, queries, keys, hidden, wide, builder), builder
        )
    if node.int("unidirectional", 0):
        scores = added(scores, causal_bias(queries, keys, past_length, wide, builder), builder)
    return weighted(scores, value, builder)


def mask_bias(
    node: Node,
    mask: relax.Expr,
    batch: Any,
    queries: Any,
    keys: Any,
    hidden: float,
    dtype: str,
    builder: Builder,
) -> relax.Expr:
    """What a mask adds to scores (B, N, queries, keys): `hidden` where a key is masked.

    mask: (B, keys) or (B, queries, keys) with 0 for masked keys, or (B,) with the number of keys,
    or (2 * B,) with the ends, then the begins.
    """
    dims = shape_of(mask)
    if len(dims) in (2, 3):
        wanted = [batch, keys] if len(dims) == 2 else [batch, queries, keys]
        if any(is_equal(a, b) is False for a, b in zip(dims, wanted, strict=True)):
            raise node.error(f"the mask {dims} is not {wanted}")
        mask = cast_shape(mask, wanted, builder)
        mask = reshape(mask, [batch, 1, *([1] if len(dims) == 2 else []), *wanted[1:]], builder)
    ranges = len(dims) == 1 and not is_equal(dims[0], batch)
    if len(dims) == 1:
        counts = [batch, simplify(batch * 2)]
        if not any(is_equal(dims[0], count) for count in counts):
            raise node.error(f"the mask {dims} is neither {counts[:1]} nor {counts[1:]}")
    elif len(dims) not in (2, 3):
        raise node.error(f"a mask of shape {dims} is not supported")

    def of_flags(flags: te.Tensor) -> te.Tensor:
        zero, low = tirx.const(0.0, dtype), tirx.const(hidden, dtype)
        return te.compute(
            flags.shape,
            lambda *i: tirx.Select(flags(*i) > tirx.const(0, flags.dtype), zero, low),
            name="mask_bias",
        )

    def of_counts(counts: te.Tensor, sizes: list[Any]) -> te.Tensor:
        def element(b: Any, _n: Any, _i: Any, j: Any) -> Any:
            seen = j < counts(b).astype("int64")
            if ranges:
                seen = tirx.all(seen, j >= counts(b + sizes[0]).astype("int64"))
            return tirx.Select(seen, tirx.const(0.0, dtype), tirx.const(hidden, dtype))

        return te.compute((sizes[0], 1, 1, sizes[1]), element, name="mask_bias")

    if len(dims) == 1:
        return compute(builder, "mask_bias", of_counts, mask, relax.ShapeExpr([batch, keys]))
    return compute(builder, "mask_bias", of_flags, mask)


def multi_head_attention(
    node: Node, inputs: Inputs, builder: Builder
) -> tuple[relax.Expr | None, ...]:
    """Attention of projected query, key and value; results output, present_key, present_value.

    inputs: query (B, S, D), or packed (B, S, N, 3, H); key (B, T, D), packed with value
    (B, T, N, 2, H), or (B, N, T, H); value; optional bias, key_padding_mask, attention_bias,
    past_key and past_value (B, N, P, H).
    """
    for index, name in ((8, "past_sequence_length"), (9, "cache_indirection")):
        if node.has_input(index, inputs):
            raise node.error(f"{name} is not supported")
    optional = [inputs[i] if node.has_input(i, inputs) else None for i in range(8)]
    heads = node.int("num_heads")
    query, key, value = _unpacked(node, optional[:3], heads, builder)
    if optional[3] is not None:
        query, key, value = _biased(node, [query, key, value], optional[3], builder)
    past_length: Any = 0
    if (optional[6] is None) != (optional[7] is None):
        raise node.error("past_key and past_value have to be given together")
    if optional[6] is not None and optional[7] is not None:
        past_length = shape_of(optional[6])[2]
        key = concat_past(optional[6], key, builder)
        value = concat_past(optional[7], value, builder)
    biases = [optional[5]] if optional[5] is not None else []
    result = attended(node, query, key, value, past_length, optional[4], biases, builder)
    return join_heads(result, builder), key, value


def _unpacked(
    node: Node, given: list[Any], heads: int, builder: Builder
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Query, key and value as (B, N, S, H), from each form that they come in."""
    query, key, value = given

    def packed(x: relax.Expr) -> list[relax.Expr]:
        batch, length, count, parts, size = shape_of(x)
        if count != heads:
            raise node.error(f"packed input {shape_of(x)} has {count} heads, not {heads}")
        result = []
        for index in range(parts):
            part = builder.emit(R.strided_slice(x, [3], [index], [index + 1]))
            flat = reshape(part, [batch, length, count, size], builder)
            result.append(builder.emit(R.permute_dims(flat, [0, 2, 1, 3])))
        return result

    if rank_of(query) == 5:
        if key is not None or value is not None:
            raise node.error("a packed query comes without key and value")
        parts = packed(query)
        if len(parts) != 3:
            raise node.error(f"packed query {shape_of(query)} has no 3 parts")
        return parts[0], parts[1], parts[2]
    if key is None:
        raise node.error("key is missing and the query is not packed")
    query = split_heads(query, heads, builder)
    if rank_of(key) == 5:
        parts = packed(key)
        if len(parts) != 2 or value is not None:
            raise node.error(f"packed key {shape_of(key)} comes without value, in 2 parts")
        return query, parts[0], parts[1]
    if value is None:
        raise node.error("value is missing")
    if rank_of(key) == 4:
        return query, key, value
    return query, split_heads(key, heads, builder), split_heads(value, heads, builder)


def _biased(node: Node, heads: Inputs, bias: relax.Expr, builder: Builder) -> Inputs:
    """Each of query, key and value plus its part of the bias."""
    widths = [shape_of(x)[1] * shape_of(x)[3] for x in heads]
    if shape_of(bias) != [sum(widths)]:
        raise node.error(f"bias {shape_of(bias)} is not {[sum(widths)]}")
    result = []
    for x, part in zip(heads, last_axis_parts(bias, widths, builder), strict=True):
        shaped = reshape(part, [1, shape_of(x)[1], 1, shape_of(x)[3]], builder)
        result.append(builder.emit(R.add(x, shaped)))
    return result
