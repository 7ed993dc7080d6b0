"""Pooling over windows and over whole images."""

from __future__ import annotations

from typing import Any

from tvm import relax

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.convolution import padding
from athanor.frontends.onnx.tensors import rank_of, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_MAX = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
_AVERAGE = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}


def max_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The largest element of each window; pads never win.

    Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    pool = Window(node, shape_of(inputs[0]))
    return _MAX[pool.rank](
        inputs[0],
        pool_size=pool.kernel,
        strides=pool.strides,
        padding=pool.pads_with_ceil,
        dilation=pool.dilations,
    )


def average_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean of each window, over the elements inside the image.

    count_include_pad=1 counts pads as zeros.

    Source: https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    pool = Window(node, shape_of(inputs[0]))
    include = bool(node.int("count_include_pad", 0))
    return _AVERAGE[pool.rank](
        inputs[0],
        pool_size=pool.kernel,
        strides=pool.strides,
        padding=pool.pads_with_ceil,
        dilation=pool.dilations,
        count_include_pad=include,
    )


class Window:
    """The window attributes of a pooling node, resolved for one input shape.

    `pads_with_ceil` has the extra end pads that make floor division give ceil_mode's sizes.
    """

    def __init__(self, node: Node, shape: list[Any]) -> None:
        self.rank = len(shape) - 2
        if self.rank not in _MAX:
            raise node.error(f"{self.rank} spatial dimensions; 1, 2 and 3 are supported")
        self.kernel = node.ints("kernel_shape")
        self.strides = node.ints("strides", [1] * self.rank)
        self.dilations = node.ints("dilations", [1] * self.rank)
        self.pads = padding(node, shape[2:], self.kernel, self.strides, self.dilations)
        self.extra = [0] * self.rank
        if node.int("ceil_mode", 0):
            self.extra = [self._ceil_pad(node, axis, dim) for axis, dim in enumerate(shape[2:])]
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


def global_average_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean over all spatial dims, kept as 1.

    Source: https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html
    """
    return R.mean(inputs[0], axis=list(range(2, rank_of(inputs[0]))), keepdims=True)


def global_max_pool(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The maximum over all spatial dims, kept as 1.

    Source: https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html
    """
    return R.max(inputs[0], axis=list(range(2, rank_of(inputs[0]))), keepdims=True)
