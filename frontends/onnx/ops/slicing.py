"""Taking and joining parts: Slice, Split, Tile, Expand, Pad."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import (
    is_equal,
    is_nonnegative,
    is_symbolic,
    simplify,
    text_of,
    truncated_quotient,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import broadcast_shape
from athanor.frontends.onnx.tensors import compute, dtype_of, rank_of, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def slice_attributes(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Opset 9 and older: starts, ends and axes are attributes, every step is 1.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    starts, ends = node.ints("starts"), node.ints("ends")
    axes = node.ints("axes", range(len(starts)))
    return take_slices(node, inputs[0], starts, ends, axes, [1] * len(starts), builder)


def slice_inputs(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x[start:end:step]` on each of `axes`; ends past the tensor are cut, steps may be negative.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    starts, ends = node.elements(1, "starts"), node.elements(2, "ends")
    axes = list(range(len(starts)))
    if node.has_input(3, inputs):
        axes = [int(axis) for axis in node.constant(3, "axes").reshape(-1)]
    steps = [1] * len(starts)
    if node.has_input(4, inputs):
        steps = [int(step) for step in node.constant(4, "steps").reshape(-1)]
    return take_slices(node, inputs[0], starts, ends, axes, steps, builder)


def take_slices(
    node: Node,
    x: relax.Expr,
    starts: list[Any],
    ends: list[Any],
    axes: list[int],
    steps: list[int],
    builder: Builder,
) -> relax.Expr:
    """Emit the slice; bounds may be symbolic."""
    dims = shape_of(x)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise node.error(
            f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps"
        )
    first: list[Any] = [0] * len(dims)
    stride = [1] * len(dims)
    result = list(dims)
    for axis, start, end, step in zip(
        node.normalize_axes(axes, len(dims)), starts, ends, steps, strict=True
    ):
        if step == 0:
            raise node.error(f"step 0 on axis {axis}")
        first[axis], result[axis] = slice_bounds(dims[axis], start, end, step)
        stride[axis] = step
    unchanged = [
        b == 0 and s == 1 and not is_symbolic(b) and _same(r, d)
        for b, s, r, d in zip(first, stride, result, dims, strict=True)
    ]
    if all(unchanged):
        return x
    if all(not is_symbolic(v) for v in (*first, *result, *dims)) and min(stride) > 0:
        changed = [axis for axis, same in enumerate(unchanged) if not same]
        last = [first[a] + max(result[a] - 1, 0) * stride[a] + 1 for a in changed]
        last = [first[a] if result[a] == 0 else e for a, e in zip(changed, last, strict=True)]
        return R.strided_slice(
            x, changed, [first[a] for a in changed], last, [stride[a] for a in changed]
        )

    def kernel(data: te.Tensor, begin: list[Any], shape: list[Any]) -> te.Tensor:
        def element(*indices: Any) -> Any:
            return data(*(b + i * s for b, i, s in zip(begin, indices, stride, strict=True)))

        return te.compute(tuple(shape), element, name="slice")

    return compute(builder, "slice", kernel, x, relax.ShapeExpr(first), relax.ShapeExpr(result))


def slice_bounds(dim: Any, start: Any, end: Any, step: int) -> tuple[Any, Any]:
    """First index and element count of `start:end:step` on a dimension, after clamping."""
    low, high = (0, dim) if step > 0 else (-1, simplify(dim - 1))
    begin = _clamp(_from_front(start, dim), 0, high)
    stop = _clamp(_from_front(end, dim), low, high)
    span = simplify(stop - begin) if step > 0 else simplify(begin - stop)
    size = abs(step)
    if not is_symbolic(span):
        return begin, max(-(-span // size), 0)
    if not is_nonnegative(span):
        span = tirx.max(span, tirx.IntImm("int64", 0))
    count = span if size == 1 else truncated_quotient(simplify(span + size - 1), size)
    return begin, count


def _from_front(bound: Any, dim: Any) -> Any:
    if is_symbolic(bound):
        return bound if is_nonnegative(bound) else _negative_or_not(bound, dim)
    return simplify(bound + dim) if bound < 0 else bound


def _negative_or_not(bound: Any, dim: Any) -> Any:
    if is_nonnegative(simplify(-1 - bound)):
        return simplify(bound + dim)
    return tirx.Select(bound < 0, bound + dim, bound)


def _clamp(value: Any, low: Any, high: Any) -> Any:
    """`min(max(value, low), high)`, written without min and max where provable."""
    if not any(is_symbolic(v) for v in (value, low, high)):
        return min(max(value, low), high)
    if not is_symbolic(value) and value >= 1 << 30:
        return high  # exporters write INT_MAX or LLONG_MAX for "to the end"
    if not is_nonnegative(simplify(value - low)):
        value = tirx.max(_imm(value), _imm(low))
    if not is_nonnegative(simplify(high - value)):
        value = tirx.min(_imm(value), _imm(high))
    return simplify(value)


def _imm(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _same(left: Any, right: Any) -> bool:
    difference = simplify(left - right)
    return not is_symbolic(difference) and difference == 0


def split(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr, ...]:
    """Consecutive parts along `axis`: of the given sizes, or as equal as possible.

    Sizes come from the attribute `split` (opset 12 and older) or input 1; num_outputs
    (opset 18) makes all parts ceil(dim / num_outputs) but the last.
    Source: https://onnx.ai/onnx/operators/onnx__Split.html
    """
    x = inputs[0]
    dims = shape_of(x)
    axis = node.axis("axis", len(dims), 0)
    dim, count = dims[axis], len(node.outputs)
    sizes: list[Any]
    if node.has("split"):
        sizes = node.ints("split")
    elif node.has_input(1, inputs):
        sizes = node.elements(1, "split")
    else:
        count = node.int("num_outputs", count)
        if node.opset < 18 and not is_symbolic(dim) and dim % count:
            raise node.error(f"dimension {dim} is not divisible into {count} equal parts")
        part = -(-dim // count) if not is_symbolic(dim) else simplify((dim + count - 1) // count)
        last = simplify(dim - part * (count - 1))
        if is_symbolic(last):
            fits = last >= 0 if node.opset >= 18 else tirx.EQ(last, part)
            builder.require(fits, f"{text_of(dim)} has to be divisible into {count} parts")
        sizes = [part] * (count - 1) + [last]
    total = simplify(sum(sizes[1:], sizes[0]))
    if any(not is_symbolic(s) and s < 0 for s in sizes) or (
        not is_symbolic(total) and not is_symbolic(dim) and total != dim
    ):
        raise node.error(f"split={sizes} does not add up to dimension {dim} of axis {axis}")
    if len(node.outputs) > len(sizes):
        raise node.error(f"{len(node.outputs)} outputs for split={sizes}")
    builder.require_equal(total, dim)
    parts, start = [], 0
    for size in sizes[: len(node.outputs)]:
        end = simplify(start + size)
        parts.append(take_slices(node, x, [start], [end], [axis], [1], builder))
        start = end
    return tuple(parts)


def expand(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Broadcast to the given shape; dims of size 1 in the shape keep the input's.

    Source: https://onnx.ai/onnx/operators/onnx__Expand.html
    """
    wanted = node.elements(1, "shape")
    have = shape_of(inputs[0])
    result = broadcast_shape([have, wanted])
    for dim, full in zip(reversed(have), reversed(result), strict=False):
        if not is_symbolic(dim) and dim != 1 and not is_symbolic(full) and dim != full:
            raise node.error(f"input {have} can't be broadcast to {wanted}")
    for part in (have, wanted):
        for dim, full in zip(reversed(part), reversed(result), strict=False):
            if is_equal(dim, full) or (not is_symbolic(dim) and dim == 1):
                continue
            fits = tirx.any(tirx.EQ(_imm(dim), _imm(1)), tirx.EQ(_imm(dim), _imm(full)))
            builder.require(fits, f"{text_of(dim)} has to be 1 or {text_of(full)}")
    if len(result) == len(have) and all(_same(a, b) for a, b in zip(result, have, strict=True)):
        return inputs[0]
    return broadcast(inputs[0], result, builder)


