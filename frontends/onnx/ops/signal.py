"""Signal processing: DFT, STFT, the window functions and MelWeightMatrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import is_symbolic, truncated_quotient
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.fourier import Complex, is_feasible, scaled, transform
from athanor.frontends.onnx.tensor_data import np_dtype_of
from athanor.frontends.onnx.tensors import (
    accumulation_dtype,
    cast,
    compute,
    dtype_of,
    is_float,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def dft(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The discrete Fourier transform of one axis; the last axis is (real,) or (real, imaginary).

    inputs: x, optional dft_length (the axis is cut or padded with zeros to it), from opset 20 on
    axis, before that an attribute. onesided gives the first half of the bins; together with
    inverse it takes them, and the result is real.
    Source: https://onnx.ai/onnx/operators/onnx__DFT.html
    """
    x = inputs[0]
    dims = shape_of(x)
    rank = len(dims)
    if rank < 2 or dims[-1] not in (1, 2) or not is_float(x):
        raise node.error(f"input {dims} of {dtype_of(x)} is neither real nor complex")
    if node.opset >= 20:
        given = int(node.constant(2, "axis").item()) if node.has_input(2, inputs) else -2
        axis = node.normalize_axis(given, rank)
    else:
        axis = node.axis("axis", rank, 1)
    if axis == rank - 1 or is_symbolic(dims[axis]):
        raise node.error(f"axis={axis} of input {dims} has to be a signal axis of fixed size")
    inverse, onesided = bool(node.int("inverse", 0)), bool(node.int("onesided", 0))
    if onesided and (dims[-1] == 2) != inverse:
        raise node.error(f"onesided=1 with inverse={int(inverse)} for input {dims}")
    mirrored = inverse and onesided
    length = 2 * (dims[axis] - 1) if mirrored else dims[axis]
    if node.has_input(1, inputs):
        length = int(node.constant(1, "dft_length").reshape(-1)[0])
    if not is_feasible(length):
        raise node.error(f"dft_length={length} is not positive, or has too large a prime factor")

    wide = cast(x, accumulation_dtype(dtype_of(x)), builder)
    parts = [_part(wide, axis, part, builder) for part in range(dims[-1])]
    if mirrored:
        parts = [_mirrored(part, length, sign, builder) for part, sign in zip(parts, (1, -1))]
    parts = [_fitted(part, length, builder) for part in parts]
    value = Complex(parts[0], parts[1] if len(parts) == 2 else None)
    bins = length // 2 + 1 if onesided and not inverse else length
    value = transform(value, inverse, bins, builder)
    if inverse:
        value = scaled(value, 1 / length, builder)
    assert value.imaginary is not None
    order = [*range(axis), rank - 2, *range(axis, rank - 2)]  # the axis back to its place
    results = [value.real] if mirrored else [value.real, value.imaginary]
    stacked = builder.emit(
        R.stack([builder.emit(R.permute_dims(part, order)) for part in results], axis=-1)
    )
    return cast(stacked, dtype_of(x), builder)


def _part(x: relax.Expr, axis: int, part: int, builder: Builder) -> relax.Expr:
    """The real (0) or imaginary (1) part, with the axis last."""

    def kernel(data: te.Tensor) -> te.Tensor:
        dims = list(data.shape[:-1])
        shape = [*dims[:axis], *dims[axis + 1 :], dims[axis]]
        return te.compute(
            tuple(shape),
            lambda *i: data(*i[:axis], i[-1], *i[axis:-1], part),
            name="signal",
        )

    return compute(builder, "signal", kernel, x)


def _fitted(x: relax.Expr, length: int, builder: Builder) -> relax.Expr:
    """The last axis cut, or padded with zeros, to `length`."""
    *outer, have = shape_of(x)
    if have > length:
        return builder.emit(R.strided_slice(x, [len(outer)], [0], [length]))
    if have < length:
        return builder.emit(R.nn.pad(x, [0, 0] * len(outer) + [0, length - have]))
    return x


def _mirrored(x: relax.Expr, length: int, sign: int, builder: Builder) -> relax.Expr:
    """All `length` bins of a real signal from the first half: bin n - k is conjugate to bin k."""

    def kernel(data: te.Tensor) -> te.Tensor:
        have = int(data.shape[-1])

        def element(*i: Any) -> Any:
            place = i[-1]
            other = length - place
            first = place <= length // 2
            source = tirx.Select(first, place, other)
            value = data(*i[:-1], tirx.min(source, have - 1))
            if sign < 0:
                # the bins 0 and n / 2 of a real signal are real
                real = tirx.any(place == 0, place * 2 == length)
                value = tirx.Select(first, value, -value)
                value = tirx.Select(real, tirx.const(0, data.dtype), value)
            return tirx.Select(source < have, value, tirx.const(0, data.dtype))

        return te.compute((*data.shape[:-1], length), element, name="mirror")

    return compute(builder, "mirror", kernel, x)


