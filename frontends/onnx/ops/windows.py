"""Windows over an image: the attributes that convolutions and pooling share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import compute, rank_of, shape_of

_SAME = ("SAME_UPPER", "SAME_LOWER")


class Windows:
    """The window attributes of a node, resolved for the spatial dims of its input.

    `begins` and `ends` are the pads of each axis, `counts` the windows along it: integers, or
    expressions where the dims are symbolic and auto_pad or ceil_mode makes them depend on the dims.
    `ends` reach as far as the last window does: with ceil_mode by `past` more than the pads.

    Raises CompileError for attributes that don't fit and for windows larger than a padded image.
    """

    def __init__(self, node: Node, dims: Sequence[Any], kernel: Sequence[int]) -> None:
        self.dims, self.kernel, self.rank = list(dims), list(kernel), len(kernel)
        if len(dims) != self.rank or any(size < 1 for size in kernel):
            raise node.error(f"kernel_shape={kernel} has to be {len(dims)} positive integers")
        self.strides = positive(node, "strides", self.rank)
        self.dilations = positive(node, "dilations", self.rank)
        self.reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        self.begins: list[Any] = [0] * self.rank
        self.ends: list[Any] = [0] * self.rank
        self.past: list[Any] = [0] * self.rank
        self.counts: list[Any] = [0] * self.rank
        mode = node.string("auto_pad", "NOTSET") or "NOTSET"
        if mode in _SAME:
            for axis in range(self.rank):
                self._pad_to_same(axis, mode)
        elif mode in ("NOTSET", "VALID"):
            pads = node.ints("pads", [0] * (2 * self.rank)) if mode == "NOTSET" else []
            if pads and len(pads) != 2 * self.rank:
                raise node.error(f"pads={pads} has to be {2 * self.rank} integers")
            for axis in range(self.rank):
                begin, end = (pads[axis], pads[axis + self.rank]) if pads else (0, 0)
                self._pad(axis, begin, end, ceil=bool(node.int("ceil_mode", 0)))
        else:
            raise node.error(f"auto_pad={mode!r} is not one of the standard's modes")
        self._check(node)

    def _pad_to_same(self, axis: int, mode: str) -> None:
        """Pads for ceil(dim / stride) windows; the odd one at the end, or at the beginning."""
        dim, stride, reach = self.dims[axis], self.strides[axis], self.reach[axis]
        count = (dim + stride - 1) // stride
        missing = (count - 1) * stride + reach - dim
        if stride == 1 or reach == 1:
            total: Any = reach - 1
        else:  # a reach of at least the stride never ends before the image does
            total = missing if reach >= stride else _greatest(missing, 0)
        small = simplify(total // 2)
        large = simplify(total - small)
        self.begins[axis], self.ends[axis] = (small, large) if mode == _SAME[0] else (large, small)
        self.counts[axis] = simplify(count)

    def _pad(self, axis: int, begin: int, end: int, ceil: bool) -> None:
        dim, stride, reach = self.dims[axis], self.strides[axis], self.reach[axis]
        room = dim + begin + end - reach
        count = room // stride + 1
        if ceil and stride > 1:
            # A window that would start in the end pad does not count.
            most = (dim + begin - 1) // stride + 1
            count = -_greatest(-((room + stride - 1) // stride + 1), -most)
            self.past[axis] = simplify(_greatest((count - 1) * stride - room, 0))
        self.begins[axis], self.ends[axis] = begin, simplify(end + self.past[axis])
        self.counts[axis] = simplify(count)

    def _check(self, node: Node) -> None:
        for axis, count in enumerate(self.counts):
            if not is_symbolic(count) and count < 0:
                size = self.dims[axis] + self.begins[axis] + self.ends[axis]
                raise node.error(
                    f"the window spans {self.reach[axis]} elements of axis {axis + 2}, which has "
                    f"{size} with its pads"
                )

    @property
    def pads(self) -> list[Any]:
        """Begins, then ends, as the standard and Relax have them."""
        return self.begins + self.ends

    @property
    def is_fixed(self) -> bool:
        """Whether the pads are known, as Relax's operators want them."""
        return not any(is_symbolic(pad) for pad in self.pads)

    def source(self, data: te.Tensor, place: Sequence[Any], taps: Sequence[Any]) -> Any:
        """Where a window at `place` reads for `taps`, and whether that is inside the image."""
        source, inside = [], []
        for axis, (position, tap) in enumerate(zip(place, taps, strict=True)):
            index = position * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]
            inside += [index >= 0, index < data.shape[axis + 2]]
            source.append(index)
        return source, tirx.all(*inside)

    def compute(
        self,
        builder: relax.BlockBuilder,
        name: str,
        function: Callable[[te.Tensor, Windows], Any],
        x: relax.Expr,
    ) -> relax.Expr:
        """Emit the kernel `function(data, windows)`, whose windows have the kernel's own sizes."""
        parts = ("begins", "ends", "past", "counts")
        sizes = [size for part in parts for size in getattr(self, part) if is_symbolic(size)]

        def kernel(data: te.Tensor, given: Sequence[Any]) -> Any:
            own, values = copy.copy(self), iter(given)
            own.dims = list(data.shape[2:])
            for part in parts:
                of_part = [next(values) if is_symbolic(s) else s for s in getattr(self, part)]
                setattr(own, part, of_part)
            return function(data, own)

        return compute(builder, name, kernel, x, relax.ShapeExpr(sizes))

    def padded(self, x: relax.Expr, builder: relax.BlockBuilder) -> relax.Expr:
        """`x` (N, C, spatial...) with zeros for its pads."""

        def pad(data: te.Tensor, windows: Windows) -> te.Tensor:
            def element(n: Any, c: Any, *place: Any) -> Any:
                inner = [p - begin for p, begin in zip(place, windows.begins, strict=True)]
                inside = [i >= 0 for i in inner]
                inside += [i < dim for i, dim in zip(inner, windows.dims, strict=True)]
                zero = tirx.const(0, data.dtype)
                return tirx.if_then_else(tirx.all(*inside), data(n, c, *inner), zero)

            sizes = zip(windows.dims, windows.begins, windows.ends, strict=True)
            shape = (*data.shape[:2], *(dim + begin + end for dim, begin, end in sizes))
            return te.compute(shape, element, name="pad")

        return self.compute(builder, "pad", pad, x)


def pool_windows(node: Node, x: relax.Expr) -> Windows:
    """The windows of a pooling node; CompileError where there is nothing to pool."""
    spatial_rank(node, x)
    pool = Windows(node, shape_of(x)[2:], node.ints("kernel_shape"))
    if 0 in pool.dims and 0 not in (*shape_of(x)[:2], *pool.counts):
        raise node.error(f"the input {shape_of(x)} has no elements for its windows")
    return pool


def spatial_rank(node: Node, x: relax.Expr) -> int:
    """How many spatial dims `x` has; CompileError unless 1, 2 or 3."""
    rank = rank_of(x) - 2
    if rank not in (1, 2, 3):
        raise node.error(f"{rank} spatial dimensions; 1, 2 and 3 are supported")
    return rank


def positive(node: Node, name: str, rank: int) -> list[int]:
    """An attribute with one number for each spatial axis, 1 by default; CompileError below 1."""
    values = node.ints(name, [1] * rank)
    if len(values) != rank or any(value < 1 for value in values):
        raise node.error(f"{name}={values} has to be {rank} positive integers")
    return values


def _greatest(first: Any, second: Any) -> Any:
    if is_symbolic(first) or is_symbolic(second):
        return tirx.max(first, second)
    return max(first, second)