def broadcast(x: relax.Expr, result: list[Any], builder: Builder) -> relax.Expr:
    """`x` with the dims of `result`, each of them its own, or anything where its own is 1."""
    have = shape_of(x)
    last = list(zip(have, result[len(result) - len(have) :], strict=True))
    if all(is_equal(dim, full) or not is_symbolic(dim) for dim, full in last):
        return R.broadcast_to(x, relax.ShapeExpr(result))

    def kernel(data: te.Tensor, shape: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            places = i[len(shape) - len(have) :]
            return data(
                *(tirx.Select(d == 1, _imm(0), p) for d, p in zip(data.shape, places, strict=True))
            )

        return te.compute(tuple(shape), element, name="expand")

    return compute(builder, "expand", kernel, x, relax.ShapeExpr(result))


def tile(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The input repeated along each axis.

    Source: https://onnx.ai/onnx/operators/onnx__Tile.html
    """
    x = inputs[0]
    repeats = node.elements(1, "repeats")
    dims = shape_of(x)
    if len(repeats) != len(dims):
        raise node.error(f"repeats={repeats} for a rank-{len(dims)} input")
    result = [simplify(dim * count) for dim, count in zip(dims, repeats, strict=True)]

    def kernel(data: te.Tensor, shape: list[Any]) -> te.Tensor:
        def element(*indices: Any) -> Any:
            return data(*(tirx.floormod(i, d) for i, d in zip(indices, data.shape, strict=True)))

        return te.compute(tuple(shape), element, name="tile")

    return compute(builder, "tile", kernel, x, relax.ShapeExpr(result))


def pad_attributes(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Opset 10 and older: pads and value are attributes.

    Source: https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    fill = tirx.const(node.float("value", 0.0), dtype_of(inputs[0]))
    return _pad(node, inputs[0], node.ints("pads"), lambda: fill, None, builder)


def pad_inputs(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Grown (or cut, where pads are negative) at both ends of each of `axes`.

    Modes: constant, edge, reflect, wrap (opset 19).
    Source: https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    x = inputs[0]
    rank = rank_of(x)
    pads = node.elements(1, "pads")
    if node.has_input(3, inputs):
        axes = node.normalize_axes(node.constant(3, "axes").reshape(-1).tolist(), rank)
        if len(pads) != 2 * len(axes):
            raise node.error(f"{len(pads)} pads for {len(axes)} axes")
        full: list[Any] = [0] * (2 * rank)
        for position, axis in enumerate(axes):
            full[axis], full[axis + rank] = pads[position], pads[position + len(axes)]
        pads = full
    fill = inputs[2] if node.has_input(2, inputs) else None
    return _pad(node, x, pads, None, fill, builder)


def _pad(
    node: Node, x: relax.Expr, pads: list[Any], zero: Any, fill: relax.Expr | None, builder: Builder
) -> relax.Expr:
    dims = shape_of(x)
    rank = len(dims)
    mode = node.string("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise node.error(f"mode={mode!r} is none of the standard's modes")
    if len(pads) != 2 * rank:
        raise node.error(f"{len(pads)} pads for a rank-{rank} input")
    result = [simplify(dim + pads[axis] + pads[axis + rank]) for axis, dim in enumerate(dims)]
    if any(not is_symbolic(dim) and dim < 0 for dim in result):
        raise node.error(f"pads={pads} cut more than input {dims} has")
    if mode != "constant" and any(not is_symbolic(d) and d == 0 for d in dims):
        raise node.error(f"mode={mode!r} on the empty input {dims}")
    padded = [a for a in range(rank) if not _zero(pads[a]) or not _zero(pads[a + rank])]

    def kernel(data: te.Tensor, begin: list[Any], shape: list[Any], *value: te.Tensor) -> Any:
        def element(*indices: Any) -> Any:
            source, inside = list(indices), []
            for axis in padded:
                position = indices[axis] - begin[axis]
                extent = data.shape[axis]
                inside += [position >= 0, position < extent]
                source[axis] = padded_source(mode, position, extent)
            if mode != "constant" or not padded:
                return data(*source)
            other = tirx.const(0, data.dtype) if zero is None else zero()
            if value:
                scalar_value = value[0]
                other = scalar_value(*([0] * len(scalar_value.shape)))
            return tirx.if_then_else(tirx.all(*inside), data(*source), other)

        return te.compute(tuple(shape), element, name="pad")

    begin = relax.ShapeExpr(pads[:rank])
    values = [] if fill is None else [fill]
    return compute(builder, "pad", kernel, x, begin, relax.ShapeExpr(result), *values)


def _zero(value: Any) -> bool:
    return not is_symbolic(value) and value == 0


def padded_source(mode: str, position: Any, extent: Any) -> Any:
    """Where a padded position reads."""
    if mode == "constant":
        return position
    if mode == "edge":
        return tirx.max(tirx.min(position, extent - 1), tirx.const(0, position.ty.dtype))
    if mode == "wrap":
        return tirx.floormod(position, extent)
    # reflect: period 2 * (extent - 1), mirrored in the second half
    period = tirx.max(2 * extent - 2, tirx.const(1, "int64"))
    phase = tirx.floormod(position, period)
    return tirx.min(phase, period - phase) if not _is_one(extent) else phase * 0


def _is_one(extent: Any) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent) == 1
