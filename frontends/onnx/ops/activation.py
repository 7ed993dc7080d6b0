"""Activations and the elementary functions that are not single Relax operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.reduction import index_along
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    filled,
    is_float,
    per_channel,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def softmax_flattened(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Opset 12 and older: softmax over all dims from `axis` (default 1) on, taken as one.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    return _flattened(node, inputs[0], R.nn.softmax, builder)


def log_softmax_flattened(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """As `softmax_flattened`, with the logarithm."""
    return _flattened(node, inputs[0], R.nn.log_softmax, builder)


def _flattened(node: Node, x: relax.Expr, operator: Any, builder: Builder) -> relax.Expr:
    shape = shape_of(x)
    axis = node.axis("axis", len(shape), 1)
    if all(isinstance(dim, int) and dim == 1 for dim in shape[axis + 1 :]):
        return _widened(x, lambda value: operator(value, axis=axis), builder)
    flat = reshape(x, [product(shape[:axis]), product(shape[axis:])], builder)
    return reshape(
        builder.emit(_widened(flat, lambda value: operator(value, axis=1), builder)), shape, builder
    )


def softmax(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Softmax along one axis, default the last.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    axis = node.axis("axis", rank_of(inputs[0]), -1)
    return _widened(inputs[0], lambda x: R.nn.softmax(x, axis=axis), builder)


def log_softmax(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The logarithm of softmax along one axis, default the last.

    Source: https://onnx.ai/onnx/operators/onnx__LogSoftmax.html
    """
    axis = node.axis("axis", rank_of(inputs[0]), -1)
    return _widened(inputs[0], lambda x: R.nn.log_softmax(x, axis=axis), builder)


def _widened(
    x: relax.Expr, operator: Callable[[relax.Expr], relax.Expr], builder: Builder
) -> relax.Expr:
    """`operator(x)`, computed in float32 for 16-bit floats."""
    dtype = dtype_of(x)
    wide = accumulation_dtype(dtype)
    if wide == dtype:
        return operator(x)
    return R.astype(builder.emit(operator(cast(x, wide, builder))), dtype)


