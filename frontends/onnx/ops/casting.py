"""Changing element types."""

from __future__ import annotations

import onnx
from tvm import relax

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import FLOATS, cast, dtype_of, scalar

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

_PLAIN = (*FLOATS, "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def cast_to(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Elements as the type `to`; floats are cut toward zero, anything but 0 is true.

    Source: https://onnx.ai/onnx/operators/onnx__Cast.html
    """
    return _convert(node, inputs[0], onnx_dtype(node, node.int("to")), builder)


def cast_like(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Elements as the type of input 1.

    Source: https://onnx.ai/onnx/operators/onnx__CastLike.html
    """
    dtype = dtype_of(inputs[1])
    if dtype not in _PLAIN:
        raise node.error(f"element type {dtype} is not supported")
    return _convert(node, inputs[0], dtype, builder)


def onnx_dtype(node: Node, elem_type: int) -> str:
    """The name of an ONNX element type; CompileError for one that no kernel computes with."""
    try:
        name = onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        raise node.error(f"element type {elem_type} is no ONNX tensor type") from None
    if name not in _PLAIN:
        raise node.error(f"element type {name} is not supported")
    return name


def _convert(node: Node, x: relax.Expr, dtype: str, builder: Builder) -> relax.Expr:
    have = dtype_of(x)
    if have not in _PLAIN:
        raise node.error(f"element type {have} is not supported")
    if have == dtype:
        return x
    if dtype == "bool":
        return R.not_equal(x, scalar(0, have))
    return cast(x, dtype, builder)
