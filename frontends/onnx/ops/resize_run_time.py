"""Resize where scales, sizes, the region of interest or the input's dims are known only to the run.

The same as ops/resize.py, one axis at a time; but sizes become late dimensions, and small kernels
write the tables of which elements an output reads and with which weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.loop_kernel import int64, loop, loop_kernel, store, when
from athanor.frontends.onnx.tensors import cast, compute, dtype_of, is_float, shape_of

_LARGEST = 1e15  # no size comes near it


def float64(value: float) -> Any:
    """A number in a kernel."""
    return tirx.const(value, "float64")


@dataclass(frozen=True)
class Plan:
    """What is resized, and how."""

    axes: Sequence[int]
    scales: relax.Expr | None
    """One for each axis; None where there are sizes."""
    sizes: relax.Expr | None
    region: relax.Expr | None
    """Starts, then ends, of each axis; None is all of it."""
    policy: str
    """keep_aspect_ratio_policy."""
    mode: str
    coordinates: str
    nearest: str


@dataclass(frozen=True)
class _Sizes:
    """What the first kernel finds: a tensor of scales, one of regions, and late dimensions."""

    scales: relax.Expr
    region: relax.Expr
    sizes: list[Any]
    taps: list[Any]


def resize(node: Node, x: relax.Expr, plan: Plan, builder: ImportBuilder) -> relax.Expr:
    """The input resized along each axis of the plan."""
    dtype, dims = dtype_of(x), shape_of(x)
    work = dtype if is_float(x) and dtype != "float16" else "float32"
    antialias = plan.mode != "nearest" and bool(node.int("antialias", 0))
    found = _find_sizes(node, plan, [dims[axis] for axis in plan.axes], antialias, builder)
    masks: list[tuple[int, relax.Expr]] = []
    for number, axis in enumerate(plan.axes):
        table = _table(node, plan, number, dims[axis], found, antialias, work, builder)
        taps, weights, outside = table
        if plan.mode == "nearest":
            x = _take(x, axis, taps, builder)
        else:
            x = _weigh(cast(x, work, builder), axis, taps, weights, builder)
        masks.append((axis, outside))
    if plan.coordinates == "tf_crop_and_resize":
        value = tirx.const(node.float("extrapolation_value", 0.0), dtype_of(x))
        for axis, outside in masks:
            x = _replace(x, axis, outside, value, builder)
    return cast(x, dtype, builder)


def _find_sizes(
    node: Node, plan: Plan, dims: list[Any], antialias: bool, builder: ImportBuilder
) -> _Sizes:
    count = len(dims)
    given = plan.scales if plan.scales is not None else plan.sizes
    assert given is not None, "scales or sizes"
    tensors = [cast(given, "float64", builder)]
    if plan.region is not None:
        tensors.append(cast(plan.region, "float64", builder))
    reach = 1 if plan.mode == "linear" else 2

    def body(ins: list[Any], outs: list[Any], extents: list[Any]) -> None:
        sizes, taps, scales, region, common = outs
        wanted = ins[0]
        for number in range(2 * count):
            value = ins[1][number] if len(ins) == 2 else float64(0 if number < count else 1)
            store(region, int64(number), value)
        wide = [extent.astype("float64") for extent in extents]
        if plan.scales is None and plan.policy != "stretch":
            combine = tirx.min if plan.policy == "not_larger" else tirx.max
            store(common, int64(0), wanted[0] / wide[0])
            for number in range(1, count):
                store(common, int64(0), combine(common[0], wanted[number] / wide[number]))
        for number, dim in enumerate(wide):
            at = int64(number)
            if plan.scales is not None:
                store(scales, at, wanted[number])
                length = tirx.floor(dim * wanted[number] * (region[count + number] - region[at]))
            elif plan.policy == "stretch":
                store(scales, at, wanted[number] / dim)
                length = wanted[number]
            else:
                store(scales, at, common[0])
                length = tirx.floor(common[0] * dim + float64(0.5))
            # also where something is NaN; the scale of an axis without elements is
            usable = [length >= float64(0), length < float64(_LARGEST)]
            usable += [scales[at] > float64(0), scales[at] < float64(_LARGEST)]
            valid = tirx.all(*usable)
            safe = tirx.Select(valid, length, float64(-1))
            store(sizes, at, tirx.Cast("int64", safe))
            store(taps, at, int64(2 * reach))
            if antialias:
                with when(tirx.all(valid, scales[at] > float64(1 / _LARGEST))):
                    stretch = tirx.min(scales[at], float64(1))
                    first = tirx.floor(float64(-reach) / stretch) + float64(1)
                    store(taps, at, int64(2) - 2 * tirx.Cast("int64", first))

    shapes = [([count], "int64")] * 2 + [([count], "float64"), ([2 * count], "float64")]
    shapes += [([1], "float64")]
    sizes, taps, scales, region, _ = loop_kernel(
        builder, "resize_sizes", tensors, shapes, dims, body
    )
    fixed: list[Any] = [2 * reach] * count
    widths = builder.late_dims(taps, count) if antialias else fixed
    return _Sizes(scales, region, builder.late_dims(sizes, count), list(widths))


def _table(
    node: Node,
    plan: Plan,
    number: int,
    dim: Any,
    found: _Sizes,
    antialias: bool,
    work: str,
    builder: ImportBuilder,
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Indices (size, taps), weights of that shape, and (size,) where a place is outside."""
    count, size = len(found.sizes), found.sizes[number]
    width = 1 if plan.mode == "nearest" else found.taps[number]
    exclude = bool(node.int("exclude_outside", 0))
    cubic = node.float("cubic_coeff_a", -0.75)

    def body(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (scales, region), (taps, weights, outside, exact, cell) = ins, outs
        extent, length, wide = scalars
        scale = scales[number]
        place, total, value = (int64(index) for index in range(3))
        low, high = float64(0), (extent - 1).astype("float64")
        with loop(length) as i:
            ends = (region[number], region[count + number])
            store(cell, place, _coordinate(plan.coordinates, i, scale, extent, length, ends))
            position = cell[place]
            apart = tirx.any(position < low, position > high)
            store(outside, i, apart.astype("int8"))
            if plan.mode == "nearest":
                rounded = tirx.max(tirx.min(_NEAREST[plan.nearest](position), high), low)
                store(taps, i, tirx.Cast("int64", rounded))
                return
            base = tirx.floor(position)
            stretch = tirx.min(scale, float64(1)) if antialias else float64(1)
            first = (int64(2) - wide) // 2
            store(cell, total, float64(0))
            with loop(wide) as tap:
                offset = (first + tap).astype("float64")
                store(cell, value, tirx.abs((offset - (position - base)) * stretch))
                store(exact, tap, _weight(plan.mode, cubic, cell[value]))
                source = base + offset
                if exclude:
                    with when(tirx.any(source < low, source > high)):
                        store(exact, tap, float64(0))
                store(cell, total, cell[total] + exact[tap])
                inside = tirx.max(tirx.min(source, high), low)
                store(taps, i * wide + tap, tirx.Cast("int64", inside))
            with loop(wide) as tap:
                divisor = tirx.Select(cell[total] == float64(0), float64(1), cell[total])
                store(weights, i * wide + tap, (exact[tap] / divisor).astype(work))

    shapes = [([size, width], "int64"), ([size, width], work), ([size], "int8")]
    shapes += [([width], "float64"), ([3], "float64")]
    scalars = [dim, size, width]
    inputs = [found.scales, found.region]
    taps, weights, outside, _, _ = loop_kernel(
        builder, "resize_table", inputs, shapes, scalars, body
    )
    return taps, weights, outside


def _coordinate(mode: str, index: Any, scale: Any, dim: Any, size: Any, ends: Any) -> Any:
    """Where an output element lies in the input; see _coordinates in ops/resize.py."""
    x, extent, length = (value.astype("float64") for value in (index, dim, size))
    half, one = float64(0.5), float64(1)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        whole = scale * extent
        return tirx.Select(whole == one, float64(0), x * (extent - one) / (whole - one))
    if mode == "tf_crop_and_resize":
        start, end = ends
        step = (end - start) * (extent - one) / (length - one)
        alone = half * (start + end) * (extent - one)
        return tirx.Select(size == 1, alone, start * (extent - one) + x * step)
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / scale
    centered = (x + half) / scale - half
    if mode == "pytorch_half_pixel":
        return tirx.Select(size == 1, float64(0), centered)
    if mode == "half_pixel_symmetric":
        return extent / float64(2) * (one - length / (scale * extent)) + centered
    return centered


_NEAREST = {
    "round_prefer_floor": lambda x: tirx.ceil(x - float64(0.5)),
    "round_prefer_ceil": lambda x: tirx.floor(x + float64(0.5)),
    "floor": tirx.floor,
    "ceil": tirx.ceil,
}


def _weight(mode: str, a: float, distance: Any) -> Any:
    """The weight of an element at that distance, which is not negative."""
    if mode == "linear":
        return tirx.max(float64(1) - distance, float64(0))
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    beyond = tirx.Select(distance < float64(2), far, float64(0))
    return tirx.Select(distance <= float64(1), near, beyond)


def _take(x: relax.Expr, axis: int, taps: relax.Expr, builder: ImportBuilder) -> relax.Expr:
    def kernel(data: te.Tensor, table: te.Tensor) -> te.Tensor:
        shape = (*data.shape[:axis], table.shape[0], *data.shape[axis + 1 :])
        return te.compute(
            shape,
            lambda *i: data(*i[:axis], table(i[axis], 0), *i[axis + 1 :]),
            name="resize_nearest",
        )

    return compute(builder, "resize_nearest", kernel, x, taps)


def _weigh(
    x: relax.Expr, axis: int, taps: relax.Expr, weights: relax.Expr, builder: ImportBuilder
) -> relax.Expr:
    width = shape_of(taps)[1]

    def kernel(data: te.Tensor, table: te.Tensor, factor: te.Tensor) -> te.Tensor:
        def part(i: Any, tap: Any) -> Any:
            return data(*i[:axis], table(i[axis], tap), *i[axis + 1 :]) * factor(i[axis], tap)

        every = te.reduce_axis((0, table.shape[1]), "tap")

        def element(*i: Any) -> Any:
            if is_symbolic(width):
                return te.sum(part(i, every), axis=every)
            total = part(i, 0)
            for tap in range(1, width):
                total = total + part(i, tap)
            return total

        shape = (*data.shape[:axis], table.shape[0], *data.shape[axis + 1 :])
        return te.compute(shape, element, name="resize")

    return compute(builder, "resize", kernel, x, taps, weights)


def _replace(
    x: relax.Expr, axis: int, outside: relax.Expr, value: Any, builder: ImportBuilder
) -> relax.Expr:
    """`value` where the place on the axis is outside of the input."""

    def kernel(data: te.Tensor, mask: te.Tensor) -> te.Tensor:
        return te.compute(
            data.shape,
            lambda *i: tirx.Select(mask(i[axis]) != tirx.const(0, "int8"), value, data(*i)),
            name="resize_outside",
        )

    return compute(builder, "resize_outside", kernel, x, outside)