def hardmax(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """1 at the first maximum along one axis (default the last), 0 elsewhere.

    Source: https://onnx.ai/onnx/operators/onnx__Hardmax.html
    """
    return _first_maximum(inputs[0], node.axis("axis", rank_of(inputs[0]), -1), builder)


def hardmax_flattened(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Opset 12 and older: hardmax over all dims from `axis` (default 1) on, taken as one."""
    return _flattened(node, inputs[0], lambda x, axis: _first_maximum(x, axis, builder), builder)


def _first_maximum(x: relax.Expr, axis: int, builder: Builder) -> relax.Expr:
    largest = builder.emit(index_along(x, axis, True, False, builder))
    dims = shape_of(x)

    def kernel(index: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            hit = index(*i[:axis], *i[axis + 1 :]) == i[axis]
            return tirx.Select(hit, tirx.const(1, dtype_of(x)), tirx.const(0, dtype_of(x)))

        shape = (*index.shape[:axis], dims[axis], *index.shape[axis:])
        return te.compute(shape, element, name="hardmax")

    return compute(builder, "hardmax", kernel, largest)


def inference_dropout(node: Node, inputs: Inputs, builder: Builder) -> tuple[Any, ...]:
    """Dropout outside of training: the input as it is; the mask, when asked for, is all true."""
    x = inputs[0]
    if len(node.outputs) < 2 or not node.outputs[1]:
        return (x,)
    dtype = "bool" if node.opset >= 10 else dtype_of(x)
    return x, filled(shape_of(x), 1, dtype, builder)


def clip_attributes(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Opset 10 and older: bounds are the attributes min and max.

    Source: https://onnx.ai/onnx/operators/onnx__Clip.html
    """
    lowest = float(np.finfo(np.float32).min)
    return _clip(inputs[0], node.float("min", lowest), node.float("max", -lowest))


def clip(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`min(max(x, low), high)`; either bound may be absent; high wins where low > high.

    Source: https://onnx.ai/onnx/operators/onnx__Clip.html
    """
    x = inputs[0]
    known = [node.known[i] if node.has_input(i, inputs) else None for i in (1, 2)]
    bounds = [float(k.elements.item()) for k in known if k is not None and k.is_constant]
    present = [node.has_input(i, inputs) for i in (1, 2)]
    if is_float(x) and len(bounds) == 2 and bounds[0] <= bounds[1]:
        return _clip(x, bounds[0], bounds[1])
    if present[0]:
        x = builder.emit(R.maximum(x, inputs[1]))
    if present[1]:
        x = builder.emit(R.minimum(x, inputs[2]))
    return x


def _clip(x: relax.Expr, low: float, high: float) -> relax.Expr:
    return R.clip(x, relax.prim_value(low), relax.prim_value(high))


def leaky_relu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y = x if x >= 0 else alpha * x`, elementwise; alpha default 0.01.

    Source: https://onnx.ai/onnx/operators/onnx__LeakyRelu.html
    """
    return R.nn.leakyrelu(inputs[0], node.float("alpha", 0.01))


def prelu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`y = x if x >= 0 else slope * x`; slope broadcasts to x.

    Opset 6 and older: a vector slope is per channel (axis 1).
    Source: https://onnx.ai/onnx/operators/onnx__PRelu.html
    """
    x, slope = inputs
    if node.opset < 7 and rank_of(slope) == 1 and rank_of(x) > 1:
        slope = per_channel(slope, rank_of(x), builder)
    zero = scalar(0, dtype_of(x))
    return R.where(R.less(x, zero), R.multiply(slope, x), x)


def gelu(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`x * Phi(x)`, exact (erf) or approximate="tanh".

    Source: https://onnx.ai/onnx/operators/onnx__Gelu.html
    """
    approximate = node.string("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise node.error(f"approximate={approximate!r} is neither none nor tanh")
    return (R.nn.gelu if approximate == "none" else R.nn.gelu_tanh)(inputs[0])


def formula(function: Any, **defaults: float) -> Any:
    """A converter for `y = function(x, *attributes)`, one kernel, element by element.

    `defaults` are the float attributes in the function's order with ONNX's default values.
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        x = inputs[0]
        values = [node.float(name, default) for name, default in defaults.items()]

        def kernel(data: te.Tensor) -> te.Tensor:
            dtype = data.dtype
            constants = [tirx.const(value, dtype) for value in values]
            return te.compute(
                data.shape, lambda *i: function(data(*i), *constants), name=node.op.lower()
            )

        return compute(builder, node.op.lower(), kernel, x)

    return converter


def _like(value: float, x: Any) -> Any:
    return tirx.const(value, x.ty.dtype)


def _zero(x: Any) -> Any:
    return _like(0.0, x)


def elu(x: Any, alpha: Any) -> Any:
    """`x if x > 0 else alpha * (exp(x) - 1)`."""
    # the exponent is clamped so that the branch not taken never overflows
    return tirx.Select(x > _zero(x), x, alpha * (tirx.exp(tirx.min(x, _zero(x))) - _like(1, x)))


def selu(x: Any, alpha: Any, gamma: Any) -> Any:
    """`gamma * (x if x > 0 else alpha * (exp(x) - 1))`."""
    return gamma * elu(x, alpha)


def celu(x: Any, alpha: Any) -> Any:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`."""
    low = alpha * (tirx.exp(tirx.min(x / alpha, _zero(x))) - _like(1, x))
    return tirx.Select(x > _zero(x), x, low)


def hard_sigmoid(x: Any, alpha: Any, beta: Any) -> Any:
    """`max(0, min(1, alpha * x + beta))`."""
    return tirx.max(_zero(x), tirx.min(_like(1, x), alpha * x + beta))


def hard_swish(x: Any) -> Any:
    """`x * max(0, min(1, x / 6 + 0.5))`."""
    return x * hard_sigmoid(x, _like(1.0 / 6.0, x), _like(0.5, x))


def thresholded_relu(x: Any, alpha: Any) -> Any:
    """`x if x > alpha else 0`."""
    return tirx.Select(x > alpha, x, _zero(x))


def shrink(x: Any, bias: Any, lambd: Any) -> Any:
    """`x + bias if x < -lambd, x - bias if x > lambd, else 0`."""
    inner = tirx.Select(x > lambd, x - bias, _like(0, x))
    return tirx.Select(x < -lambd, x + bias, inner)


def softsign(x: Any) -> Any:
    """`x / (1 + |x|)`."""
    return x / (_like(1, x) + tirx.abs(x))


def softplus(x: Any) -> Any:
    """`log(exp(x) + 1)`, written so that exp never overflows."""
    return tirx.max(x, _zero(x)) + tirx.log(_like(1, x) + tirx.exp(-tirx.abs(x)))


def mish(x: Any) -> Any:
    """`x * tanh(softplus(x))`."""
    return x * tirx.tanh(softplus(x))


def swish(x: Any, alpha: Any) -> Any:
    """`x * sigmoid(alpha * x)`."""
    return x * tirx.sigmoid(alpha * x)


SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
SQRT_HALF = math.sqrt(0.5)
