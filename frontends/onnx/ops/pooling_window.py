"""The windows of pooling operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.convolution import padding, window
from athanor.frontends.onnx.tensors import shape_of


class Window:
    """The window attributes of a pooling node, resolved for one input shape.

    `pads_with_ceil` has the extra end pads that make floor division give ceil_mode's sizes.
    """

    def __init__(self, node: Node, x: relax.Expr) -> None:
        shape = shape_of(x)
        self.rank = len(shape) - 2
        if self.rank not in (1, 2, 3):
            raise node.error(f"{self.rank} spatial dimensions; 1, 2 and 3 are supported")
        self.kernel = node.ints("kernel_shape")
        if len(self.kernel) != self.rank or any(size < 1 for size in self.kernel):
            raise node.error(f"kernel_shape={self.kernel} has to be {self.rank} positive integers")
        self.strides, self.dilations = window(node, self.rank)
        self.pads = padding(node, shape[2:], self.kernel, self.strides, self.dilations)
        self.extra = [0] * self.rank
        if node.int("ceil_mode", 0):
            self.extra = [self._ceil_pad(node, axis, dim) for axis, dim in enumerate(shape[2:])]
        self.dims = shape[2:]
        ends = [p + e for p, e in zip(self.pads[self.rank :], self.extra, strict=True)]
        self.pads_with_ceil = self.pads[: self.rank] + ends

    def _ceil_pad(self, node: Node, axis: int, dim: Any) -> int:
        """How far the last window of ceil_mode reaches past the padded image."""
        stride = self.strides[axis]
        if is_symbolic(dim):
            if stride == 1:
                return 0
            raise node.error("ceil_mode=1 on a symbolic dimension; fix it with shapes=")
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        padded = dim + self.pads[axis] + self.pads[axis + self.rank]
        count = -(-(padded - reach) // stride) + 1
        if (count - 1) * stride >= dim + self.pads[axis]:
            count -= 1  # a window that would start in the end pad does not count
        return max((count - 1) * stride + reach - padded, 0)

    @property
    def result_dims(self) -> list[Any]:
        """The spatial dims of the result."""
        dims = []
        for axis, dim in enumerate(self.dims):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            padded = dim + self.pads_with_ceil[axis] + self.pads_with_ceil[axis + self.rank]
            dims.append(simplify((padded - reach) // self.strides[axis] + 1))
        return dims

    def source(self, data: te.Tensor, place: Sequence[Any], taps: Sequence[Any]) -> Any:
        """Where a window at `place` reads for `taps`, and whether that is inside the image."""
        source, inside = [], []
        for axis, (position, tap) in enumerate(zip(place, taps, strict=True)):
            index = position * self.strides[axis] + tap * self.dilations[axis] - self.pads[axis]
            inside += [index >= 0, index < data.shape[axis + 2]]
            source.append(index)
        return source, tirx.all(*inside)
