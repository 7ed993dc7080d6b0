"""Reading an image at the real-valued positions of a grid: GridSample and AffineGrid."""

from __future__ import annotations

from itertools import product
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_equal, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    compute,
    dtype_of,
    is_float,
    rank_of,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_MODES = {"nearest": 1, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}  # taps of one axis
_CUBIC = -0.75


def grid_sample(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y[n, c, i...] = x[n, c, position(grid[n, i...])]`, interpolated.

    inputs: x (N, C, spatial...), grid (N, spatial of y..., rank) of coordinates in [-1, 1], the
    last spatial axis first. Attributes: align_corners, mode, padding_mode.
    A NaN coordinate reads far outside.
    Source: https://onnx.ai/onnx/operators/onnx__GridSample.html
    """
    x, grid = inputs
    rank = rank_of(x) - 2
    if rank < 1 or rank_of(grid) != rank + 2 or not is_equal(shape_of(grid)[-1], rank):
        raise node.error(f"grid {shape_of(grid)} does not fit input {shape_of(x)}")
    if is_equal(shape_of(x)[0], shape_of(grid)[0]) is False:
        raise node.error(f"grid {shape_of(grid)} has another batch size than {shape_of(x)}")
    if any(is_equal(dim, 0) for dim in shape_of(x)[2:]):
        raise node.error(f"input {shape_of(x)} has no elements to sample")
    mode = node.string("mode", "linear" if node.opset >= 20 else "bilinear")
    padding = node.string("padding_mode", "zeros")
    if mode not in _MODES or padding not in ("zeros", "border", "reflection"):
        raise node.error(f"mode={mode!r} with padding_mode={padding!r} is not a standard mode")
    taps = _MODES[mode]
    if taps > 1 and not is_float(x):
        raise node.error(f"mode={mode!r} on {dtype_of(x)} elements")
    corners = bool(node.int("align_corners", 0))
    work = accumulation_dtype(dtype_of(grid))

    dims = shape_of(x)[2:]

    def locate(where: te.Tensor, extents: list[Any]) -> list[te.Tensor]:
        def position(n: Any, *place: Any) -> Any:
            result: Any = None
            for number, dim in enumerate(extents):
                # the grid's coordinates run from the last axis to the first
                value = where(n, *place[:-1], rank - 1 - number).astype(work)
                value = _position(value, dim.astype(work), corners, padding, taps)
                result = (
                    value if result is None else tirx.Select(place[-1] == number, value, result)
                )
            return result

        exact = te.compute((*where.shape[:-1], rank), position, name="grid_position")
        base = te.compute(exact.shape, lambda *i: tirx.floor(exact(*i)).astype("int64"))
        fraction = te.compute(exact.shape, lambda *i: exact(*i) - tirx.floor(exact(*i)))
        return [base, fraction]

    both = compute(builder, "grid_position", locate, grid, relax.ShapeExpr(dims))
    base, fraction = (builder.emit(relax.TupleGetItem(both, i)) for i in range(2))

    def kernel(data: te.Tensor, first: te.Tensor, rest: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, *place: Any) -> Any:
            axes = []
            for number, dim in enumerate(data.shape[2:]):
                at = (n, *place, number)
                axes.append(_taps(first(*at), rest(*at), dim, taps, corners, padding))
            total: Any = None
            for chosen in product(*axes):
                value = data(n, c, *[index for index, _, _ in chosen])
                if taps > 1:
                    value = value.astype(work)
                if padding == "zeros":
                    inside = tirx.all(*[valid for _, _, valid in chosen])
                    value = tirx.Select(inside, value, tirx.const(0, value.ty.dtype))
                if taps > 1:
                    for _, weight, _ in chosen:
                        value = value * weight
                total = value if total is None else total + value
            return total.astype(data.dtype)

        return te.compute((*data.shape[:2], *first.shape[1:-1]), element, name="grid_sample")

    return compute(builder, "grid_sample", kernel, x, base, fraction)


def _position(value: Any, dim: Any, corners: bool, padding: str, taps: int) -> Any:
    """The position along an axis of `dim` elements, after what padding does to positions."""
    dtype = value.ty.dtype
    zero, one, two = (tirx.const(number, dtype) for number in (0, 1, 2))
    last = dim - one
    value = (value + one) * last / two if corners else ((value + one) * dim - one) / two
    if taps == 1:
        value = tirx.nearbyint(value)
    if padding == "border" and taps < 4:
        # Cubic taps are clamped one by one, as PyTorch and ONNX Runtime do it (the onnx reference
        # clamps the position).
        value = tirx.max(tirx.min(value, last), zero)
    elif padding == "reflection":
        # ends at the outer elements' centres, or half an element further out
        begin = zero if corners else tirx.const(-0.5, dtype)
        period = tirx.max(last if corners else dim, tirx.const(1e-30, dtype)) * two
        beyond = value - begin
        beyond = beyond - tirx.floor(beyond / period) * period
        value = tirx.min(tirx.min(beyond, period - beyond) + begin, last + one)
    # four elements outside are as good as infinitely many; and max first: it turns NaN into -4
    return tirx.min(tirx.max(value, tirx.const(-4, dtype)), dim + tirx.const(4, dtype))


def _taps(
    base: Any, fraction: Any, dim: Any, taps: int, corners: bool, padding: str
) -> list[tuple[Any, Any, Any]]:
    """For each tap of one axis: an index inside the axis, its weight, whether it was inside."""
    zero = tirx.const(0, "int64")
    weights = _cubic(fraction) if taps == 4 else [1 - fraction, fraction]
    result = []
    for tap in range(taps):
        index = base + (tap - 1 if taps == 4 else tap)
        inside = tirx.all(index >= 0, index < dim)
        if padding == "reflection" and corners:
            period = tirx.max(2 * dim - 2, tirx.const(1, "int64"))
            around = tirx.floormod(index, period)
            index = tirx.min(around, period - around)
        elif padding == "reflection":
            around = tirx.floormod(index, 2 * dim)
            index = tirx.min(around, 2 * dim - 1 - around)
        result.append((tirx.max(tirx.min(index, dim - 1), zero), weights[tap], inside))
    return result


def _cubic(fraction: Any) -> list[Any]:
    """Keys' weights of the four elements around a position."""

    def number(value: float) -> Any:
        return tirx.const(value, fraction.ty.dtype)

    def near(x: Any) -> Any:
        return (number(_CUBIC + 2) * x - number(_CUBIC + 3)) * x * x + number(1)

    def far(x: Any) -> Any:
        a = _CUBIC
        return ((number(a) * x - number(5 * a)) * x + number(8 * a)) * x - number(4 * a)

    one = number(1)
    rest = one - fraction
    return [far(fraction + one), near(fraction), near(rest), far(rest + one)]


def affine_grid(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The grid for GridSample that reads an image through affine maps.

    inputs: theta (N, rank, rank + 1), size (N, C, spatial...); the result is
    (N, spatial..., rank), the last spatial axis first.
    Source: https://onnx.ai/onnx/operators/onnx__AffineGrid.html
    """
    theta = inputs[0]
    size = node.elements(1, "size")
    rank = len(size) - 2
    if rank not in (2, 3) or shape_of(theta)[1:] != [rank, rank + 1]:
        raise node.error(f"theta {shape_of(theta)} does not fit size {size}")
    corners = bool(node.int("align_corners", 0))
    work = accumulation_dtype(dtype_of(theta))
    # machines have vector instructions that make floats of 32-bit numbers (92 -> 22 us for 224x224)
    short = all(not is_symbolic(dim) and dim < 1 << 30 for dim in size[2:])
    places = "int32" if short else "int64"

    def coordinate(index: Any, count: Any) -> Any:
        """From -1 to 1: of the elements' centres, or of the corner elements' outer edges."""
        one = tirx.const(1, work)
        if corners:
            last = tirx.max(count - 1, tirx.const(1, "int64")).astype(work)
            return tirx.Select(
                count == 1, tirx.const(0, work), (2 * index).astype(work) / last - one
            )
        return (2 * index + 1).astype(work) / count.astype(work) - one

    def kernel(matrix: te.Tensor, dims: list[Any]) -> te.Tensor:
        def element(n: Any, *place: Any) -> Any:
            row = place[-1]
            total = matrix(n, row, rank).astype(work)
            for column in range(rank):
                axis = rank - 1 - column
                step = coordinate(place[axis].astype(places), dims[axis])
                total = total + matrix(n, row, column).astype(work) * step
            return total.astype(matrix.dtype)

        return te.compute((matrix.shape[0], *dims, rank), element, name="affine_grid")

    return compute(builder, "affine_grid", kernel, theta, relax.ShapeExpr(size[2:]))
