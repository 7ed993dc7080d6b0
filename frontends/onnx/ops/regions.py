"""Pooling over regions of interest: RoiAlign and MaxRoiPool.

How many elements a region covers is known only at run time, so the kernels are loops.
"""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from athanor.frontends.onnx.known import is_equal, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import cast, dtype_of, rank_of, shape_of

Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def roi_align(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Regions of an image cut into bins; each bin is the mean (or maximum) of bilinear samples.

    inputs: x (N, C, H, W), rois (R, 4) as x1, y1, x2, y2, batch_indices (R,). Result (R, C,
    output_height, output_width). sampling_ratio 0 takes a sample for each element of the region.
    mode "max" takes the largest weighted corner, not the largest sample, as the standard's
    reference and ONNX Runtime do.
    Source: https://onnx.ai/onnx/operators/onnx__RoiAlign.html
    """
    x, rois, batch = inputs
    mode = node.string("mode", "avg").lower()
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    coordinates = node.string("coordinate_transformation_mode", default).lower()
    if mode not in ("avg", "max") or coordinates not in ("half_pixel", "output_half_pixel"):
        raise node.error(f"mode={mode!r} with coordinates {coordinates!r} is not a standard mode")
    _check(node, x, rois, 4)
    if rank_of(batch) != 1 or is_equal(shape_of(batch)[0], shape_of(rois)[0]) is False:
        raise node.error(f"batch_indices {shape_of(batch)} for rois {shape_of(rois)}")
    size = [node.int("output_height", 1), node.int("output_width", 1)]
    ratio = node.int("sampling_ratio", 0)
    if min(size) < 1 or ratio < 0:
        raise node.error(f"output size {size}, sampling_ratio={ratio}")
    data, boxes = cast(x, "float32", builder), cast(rois, "float32", builder)
    kernel = builder.add_func(
        _roi_align_kernel(
            _kernel_dims(x, rois),
            (size[0], size[1]),
            ratio,
            node.float("spatial_scale", 1.0),
            coordinates == "half_pixel",
            mode == "max",
        ),
        "roi_align",
    )
    shape = [shape_of(rois)[0], shape_of(x)[1], *size]
    arguments = [data, boxes, cast(batch, "int64", builder)]
    call = relax.call_tir(kernel, arguments, relax.TensorType(shape, "float32"))
    return cast(builder.emit(call), dtype_of(x), builder)


def max_roi_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Regions of an image cut into bins of whole elements; each bin is its largest element.

    inputs: x (N, C, H, W), rois (R, 5) as batch index, x1, y1, x2, y2. An empty bin gives 0.
    Source: https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html
    """
    x, rois = inputs
    _check(node, x, rois, 5)
    size = node.ints("pooled_shape")
    if len(size) != 2 or min(size) < 1:
        raise node.error(f"pooled_shape={size} has to be two positive integers")
    kernel = builder.add_func(
        _max_roi_pool_kernel(
            _kernel_dims(x, rois), (size[0], size[1]), node.float("spatial_scale", 1.0)
        ),
        "max_roi_pool",
    )
    shape = [shape_of(rois)[0], shape_of(x)[1], *size]
    arguments = [cast(x, "float32", builder), cast(rois, "float32", builder)]
    call = relax.call_tir(kernel, arguments, relax.TensorType(shape, "float32"))
    return cast(builder.emit(call), dtype_of(x), builder)


def _check(node: Node, x: relax.Expr, rois: relax.Expr, columns: int) -> None:
    if dtype_of(x) not in ("float16", "float32", "bfloat16"):
        raise node.error(f"{dtype_of(x)} elements are not supported")
    if rank_of(x) != 4 or rank_of(rois) != 2 or not is_equal(shape_of(rois)[1], columns):
        raise node.error(f"rois {shape_of(rois)} for input {shape_of(x)}")
    if any(is_equal(dim, 0) for dim in shape_of(x)):
        raise node.error(f"input {shape_of(x)} has no elements")


def _kernel_dims(x: relax.Expr, rois: relax.Expr) -> tuple[Any, ...]:
    """N, C, H, W and R; variables of the kernel's own where they are symbolic."""
    dims = [*shape_of(x), shape_of(rois)[0]]
    return tuple(
        tirx.Var(name, "int64") if is_symbolic(dim) else tirx.IntImm("int64", dim)
        for name, dim in zip("nchwr", dims, strict=True)
    )


def _number(value: float) -> Any:
    return tirx.const(value, "float32")


def _roi_align_kernel(
    dims: tuple[Any, ...],
    size: tuple[int, int],
    ratio: int,
    scale: float,
    half_pixel: bool,
    largest: bool,
) -> tirx.PrimFunc:
    images, channels, height, width, regions = dims
    rows, columns = size
    shift = _number(0.5 if half_pixel else 0.0)

    def start(boxes: Any, region: Any, axis: int) -> Any:
        return boxes[region, 1 - axis] * _number(scale) - shift

    def extent(boxes: Any, region: Any, axis: int) -> Any:
        span = boxes[region, 3 - axis] * _number(scale) - shift - start(boxes, region, axis)
        return span if half_pixel else tirx.max(span, _number(1))

    def samples(boxes: Any, region: Any, axis: int) -> Any:
        if ratio:
            return tirx.IntImm("int64", ratio)
        count = tirx.ceil(extent(boxes, region, axis) / _number(size[axis]))
        # 2**20 elements are more than any image has: keeps NaN and infinity from becoming a hang
        count = tirx.min(tirx.max(count, _number(0)), _number(1 << 20))
        return count.astype("int64")

    def position(boxes: Any, region: Any, axis: int, place: Any, sample: Any) -> Any:
        bin_size = extent(boxes, region, axis) / _number(size[axis])
        inside = (sample.astype("float32") + _number(0.5)) * bin_size
        inside = inside / samples(boxes, region, axis).astype("float32")
        return start(boxes, region, axis) + place.astype("float32") * bin_size + inside

    def image(batch: Any, region: Any) -> Any:
        return tirx.max(tirx.min(batch[region], images - 1), tirx.IntImm("int64", 0))

    def sampled(data: Any, n: Any, c: Any, y: Any, x: Any) -> Any:
        """The bilinear sample at (y, x); 0 further than one element outside, and at NaN."""
        near = tirx.all(
            y >= _number(-1),
            x >= _number(-1),
            y <= height.astype("float32"),
            x <= width.astype("float32"),
        )
        axes = []
        for at, dim in ((y, height), (x, width)):
            last = dim - 1
            at = tirx.min(tirx.max(at, _number(0)), last.astype("float32"))
            low = tirx.max(tirx.min(at.astype("int64"), last), tirx.IntImm("int64", 0))
            rest = at - low.astype("float32")
            axes.append(((low, _number(1) - rest), (tirx.min(low + 1, last), rest)))
        parts = [data[n, c, row, col] * (v * w) for row, v in axes[0] for col, w in axes[1]]
        total = parts[0]
        for part in parts[1:]:
            total = tirx.max(total, part) if largest else total + part
        return tirx.Select(near, total, _number(0))

    def first(boxes: Any, region: Any) -> Any:
        """What a bin starts from: the lowest number, or 0 where it takes no sample."""
        if not largest:
            return _number(0)
        count = samples(boxes, region, 0) * samples(boxes, region, 1)
        return tirx.Select(count > 0, tirx.min_value("float32"), _number(0))

    def combine(total: Any, value: Any) -> Any:
        return tirx.max(total, value) if largest else total + value

    def final(total: Any, boxes: Any, region: Any) -> Any:
        if largest:
            return total
        count = samples(boxes, region, 0) * samples(boxes, region, 1)
        return total / tirx.max(count, tirx.IntImm("int64", 1)).astype("float32")

    @T.prim_func(private=True, s_tir=True)
    def roi_align_kernel(
        X: T.Buffer((images, channels, height, width), "float32"),
        B: T.Buffer((regions, 4), "float32"),
        N: T.Buffer((regions,), "int64"),
        Y: T.Buffer((regions, channels, rows, columns), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            for r in T.parallel(regions):
                for c, i, j in T.grid(channels, rows, columns):
                    Y[r, c, i, j] = first(B, r)
                    for p in T.serial(samples(B, r, 0)):
                        for q in T.serial(samples(B, r, 1)):
                            Y[r, c, i, j] = combine(
                                Y[r, c, i, j],
                                sampled(
                                    X,
                                    image(N, r),
                                    c,
                                    position(B, r, 0, i, p),
                                    position(B, r, 1, j, q),
                                ),
                            )
                    Y[r, c, i, j] = final(Y[r, c, i, j], B, r)

    return roi_align_kernel


def _max_roi_pool_kernel(
    dims: tuple[Any, ...], size: tuple[int, int], scale: float
) -> tirx.PrimFunc:
    images, channels, height, width, regions = dims
    rows, columns = size

    def corner(boxes: Any, region: Any, column: int) -> Any:
        """A corner in whole elements; bounded, so that later sums do not overflow."""
        value = boxes[region, column] * _number(scale)
        half = _number(0.5)  # halves go away from zero
        value = tirx.Select(value < _number(0), tirx.ceil(value - half), tirx.floor(value + half))
        bound = _number(1 << 20)
        return tirx.min(tirx.max(value, -bound), bound).astype("int64")

    def edge(boxes: Any, region: Any, axis: int, place: Any, end: int) -> Any:
        """The first element of bin `place` along an axis, or the one after its last."""
        begin = corner(boxes, region, 2 - axis)
        span = tirx.max(corner(boxes, region, 4 - axis) - begin + 1, tirx.IntImm("int64", 1))
        exact = (place + end) * span  # in units of 1 / size
        whole = tirx.floordiv(exact + (size[axis] - 1) * end, size[axis])
        return tirx.max(tirx.min(whole + begin, (height, width)[axis]), tirx.IntImm("int64", 0))

    def count(boxes: Any, region: Any, axis: int, place: Any) -> Any:
        span = edge(boxes, region, axis, place, 1) - edge(boxes, region, axis, place, 0)
        return tirx.max(span, tirx.IntImm("int64", 0))

    def first(boxes: Any, region: Any, i: Any, j: Any) -> Any:
        some = tirx.all(count(boxes, region, 0, i) > 0, count(boxes, region, 1, j) > 0)
        return tirx.Select(some, tirx.min_value("float32"), _number(0))

    def image(boxes: Any, region: Any) -> Any:
        number = tirx.min(tirx.max(boxes[region, 0], _number(0)), (images - 1).astype("float32"))
        return number.astype("int64")

    @T.prim_func(private=True, s_tir=True)
    def max_roi_pool_kernel(
        X: T.Buffer((images, channels, height, width), "float32"),
        B: T.Buffer((regions, 5), "float32"),
        Y: T.Buffer((regions, channels, rows, columns), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            for r in T.parallel(regions):
                for c, i, j in T.grid(channels, rows, columns):
                    Y[r, c, i, j] = first(B, r, i, j)
                    for p in T.serial(count(B, r, 0, i)):
                        for q in T.serial(count(B, r, 1, j)):
                            Y[r, c, i, j] = tirx.max(
                                Y[r, c, i, j],
                                X[image(B, r), c, edge(B, r, 0, i, 0) + p, edge(B, r, 1, j, 0) + q],
                            )

    return max_roi_pool_kernel
