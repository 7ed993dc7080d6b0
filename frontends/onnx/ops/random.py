"""Random tensors, from a generator without state: element i of a node is a hash of (seed, i).

So every run of an artifact gives the same numbers, whatever the number of threads. A node without
a seed takes one from its name: two nodes differ, and a second compilation does not.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import onnx
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.activation import inference_dropout
from athanor.frontends.onnx.tensor_data import np_dtype_of
from athanor.frontends.onnx.tensors import (
    FLOATS,
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    rank_of,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder

Draw = Callable[[int, Any], Any]  # (number of the stream, position) -> uniform in (0, 1)


def _seed(node: Node) -> int:
    """32 bits from the attribute seed, else from the names of the node and its output."""
    if node.has("seed"):
        source = struct.pack("<f", node.float("seed"))
    else:
        source = "\0".join((node.op, node.name, *node.outputs)).encode()
    return int.from_bytes(hashlib.sha256(source).digest()[:4], "little")


def _uniform(seed: int) -> Draw:
    """Uniform float32 numbers in (0, 1): 23 bits of a hash, and a half, so that no end is met.

    The hash is two rounds of a 32-bit mixer with full avalanche (C. Wellons' "lowbias32"), each
    keyed. It is computed in 64 bits: TVM's code generator tells LLVM that no uint32 product wraps.
    Source: https://nullprogram.com/blog/2018/07/31/
    """

    def constant(value: int) -> Any:
        return tirx.const(value, "uint64")

    def mix(value: Any) -> Any:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            value = ((value ^ (value >> constant(shift))) * constant(factor)) & constant(0xFFFFFFFF)
        return value ^ (value >> constant(16))

    def draw(stream: int, position: Any) -> Any:
        keys = hashlib.sha256(struct.pack("<II", seed, stream)).digest()
        first, second = struct.unpack_from("<II", keys)
        index = position.astype("uint64") & constant(0xFFFFFFFF)
        bits = mix(mix(index ^ constant(first)) ^ constant(second))
        # signed: there is an instruction that makes floats of it
        whole = (bits >> constant(9)).astype("int32").astype("float32")
        return (whole + tirx.const(0.5, "float32")) * tirx.const(2.0**-23, "float32")

    return draw


def _normal(draw: Draw, position: Any) -> Any:
    """A standard normal number, by Box and Muller."""
    radius = tirx.sqrt(tirx.const(-2.0, "float32") * tirx.log(draw(0, position)))
    return radius * tirx.cos(tirx.const(2 * math.pi, "float32") * draw(1, position))


def _position(indices: tuple[Any, ...], shape: Any) -> Any:
    flat: Any = tirx.const(0, "int64")
    for index, extent in zip(indices, shape, strict=True):
        flat = flat * extent + index
    return flat


def _dtype(node: Node, default: str) -> str:
    """The element type in the attribute dtype."""
    if not node.has("dtype"):
        return default
    return np_dtype_of(node.int("dtype"), "dtype").name


def random(normal: bool, like: bool) -> Callable[..., relax.Expr]:
    """A converter for RandomNormal or RandomUniform; `like`: in the shape of the input.

    Source: https://onnx.ai/onnx/operators/onnx__RandomNormal.html
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        shape = shape_of(inputs[0]) if like else node.ints("shape")
        if any(not is_symbolic(dim) and dim < 0 for dim in shape):
            raise node.error(f"shape={shape} has a negative dimension")
        dtype = _dtype(node, dtype_of(inputs[0]) if like else "float32")
        if dtype not in FLOATS:
            raise node.error(f"{dtype} elements are not supported")
        if normal:
            offset, factor = node.float("mean", 0.0), node.float("scale", 1.0)
        else:
            offset = node.float("low", 0.0)
            factor = node.float("high", 1.0) - offset
        draw = _uniform(_seed(node))

        def kernel(dims: list[Any]) -> te.Tensor:
            def element(*i: Any) -> Any:
                position = _position(i, dims)
                value = _normal(draw, position) if normal else draw(0, position)
                value = value * tirx.const(factor, "float32") + tirx.const(offset, "float32")
                return value.astype(dtype)

            return te.compute(tuple(dims), element, name="random")

        return compute(builder, "random", kernel, relax.ShapeExpr(shape))

    return converter


def bernoulli(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """1 with the probability that the input's element gives, else 0.

    Source: https://onnx.ai/onnx/operators/onnx__Bernoulli.html
    """
    dtype = _dtype(node, dtype_of(inputs[0]))
    draw = _uniform(_seed(node))

    def kernel(chance: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            hit = draw(0, _position(i, chance.shape)) < chance(*i).astype("float32")
            return hit.astype(dtype)

        return te.compute(chance.shape, element, name="bernoulli")

    return compute(builder, "bernoulli", kernel, inputs[0])


def multinomial(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`sample_size` classes a row, drawn from the row's unnormalized log-probabilities.

    The class with the largest logit + Gumbel noise, which has the softmax distribution.
    Source: https://onnx.ai/onnx/operators/onnx__Multinomial.html
    """
    count = node.int("sample_size", 1)
    dtype = _dtype(node, np_dtype_of(onnx.TensorProto.INT32, "dtype").name)
    if rank_of(inputs[0]) != 2 or count < 1 or dtype not in ("int32", "int64"):
        raise node.error(f"sample_size={count} as {dtype} for input {shape_of(inputs[0])}")
    draw = _uniform(_seed(node))

    def kernel(logits: te.Tensor) -> te.Tensor:
        shape = (logits.shape[0], count, logits.shape[1])

        def element(row: Any, sample: Any, label: Any) -> Any:
            uniform = draw(0, _position((row, sample, label), shape))
            return logits(row, label).astype("float32") - tirx.log(-tirx.log(uniform))

        return te.compute(shape, element, name="multinomial")

    noisy = compute(builder, "multinomial", kernel, inputs[0])
    return cast(builder.emit(R.argmax(noisy, axis=-1)), dtype, builder)


def dropout(node: Node, inputs: Inputs, builder: Builder) -> tuple[Any, ...]:
    """Some elements 0 and the others scaled up, in training; otherwise the input as it is.

    inputs: x, optional ratio of zeros (default 0.5), optional training_mode (opset 12). Results: y,
    and a bool mask of the elements that stay.
    Source: https://onnx.ai/onnx/operators/onnx__Dropout.html
    """
    mode = node.known[2] if node.has_input(2, inputs) else None
    trains = node.opset >= 12 and node.has_input(2, inputs)
    if not trains or (mode is not None and mode.is_constant and not mode.elements.any()):
        return inference_dropout(node, inputs, builder)
    x = inputs[0]
    dtype = dtype_of(x)
    work = accumulation_dtype(dtype)
    ratio = inputs[1] if node.has_input(1, inputs) else scalar(0.5, "float32")
    draw = _uniform(_seed(node))

    def kernel(data: te.Tensor, chance: te.Tensor, training: te.Tensor) -> list[te.Tensor]:
        def first(value: te.Tensor) -> Any:
            return value(*[0] * len(value.shape))

        def stays(*i: Any) -> Any:
            drawn = draw(0, _position(i, data.shape)) >= first(chance).astype("float32")
            return tirx.any(drawn, tirx.Not(first(training)))

        def element(*i: Any) -> Any:
            one = tirx.const(1, work)
            rest = one - first(chance).astype(work)
            value = data(*i).astype(work) / tirx.Select(first(training), rest, one)
            return tirx.Select(mask(*i), value, tirx.const(0, work)).astype(dtype)

        mask = te.compute(data.shape, stays, name="dropout_mask")
        return [te.compute(data.shape, element, name="dropout"), mask]

    both = compute(builder, "dropout", kernel, x, ratio, inputs[2])
    return tuple(builder.emit(relax.TupleGetItem(both, index)) for index in range(2))
