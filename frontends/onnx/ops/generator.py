"""Operators that make tensors out of nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import (
    is_nonnegative,
    is_symbolic,
    product,
    simplify,
    truncated_quotient,
)
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensor_data import to_array
from athanor.frontends.onnx.tensors import compute, filled

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

# A constant that is filled at import: ONNX Runtime folds these too, and weights given this way
# (the light_* models of the onnx package) have to be packed at compile time.
_MAX_FILL_BYTES = 1 << 30


def constant_value(node: Node, inputs: Inputs, builder: Builder) -> np.ndarray:
    """The tensor, or the number or string or list of them, in the node's one attribute.

    Source: https://onnx.ai/onnx/operators/onnx__Constant.html
    """
    if node.has("value"):
        return to_array(node.attributes["value"], None)
    kinds = {"value_float": np.float32, "value_floats": np.float32}
    kinds |= {"value_int": np.int64, "value_ints": np.int64}
    for name, dtype in kinds.items():
        if node.has(name):
            return np.array(node.attributes[name], dtype=dtype)
    if node.has("value_string"):
        return np.array(node.attributes["value_string"], object)
    if node.has("value_strings"):
        return np.array(node.attributes["value_strings"], object)
    raise node.error(f"the attribute {', '.join(node.attributes) or 'value'} is not supported")


def constant_of_shape(node: Node, inputs: Inputs, builder: Builder) -> Any:
    """A tensor of the shape in input 0, filled with `value` (default float32 0).

    Source: https://onnx.ai/onnx/operators/onnx__ConstantOfShape.html
    """
    fill = np.zeros(1, np.float32)
    if node.has("value"):
        value: onnx.TensorProto = node.attributes["value"]
        fill = to_array(value, None)
    if fill.size != 1:
        raise node.error(f"value has {fill.size} elements, expected 1")
    shape = node.elements(0, "shape")
    if any(not is_symbolic(dim) and dim < 0 for dim in shape):
        raise node.error(f"shape={shape} has a negative dimension")
    if all(not is_symbolic(dim) for dim in shape):
        if product(shape) * fill.dtype.itemsize <= _MAX_FILL_BYTES:
            return np.full(shape, fill.reshape(())[()], dtype=fill.dtype)
        raise node.error(f"shape={shape} is over the limit of {_MAX_FILL_BYTES} bytes")
    dtype = str(fill.dtype)
    return filled(shape, fill.item(), dtype, builder)


def value_range(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`start, start + delta, ...` up to, not including, limit.

    Source: https://onnx.ai/onnx/operators/onnx__Range.html
    """
    start, limit, delta = (node.elements(i, "a bound")[0] for i in range(3))
    known = node.known[0]
    assert known is not None
    dtype = known.dtype
    if not is_symbolic(delta) and delta == 0:
        raise node.error("delta is 0")
    count: Any
    if any(is_symbolic(value) for value in (start, limit, delta)):
        if is_symbolic(delta):
            raise node.error(f"delta={delta} is symbolic")
        span = simplify(limit - start if delta > 0 else start - limit)
        size = abs(delta)
        count = span if size == 1 else truncated_quotient(simplify(span + size - 1), size)
        if not is_nonnegative(count):
            count = tirx.max(count, tirx.IntImm("int64", 0))
    else:
        count = max(math.ceil((limit - start) / delta), 0)

    def kernel(shape: list[Any], first: list[Any]) -> te.Tensor:
        def element(i: Any) -> Any:
            if dtype.startswith("int"):
                return (first[0] + i * tirx.const(delta, "int64")).astype(dtype)
            step = tirx.const(delta, dtype)
            return tirx.const(start, dtype) + i.astype(dtype) * step

        return te.compute(tuple(shape), element, name="range")

    first = [start if not isinstance(start, float) else 0]
    return compute(builder, "range", kernel, relax.ShapeExpr([count]), relax.ShapeExpr(first))
