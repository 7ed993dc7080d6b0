"""Changing element types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from tvm import relax, te

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.small_types import (
    EXPONENT,
    SMALL_FLOATS,
    SMALL_TYPES,
    Carried,
    decoded,
    encoded_exponent,
    encoded_float,
    encoded_integer,
)
from athanor.frontends.onnx.tensors import FLOATS, cast, compute, dtype_of, scalar

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_PLAIN = (*FLOATS, "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def cast_to(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr | Carried:
    """Elements as the type `to`; floats are cut toward zero, anything but 0 is true.

    Source: https://onnx.ai/onnx/operators/onnx__Cast.html
    """
    return _convert(node, inputs[0], onnx_dtype(node, node.int("to"), SMALL_TYPES), builder)


def cast_like(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr | Carried:
    """Elements as the type of input 1.

    Source: https://onnx.ai/onnx/operators/onnx__CastLike.html
    """
    dtype = node.small_type(1) or dtype_of(inputs[1])
    if dtype not in (*_PLAIN, *SMALL_TYPES):
        raise node.error(f"element type {dtype} is not supported")
    return _convert(node, inputs[0], dtype, builder)


def onnx_dtype(node: Node, elem_type: int, also: tuple[str, ...] = ()) -> str:
    """The name of an ONNX element type that kernels compute with, or one of `also`.

    Raises CompileError for any other.
    """
    try:
        name = onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        raise node.error(f"element type {elem_type} is no ONNX tensor type") from None
    if name not in (*_PLAIN, *also):
        raise node.error(f"element type {name} is not supported")
    return name


def _convert(node: Node, x: relax.Expr, dtype: str, builder: Builder) -> relax.Expr | Carried:
    small = node.small_type(0)
    if small == dtype:
        return Carried(x, dtype)
    if small:
        x = decode(x, small, builder)
    have = dtype_of(x)
    if have not in _PLAIN:
        raise node.error(f"element type {have} is not supported")
    if dtype in SMALL_TYPES:
        return _encode(node, x, dtype, builder)
    if have == dtype:
        return x
    if dtype == "bool":
        return R.not_equal(x, scalar(0, have))
    return cast(x, dtype, builder)


def decode(x: relax.Expr, dtype: str, builder: Builder) -> relax.Expr:
    """Bytes of a small type as int32, or float32 for the floats."""
    return _elementwise(x, "decode", lambda value: decoded(value, dtype), builder)


def _encode(node: Node, x: relax.Expr, dtype: str, builder: Builder) -> Carried:
    """Numbers as bytes of a small type; integers keep their low bits."""
    saturate = bool(node.int("saturate", 1))
    if dtype == EXPONENT and not saturate:
        raise node.error("saturate=0 with FLOAT8E8M0 is not supported")
    mode = node.string("round_mode", "up")
    if mode not in ("up", "down", "nearest"):
        raise node.error(f"round_mode={mode!r} is neither up, down nor nearest")
    have = dtype_of(x)
    if dtype in SMALL_FLOATS or dtype == EXPONENT:
        # 64-bit integers and floats are not rounded twice
        exact = have in ("float64", "int64", "uint64", "int32", "uint32") and dtype != EXPONENT
        x = cast(x, "float64" if exact else "float32", builder)

    def element(value: Any) -> Any:
        if dtype in SMALL_FLOATS:
            return encoded_float(value, dtype, saturate)
        if dtype == EXPONENT:
            return encoded_exponent(value, mode)
        return encoded_integer(value, dtype)

    return Carried(_elementwise(x, "encode", element, builder), dtype)


def _elementwise(
    x: relax.Expr, name: str, function: Callable[[Any], Any], builder: Builder
) -> relax.Expr:
    def kernel(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *i: function(data(*i)), name=name)

    return compute(builder, name, kernel, x)