def stft(node: Node, inputs: Inputs, builder: Any) -> relax.Expr:
    """The transforms of overlapping frames: (batch, frames, bins, 2).

    inputs: signal (batch, length, 1 or 2), frame_step, optional window (frame_length,),
    optional frame_length. Attribute onesided, default 1.
    Source: https://onnx.ai/onnx/operators/onnx__STFT.html
    """
    x = inputs[0]
    dims = shape_of(x)
    if len(dims) == 2:
        dims = [*dims, 1]
    if len(dims) != 3 or dims[2] not in (1, 2) or is_symbolic(dims[1]) or not is_float(x):
        raise node.error(f"signal {dims} has to be (batch, fixed length, 1 or 2)")
    (step,) = node.elements(1, "frame_step")
    window = inputs[2] if node.has_input(2, inputs) else None
    length = shape_of(window)[0] if window is not None else None
    if node.has_input(3, inputs):
        (given,) = node.elements(3, "frame_length")
        if not is_symbolic(given):
            length = given
        elif length is None:
            raise node.error("frame_length (input 3) has to be known at import, or a window given")
        else:
            builder.require_equal(given, length)
    if length is None or is_symbolic(length) or not is_feasible(length):
        raise node.error(f"frame_length={length} is missing, or has too large a prime factor")
    if window is not None and shape_of(window) != [length]:
        raise node.error(f"window {shape_of(window)} for frames of {length}")
    if is_symbolic(step):
        builder.require(step >= 1, "frame_step has to be at least 1")
    if (not is_symbolic(step) and step < 1) or length > dims[1]:
        raise node.error(f"frames of {length}, frame_step={step}, for a signal of {dims[1]}")
    onesided = bool(node.int("onesided", 1))
    if onesided and dims[2] == 2:
        raise node.error("onesided=1 needs a real signal")
    work = accumulation_dtype(dtype_of(x))
    count = truncated_quotient(dims[1] - length, step) + 1

    def frames(part: int) -> relax.Expr:
        def kernel(data: te.Tensor, sizes: list[Any], *weight: te.Tensor) -> te.Tensor:
            def element(b: Any, frame: Any, i: Any) -> Any:
                place = (b, frame * sizes[1] + i, part)[: len(data.shape)]
                value = data(*place).astype(work)
                return value * weight[0](i).astype(work) if weight else value

            return te.compute((data.shape[0], sizes[0], length), element, name="frames")

        weights = [] if window is None else [window]
        return compute(builder, "frames", kernel, x, relax.ShapeExpr([count, step]), *weights)

    value = Complex(frames(0), frames(1) if dims[2] == 2 else None)
    value = transform(value, False, length // 2 + 1 if onesided else length, builder)
    assert value.imaginary is not None
    stacked = builder.emit(R.stack([value.real, value.imaginary], axis=-1))
    return cast(stacked, dtype_of(x), builder)


def window(*weights: float) -> Callable[..., Any]:
    """A converter for a window `sum of (-1)^k weights[k] cos(2 pi k i / n)` over i < size.

    n is size, or size - 1 with periodic=0.
    Source: https://onnx.ai/onnx/operators/onnx__HannWindow.html
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> Any:
        (size,) = node.elements(0, "size")
        dtype = np_dtype_of(node.int("output_datatype", onnx.TensorProto.FLOAT), "output_datatype")
        shorter = 0 if node.int("periodic", 1) else 1
        if not is_symbolic(size):
            if size < 0:
                raise node.error(f"size={size} is negative")
            turns = np.arange(size) * (2 * np.pi / max(size - shorter, 1))
            terms = [(-1) ** k * a * np.cos(k * turns) for k, a in enumerate(weights)]
            return np.sum(terms, axis=0).astype(dtype)
        work = "float64" if dtype == np.float64 else "float32"

        def kernel(shape: list[Any]) -> te.Tensor:
            def element(i: Any) -> Any:
                period = tirx.max(shape[0] - shorter, tirx.const(1, "int64")).astype(work)
                turn = i.astype(work) * tirx.const(2 * math.pi, work) / period
                total: Any = tirx.const(weights[0], work)
                for k, weight in list(enumerate(weights))[1:]:
                    angle = turn * tirx.const(k, work)
                    total = total + tirx.const((-1) ** k * weight, work) * tirx.cos(angle)
                return total.astype(dtype.name)

            return te.compute(tuple(shape), element, name="window")

        return compute(builder, "window", kernel, relax.ShapeExpr([size]))

    return converter


def mel_weight_matrix(node: Node, inputs: Inputs, builder: Builder) -> np.ndarray:
    """(bins of a spectrum, mel bins): triangles that turn a spectrum into a mel spectrum.

    inputs, all known at import: num_mel_bins, dft_length, sample_rate, lower and upper edge in
    hertz.
    Source: https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html
    """
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge", "upper_edge")
    bins, length, rate, low, high = (node.constant(i, n).item() for i, n in enumerate(names))
    if bins < 1 or length < 1 or rate < 1 or not 0 <= low <= high:
        raise node.error(f"{bins} bins of {length} at {rate} Hz from {low} to {high} Hz")
    ends = [2595 * math.log10(1 + hertz / 700) for hertz in (low, high)]
    mels = ends[0] + np.arange(bins + 2) * ((ends[1] - ends[0]) / (bins + 2))
    edges = ((length + 1) * 700 * (10 ** (mels / 2595) - 1) // rate).astype(np.int64)
    if edges[-1] > length // 2:
        raise node.error(f"upper_edge={high} Hz is above half of the sample rate {rate} Hz")
    result = np.zeros((length // 2 + 1, bins))
    for column in range(bins):
        left, middle, right = edges[column : column + 3]
        rows = np.arange(left, middle + 1)
        result[rows, column] = (rows - left) / (middle - left) if middle > left else 1
        rows = np.arange(middle, right)
        result[rows, column] = (right - rows) / max(right - middle, 1)
    dtype = np_dtype_of(node.int("output_datatype", onnx.TensorProto.FLOAT), "output_datatype")
    return result.astype(dtype)
