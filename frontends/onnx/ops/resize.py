"""Resize and Upsample.

Which elements an output reads, and with which weights, depends on shapes alone: where these are
known it is worked out with NumPy in float64 at import, one axis at a time, and becomes a constant
table; otherwise see resize_run_time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import resize_run_time
from athanor.frontends.onnx.ops.resize_run_time import Plan
from athanor.frontends.onnx.tensors import (
    as_constant,
    cast,
    compute,
    dtype_of,
    is_float,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_COORDINATES = frozenset(
    "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric "
    "tf_half_pixel_for_nn tf_crop_and_resize".split()
)
_NEAREST = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class _Axis:
    """One resized axis: sizes, scale and the region of interest's ends."""

    axis: int
    dim: int
    size: int
    scale: float
    start: float
    end: float


def upsample(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """Scaled up with asymmetric coordinates; nearest takes the floor.

    Source: https://onnx.ai/onnx/operators/onnx__Upsample.html
    """
    scales = constant(np.array(node.floats("scales"))) if node.has("scales") else inputs[1]
    return _scaled(node, inputs[0], scales, builder)


def resize_10(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """Opset 10: scales as input 1, asymmetric coordinates; nearest takes the floor.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    return _scaled(node, inputs[0], inputs[1], builder)


def _scaled(node: Node, x: relax.Expr, given: relax.Expr, builder: Any) -> relax.Expr:
    dims = shape_of(x)
    if shape_of(given) != [len(dims)]:
        raise node.error(f"scales {shape_of(given)} for a rank-{len(dims)} input")
    scales, mode = as_constant(given), node.string("mode", "nearest")
    axes = [a for a in range(len(dims)) if scales is None or scales[a] != 1.0]
    if scales is None or any(is_symbolic(dims[a]) for a in axes):
        part = given if scales is None else constant(scales[axes])
        plan = Plan(axes, part, None, None, "stretch", mode, "asymmetric", "floor")
        _check_mode(node, mode, "floor")
        return resize_run_time.resize(node, x, plan, builder) if axes else x
    known: list[_Axis] = []
    for axis in axes:
        scale = float(scales[axis])
        known.append(_Axis(axis, dims[axis], math.floor(dims[axis] * scale), scale, 0.0, 1.0))
    return _resize(node, x, known, mode, "asymmetric", "floor", builder)


def _check_mode(node: Node, mode: str, nearest: str) -> None:
    if mode not in ("nearest", "linear", "cubic") or nearest not in _NEAREST:
        raise node.error(f"mode={mode!r} with nearest_mode={nearest!r} is not a standard mode")


def resize(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """Interpolated to new sizes: nearest, linear or cubic, with all coordinate modes.

    inputs: x, roi (tf_crop_and_resize only), scales or sizes. Attributes: antialias, axes,
    coordinate_transformation_mode, cubic_coeff_a, exclude_outside, extrapolation_value,
    keep_aspect_ratio_policy, mode, nearest_mode.
    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    x = inputs[0]
    dims = shape_of(x)
    chosen = node.normalize_axes(node.ints("axes", range(len(dims))), len(dims))
    coordinates = node.string("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        raise node.error(f"coordinate_transformation_mode={coordinates!r} is not a standard mode")
    mode = node.string("mode", "nearest")
    nearest = node.string("nearest_mode", "round_prefer_floor")
    _check_mode(node, mode, nearest)
    crops = coordinates == "tf_crop_and_resize"
    scales, sizes = (_operand(node, inputs, index) for index in (2, 3))
    given = scales if scales is not None else sizes
    if given is None or shape_of(given) != [len(chosen)]:
        raise node.error(f"scales or sizes need one value for each of the {len(chosen)} axes")
    region = inputs[1] if crops else None
    if crops and (region is None or shape_of(region) != [2 * len(chosen)]):
        raise node.error(f"roi needs two values for each of the {len(chosen)} axes")
    policy = node.string("keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise node.error(f"keep_aspect_ratio_policy={policy!r} is not a standard policy")

    values = [as_constant(operand) for operand in (given, region) if operand is not None]
    factors = as_constant(scales) if scales is not None else None
    if factors is not None and not crops:
        # what is not scaled may have any size
        kept = [index for index in range(len(chosen)) if factors[index] != 1.0]
        chosen, scales = [chosen[index] for index in kept], constant(factors[kept])
        values = [factors[kept]]
    if not chosen:
        return x
    known_values = [value for value in values if value is not None]
    if len(known_values) < len(values) or any(is_symbolic(dims[axis]) for axis in chosen):
        plan = Plan(chosen, scales, sizes, region, policy, mode, coordinates, nearest)
        return resize_run_time.resize(node, x, plan, builder)
    numbers = [float(value) for value in known_values[0]]
    ends = [0.0] * len(chosen) + [1.0] * len(chosen)
    if crops:
        ends = [float(value) for value in known_values[1]]
    known: list[_Axis] = []
    wanted = (
        _keep_aspect(policy, [dims[axis] for axis in chosen], numbers) if scales is None else []
    )
    for position, axis in enumerate(chosen):
        start, end = ends[position], ends[position + len(chosen)]
        scale = numbers[position] if scales is not None else wanted[position][1]
        size = math.floor(dims[axis] * scale * (end - start))
        if scales is None:
            size = wanted[position][0]
        if crops or size != dims[axis] or scale != 1.0:
            known.append(_Axis(axis, dims[axis], size, scale, start, end))
    return _resize(node, x, known, mode, coordinates, nearest, builder)


def _operand(node: Node, inputs: Inputs, index: int) -> relax.Expr | None:
    """An optional operand, for which an empty tensor may stand."""
    if not node.has_input(index, inputs) or shape_of(inputs[index]) == [0]:
        return None
    return inputs[index]


def _keep_aspect(policy: str, dims: list[int], sizes: list[float]) -> list[tuple[int, float]]:
    """Sizes and scales after keep_aspect_ratio_policy."""
    ratios = [size / dim if dim else 1.0 for dim, size in zip(dims, sizes, strict=True)]
    if policy == "stretch":
        return [(int(size), ratio) for size, ratio in zip(sizes, ratios, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(scale * dim + 0.5), scale) for dim in dims]


def _resize(
    node: Node,
    x: relax.Expr,
    plan: list[_Axis],
    mode: str,
    coordinates: str,
    nearest: str,
    builder: Builder,
) -> relax.Expr:
    _check_mode(node, mode, nearest)
    dtype = dtype_of(x)
    outside: list[tuple[int, np.ndarray]] = []
    for axis in plan:
        positions = _coordinates(axis, coordinates)
        if coordinates == "tf_crop_and_resize":
            outside.append((axis.axis, (positions < 0) | (positions > axis.dim - 1)))
        if mode == "nearest":
            taps = np.clip(_NEAREST[nearest](positions), 0, axis.dim - 1).astype(np.int64)
            x = _take(x, axis.axis, taps, builder)
            continue
        taps, weights = _taps(node, axis, positions, mode)
        work = dtype if is_float(x) and dtype != "float16" else "float32"
        x = _weigh(cast(x, work, builder), axis.axis, taps, weights, builder)
    for number, mask in outside:
        if mask.any():
            shape = [1] * len(shape_of(x))
            shape[number] = len(mask)
            value = scalar(node.float("extrapolation_value", 0.0), dtype_of(x))
            x = builder.emit(R.where(constant(mask.reshape(shape)), value, x))
    return cast(x, dtype, builder)


def _coordinates(axis: _Axis, mode: str) -> np.ndarray:
    """Where each output element lies in the input."""
    x = np.arange(axis.size, dtype=np.float64)
    if mode == "asymmetric":
        return x / axis.scale
    if mode == "align_corners":
        # the standard's length_resized is the unrounded scale * dim
        length = axis.scale * axis.dim
        return x * (axis.dim - 1) / (length - 1) if length != 1 else x * 0
    if mode == "tf_crop_and_resize":
        if axis.size == 1:
            return np.array([0.5 * (axis.start + axis.end) * (axis.dim - 1)])
        step = (axis.end - axis.start) * (axis.dim - 1) / (axis.size - 1)
        return axis.start * (axis.dim - 1) + x * step
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / axis.scale
    centered = (x + 0.5) / axis.scale - 0.5
    if mode == "pytorch_half_pixel" and axis.size == 1:
        return x * 0
    if mode == "half_pixel_symmetric":
        adjustment = axis.size / (axis.scale * axis.dim)
        return axis.dim / 2 * (1 - adjustment) + centered
    return centered


def _taps(
    node: Node, axis: _Axis, positions: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Input indices (size, taps) inside the axis, and their weights."""
    reach = 1 if mode == "linear" else 2
    stretch = min(axis.scale, 1.0) if node.int("antialias", 0) else 1.0
    first = math.floor(-reach / stretch) + 1
    offsets = np.arange(first, 2 - first)
    base = np.floor(positions)
    distance = np.abs((offsets[None, :] - (positions - base)[:, None]) * stretch)
    if mode == "linear":
        weights = np.clip(1 - distance, 0, 1)
    else:
        weights = _cubic(distance, node.float("cubic_coeff_a", -0.75))
    taps = (base[:, None] + offsets[None, :]).astype(np.int64)
    if node.int("exclude_outside", 0):
        weights = np.where((taps < 0) | (taps >= axis.dim), 0.0, weights)
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(taps, 0, axis.dim - 1), weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _take(x: relax.Expr, axis: int, taps: np.ndarray, builder: Builder) -> relax.Expr:
    dim = shape_of(x)[axis]
    factor = len(taps) // dim if dim else 0
    repeats = factor > 0 and np.array_equal(taps, np.arange(len(taps)) // factor)

    def kernel(data: te.Tensor, *table: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            # a whole factor needs no table, so the kernel vectorizes without gathers
            source = tirx.floordiv(i[axis], factor) if repeats else table[0](i[axis])
            return data(*i[:axis], source, *i[axis + 1 :])

        shape = (*data.shape[:axis], len(taps), *data.shape[axis + 1 :])
        return te.compute(shape, element, name="resize_nearest")

    table = [] if repeats else [constant(taps)]
    return compute(builder, "resize_nearest", kernel, x, *table)


def _weigh(
    x: relax.Expr, axis: int, taps: np.ndarray, weights: np.ndarray, builder: Builder
) -> relax.Expr:
    def kernel(data: te.Tensor, table: te.Tensor, factor: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            total: Any = None
            for tap in range(taps.shape[1]):
                source = data(*i[:axis], table(i[axis], tap), *i[axis + 1 :])
                part = source * factor(i[axis], tap)
                total = part if total is None else total + part
            return total

        shape = (*data.shape[:axis], len(taps), *data.shape[axis + 1 :])
        return te.compute(shape, element, name="resize")

    table, factor = constant(taps), constant(weights, dtype_of(x))
    return compute(builder, "resize", kernel, x, table, factor)
