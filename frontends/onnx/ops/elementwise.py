"""Arithmetic, comparison and logic, element by element with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import broadcast_shape, unify
from athanor.frontends.onnx.tensors import (
    cast,
    compute,
    dtype_of,
    filled,
    is_float,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def unary(operator: Callable[[relax.Expr], relax.Expr]) -> Callable[..., relax.Expr]:
    """A converter for `y = operator(x)`, x of any shape, y of x's shape and dtype."""

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        return operator(inputs[0])

    return converter


def binary(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Callable[..., relax.Expr]:
    """A converter for `y = operator(a, b)` with a and b broadcast to each other."""

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        return operator(*unify(legacy_broadcast(node, inputs, builder), builder))

    return converter


def legacy_broadcast(node: Node, inputs: Inputs, builder: Builder) -> Inputs:
    """Opset 6 and older: with broadcast=1, b's dims align with a's from `axis` on."""
    if node.opset >= 7 or not node.int("broadcast", 0) or not node.has("axis"):
        return inputs
    rank, other = rank_of(inputs[0]), shape_of(inputs[1])
    axis = node.axis("axis", rank)
    trailing = rank - axis - len(other)
    if trailing < 0:
        raise node.error(f"axis={axis} leaves no room for the rank-{len(other)} second input")
    return [inputs[0], reshape(inputs[1], other + [1] * trailing, builder)]


def variadic(operator: Callable[..., relax.Expr]) -> Callable[..., relax.Expr]:
    """A converter that folds `operator` over one or more inputs, from the left."""

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        result = inputs[0]
        for value in inputs[1:]:
            result = builder.emit(operator(*unify([result, value], builder)))
        return result

    return converter


def mean(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The mean of the inputs, broadcast to each other.

    Source: https://onnx.ai/onnx/operators/onnx__Mean.html
    """
    total = inputs[0]
    for value in inputs[1:]:
        total = builder.emit(R.add(*unify([total, value], builder)))
    return R.divide(total, scalar(len(inputs), dtype_of(total)))


def divide(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`a / b`; integers round toward zero, and by 0 they are 0, as in NumPy.

    Source: https://onnx.ai/onnx/operators/onnx__Div.html
    """
    left, right = unify(legacy_broadcast(node, inputs, builder), builder)
    if is_float(left):
        return R.divide(left, right)
    return broadcast_compute(builder, "divide", _quotient, left, right)


def _quotient(left: Any, right: Any) -> Any:
    """`truncdiv` that never traps, as x86 does at x / 0 and at the least integer / -1."""
    dtype = str(right.ty.dtype)
    zero = tirx.const(0, dtype)
    quotient = tirx.truncdiv(left, _divisor(right))
    if dtype.startswith("int"):
        quotient = tirx.Select(right == tirx.const(-1, dtype), zero - left, quotient)
    return tirx.Select(right == zero, zero, quotient)


def _divisor(right: Any) -> Any:
    """`right`, and 1 where the processor would trap; anything modulo that is 0, as it should be."""
    dtype = str(right.ty.dtype)
    traps = right == tirx.const(0, dtype)
    if dtype.startswith("int"):
        traps = tirx.any(traps, right == tirx.const(-1, dtype))
    return tirx.Select(traps, tirx.const(1, dtype), right)


def modulo(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`a mod b`: the sign of b as in Python, or of a as in C with fmod=1; integers mod 0 are 0.

    Source: https://onnx.ai/onnx/operators/onnx__Mod.html
    """
    fmod = bool(node.int("fmod", 0))
    dtype = dtype_of(inputs[0])
    if not is_float(inputs[0]):
        function = tirx.truncmod if fmod else tirx.floormod
        return broadcast_compute(builder, "modulo", lambda a, b: function(a, _divisor(b)), *inputs)
    wide = "float64" if dtype == "float64" else "float32"
    name = "fmod" if wide == "float64" else "fmodf"

    def remainder(left: Any, right: Any) -> Any:
        left, right = left.astype(wide), right.astype(wide)
        # libm's fmod is exact; LLVM has no instruction for it
        rest = tirx.call_pure_extern(wide, name, left, right)
        if fmod:
            return rest.astype(dtype)
        zero = tirx.const(0, wide)
        opposite = tirx.any(
            tirx.all(rest < zero, right > zero), tirx.all(rest > zero, right < zero)
        )
        signed_zero = tirx.Select(right < zero, tirx.const(-0.0, wide), zero)
        python = tirx.Select(opposite, rest + right, rest)
        return tirx.Select(rest == zero, signed_zero, python).astype(dtype)

    return broadcast_compute(builder, "modulo", remainder, *inputs)


def power(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`a ** b` in a's type; b may have another type.

    Source: https://onnx.ai/onnx/operators/onnx__Pow.html
    """
    base, exponent = unify(legacy_broadcast(node, inputs, builder), builder)
    known = node.known[1]
    if known is not None and known.is_constant and known.elements.size == 1:
        value = known.elements.item()
        fits = all(d == 1 for d in known.shape) and len(known.shape) <= rank_of(base)
        if value == 1 and fits:
            return base
        if value == 2 and fits:
            return R.multiply(base, base)
        if value == 3 and fits:
            return R.multiply(builder.emit(R.multiply(base, base)), base)
        if value == 0.5 and fits and is_float(base):
            return R.sqrt(base)
    dtype = dtype_of(base)
    # integers go through float64: exact below 2**53
    wide = dtype if is_float(base) else "float64"
    result = R.power(cast(base, wide, builder), cast(exponent, wide, builder))
    return cast(builder.emit(result), dtype, builder)


def bit_shift(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`a << b` or `a >> b`; a count that is negative or shifts out every bit gives 0 (or -1).

    Source: https://onnx.ai/onnx/operators/onnx__BitShift.html
    """
    direction = node.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise node.error(f"direction={direction!r} is neither LEFT nor RIGHT")
    dtype = np.dtype(dtype_of(inputs[0]))
    bits, signed = dtype.itemsize * 8, dtype.kind == "i"

    def shift(value: Any, count: Any) -> Any:
        kind = dtype.name
        # compared as int64: a uint64 count past 2**63 turns negative, and is invalid either way
        places = count.astype("int64")
        valid = tirx.all(places >= tirx.const(0, "int64"), places < tirx.const(bits, "int64"))
        safe = tirx.Select(valid, count, tirx.const(0, kind))
        gone = tirx.const(0, kind)
        if direction == "RIGHT":
            if signed:  # the sign bit fills every place
                gone = tirx.Select(value < gone, tirx.const(-1, kind), gone)
            return tirx.Select(valid, value >> safe, gone)
        return tirx.Select(valid, value << safe, gone)

    return broadcast_compute(builder, "bit_shift", shift, *inputs)


def where(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`condition ? a : b`, all three broadcast.

    Source: https://onnx.ai/onnx/operators/onnx__Where.html
    """
    return R.where(*unify(inputs, builder))


def is_inf(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Whether an element is infinite, of the signs asked for.

    Source: https://onnx.ai/onnx/operators/onnx__IsInf.html
    """
    x = inputs[0]
    negative, positive = node.int("detect_negative", 1), node.int("detect_positive", 1)
    if negative and positive:
        return R.isinf(x)
    if not negative and not positive:
        return filled(shape_of(x), False, "bool", builder)
    infinity = scalar(float("inf") if positive else float("-inf"), dtype_of(x))
    return R.equal(x, infinity)


def reciprocal(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`1 / x`.

    Source: https://onnx.ai/onnx/operators/onnx__Reciprocal.html
    """
    return R.divide(scalar(1, dtype_of(inputs[0])), inputs[0])


def round_half_to_even(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The nearest integer; halves go to the even one.

    Source: https://onnx.ai/onnx/operators/onnx__Round.html
    """

    def kernel(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.nearbyint(x(*i)), name="round")

    return compute(builder, "round", kernel, inputs[0])


def extremum(largest: bool) -> Callable[..., relax.Expr]:
    """A converter for Max or Min over one or more inputs; a NaN wins.

    Source: https://onnx.ai/onnx/operators/onnx__Max.html
    """

    def choose(left: Any, right: Any) -> Any:
        better = left > right if largest else left < right
        # TVM's max and min drop a NaN on one side; ONNX passes it on
        return tirx.Select(tirx.any(better, tirx.isnan(left)), left, right)

    def converter(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
        result = inputs[0]
        for value in inputs[1:]:
            if is_float(result):
                name = "maximum" if largest else "minimum"
                result = broadcast_compute(builder, name, choose, result, value)
            else:
                operator = R.maximum if largest else R.minimum
                result = builder.emit(operator(*unify([result, value], builder)))
        return result

    return converter


def broadcast_compute(
    builder: Builder, name: str, function: Callable[..., Any], *inputs: relax.Expr
) -> relax.Expr:
    """Emit `function(a, b, ...)` over the broadcast elements as one kernel."""
    inputs = tuple(unify(inputs, builder))
    shape = broadcast_shape([shape_of(value) for value in inputs])

    def kernel(*arguments: Any) -> te.Tensor:
        tensors, dims = arguments[:-1], arguments[-1]

        def element(*indices: Any) -> Any:
            operands = []
            for tensor in tensors:
                own = indices[len(indices) - len(tensor.shape) :]
                operands.append(
                    tensor(
                        *(
                            0 if _is_one(d) and not _is_one(full) else i
                            for i, d, full in zip(
                                own, tensor.shape, dims[len(dims) - len(own) :], strict=True
                            )
                        )
                    )
                )
            return function(*operands)

        return te.compute(tuple(dims), element, name=name)

    return compute(builder, name, kernel, *inputs, relax.ShapeExpr(shape))


def _is_one(dim: Any) -> bool:
    return isinstance(dim, (int, tirx.IntImm)) and int(dim) == 1
