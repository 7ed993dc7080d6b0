"""The com.microsoft domain: float products with integer weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from athanor.frontends.onnx.known import constant, is_symbolic
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.broadcasting import unify
from athanor.frontends.onnx.ops.contrib_attention import attention_of
from athanor.frontends.onnx.ops.elementwise import broadcast_compute
from athanor.frontends.onnx.ops.matmul import matmul
from athanor.frontends.onnx.ops.quantization import (
    dynamically_quantized,
    requantized,
    rounded_product,
)
from athanor.frontends.onnx.ops.quantization_products import integer_product
from athanor.frontends.onnx.tensors import (
    as_constant,
    cast,
    compute,
    dtype_of,
    np_dtype,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def matmul_integer_to_float(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """MatMulInteger times both scales, plus the optional bias.

    inputs: A, B, a_scale, b_scale, optional a_zero_point, b_zero_point and bias.
    """
    a, b, a_scale, b_scale = inputs[:4]
    a_point, b_point, bias = (
        inputs[index] if node.has_input(index, inputs) else None for index in (4, 5, 6)
    )
    return _scaled(node, (a, a_scale, a_point), (b, b_scale, b_point), bias, builder)


def dynamic_quantize_matmul(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """A quantized as by DynamicQuantizeLinear, times B, as float.

    inputs: A (float32), B, b_scale, optional b_zero_point and bias.
    """
    a, b, b_scale = inputs[:3]
    b_point, bias = (inputs[i] if node.has_input(i, inputs) else None for i in (3, 4))
    small, scale, point = dynamically_quantized(a, builder)
    return _scaled(node, (small, scale, point), (b, b_scale, b_point), bias, builder)


def _scaled(
    node: Node, left: tuple[Any, ...], right: tuple[Any, ...], bias: Any, builder: Builder
) -> relax.Expr:
    """The integer product of (tensor, scale, zero point) pairs as float, plus bias."""
    a, a_scale, a_point = left
    b, b_scale, b_point = right
    total = integer_product(node, a, b, a_point, b_point, builder)
    factors = [_single(node, a_scale, "a_scale", builder), _of_columns(node, b, b_scale, builder)]
    factor = rounded_product(factors, None, builder)
    dtype = dtype_of(a_scale)

    def element(value: Any, scale: Any, *offset: Any) -> Any:
        result = value.astype("float32") * scale.astype("float32")
        if offset:
            result = result + offset[0].astype("float32")
        return result.astype(dtype)

    operands = [total, factor, *([bias] if bias is not None else [])]
    return broadcast_compute(builder, "scale", element, *operands)


def q_gemm(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`alpha * A' @ B' + C` of 8-bit matrices, quantized, or float32 where y_scale is absent.

    inputs: A, its scale and zero point, B, its scale and zero point (one, or one a column),
    optional C (int32, in steps of alpha * a_scale * b_scale), optional y_scale and y_zero_point.
    """
    optional = [inputs[i] if node.has_input(i, inputs) else None for i in range(9)]
    a, a_scale, a_point, b, b_scale, b_point, bias, y_scale, y_point = optional
    assert a is not None and b is not None and a_scale is not None and b_scale is not None
    if node.int("transA", 0):
        a = builder.emit(R.permute_dims(a))
    if node.int("transB", 0):
        b = builder.emit(R.permute_dims(b))
    total = integer_product(node, a, b, a_point, b_point, builder)
    if bias is not None:
        total = builder.emit(R.add(*unify([total, bias], builder)))
    factors = [_single(node, a_scale, "a_scale", builder), _of_columns(node, b, b_scale, builder)]
    alpha = node.float("alpha", 1.0)
    if alpha != 1.0:
        factors.append(scalar(alpha, "float32"))
    if y_scale is None:
        factor = rounded_product(factors, None, builder)
        return R.multiply(cast(total, "float32", builder), factor)
    divisor = _single(node, y_scale, "y_scale", builder)
    point = scalar(0, "uint8")
    if y_point is not None:
        point = _single(node, y_point, "y_zero_point", builder)
    factor = rounded_product(factors, divisor, builder)
    return requantized(total, factor, point, dtype_of(point), builder)


def _single(node: Node, value: relax.Expr, what: str, builder: Builder) -> relax.Expr:
    if any(dim != 1 for dim in shape_of(value)):
        raise node.error(f"{what} {shape_of(value)}: one element is supported")
    return reshape(value, [], builder)


def _of_columns(node: Node, b: relax.Expr, scale: relax.Expr, builder: Builder) -> relax.Expr:
    """A scale of B: one element, or one for each column."""
    if all(dim == 1 for dim in shape_of(scale)):
        return reshape(scale, [], builder)
    if rank_of(scale) != 1 or shape_of(scale)[0] != shape_of(b)[-1]:
        raise node.error(f"b_scale {shape_of(scale)} does not fit the columns of {shape_of(b)}")
    return scale


def q_attention(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr | None, ...]:
    """Attention of an 8-bit input with 8-bit projections; results output and present.

    inputs: x (B, S, D), weights (D, 3 * H), bias, their scales, mask_index, their zero points,
    past (2, B, N, P, H).
    """
    optional = [inputs[i] if node.has_input(i, inputs) else None for i in range(9)]
    x, weight, bias, x_scale, w_scale, mask, x_point, w_point, past = optional
    projected = _scaled(node, (x, x_scale, x_point), (weight, w_scale, w_point), bias, builder)
    return attention_of(node, projected, mask, past, None, builder)


def matmul_n_bits(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`A @ dequantized(B)^T + bias` with B in blocks of `block_size` along K.

    inputs: A (..., K), B (N, blocks, block_size * bits / 8) uint8, the low bits first, scales
    (N * blocks), optional zero points (packed as B, or one of A's type each), g_idx, bias (N,).
    Constant weights are dequantized here.
    """
    a = inputs[0]
    bits, block = node.int("bits", 4), node.int("block_size")
    depth, width = node.int("K"), node.int("N")
    if bits not in (2, 4, 8):
        raise node.error(f"bits={bits}; 2, 4 and 8 are supported")
    if block < 16 or block & (block - 1):
        raise node.error(f"block_size={block} is no power of 2 from 16 on")
    if node.int("weight_prepacked", 0):
        raise node.error("weight_prepacked is not supported; its layout belongs to one GPU")
    if node.has_input(4, inputs):
        raise node.error("g_idx is not supported")
    if is_symbolic(shape_of(a)[-1]) or shape_of(a)[-1] != depth:
        raise node.error(f"input {shape_of(a)} does not end in K={depth}")
    points = inputs[3] if node.has_input(3, inputs) else None
    arrays = [as_constant(value) if value is not None else None for value in inputs[1:4]]
    if arrays[0] is None or arrays[1] is None or (points is not None and arrays[2] is None):
        weight = _unpacked(node, inputs[1], inputs[2], points, builder)
    else:
        zero = arrays[2] if points is not None else None
        weight = constant(_dequantized(node, arrays[0], arrays[1], zero), dtype_of(a))
    if shape_of(weight) != [depth, width]:
        raise node.error(f"weights {shape_of(weight)} are not (K, N) = {[depth, width]}")
    result = builder.emit(matmul(node, [a, weight], builder))
    if not node.has_input(5, inputs):
        return result
    return R.add(*unify([result, inputs[5]], builder))


def _bit_fields(packed: np.ndarray, bits: int) -> np.ndarray:
    """The last axis of bytes as numbers of `bits`, the low bits first."""
    count = 8 // bits
    shifts = np.arange(count, dtype=np.uint8) * np.uint8(bits)
    fields = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(*packed.shape[:-1], packed.shape[-1] * count)


def _sizes(node: Node) -> tuple[int, int, int, int, int]:
    bits, block = node.int("bits", 4), node.int("block_size")
    depth, width = node.int("K"), node.int("N")
    return bits, block, depth, width, -(-depth // block)


def _dequantized(
    node: Node, packed: np.ndarray, scales: np.ndarray, points: np.ndarray | None
) -> np.ndarray:
    """The weights as float32 (K, N)."""
    bits, block, depth, width, blocks = _sizes(node)
    if packed.size * 8 != width * blocks * block * bits or scales.size != width * blocks:
        raise node.error(
            f"B {list(packed.shape)} or scales {list(scales.shape)} do not fit N={width}, "
            f"K={depth}, block_size={block}, bits={bits}"
        )
    values = _bit_fields(packed.reshape(width, blocks, -1), bits).astype(np.float32)
    zero: Any = np.float32(1 << (bits - 1))
    if points is not None and points.dtype == np.uint8:
        rows = points.reshape(width, -1)
        if rows.shape[1] != -(-blocks * bits // 8):
            raise node.error(f"zero points {list(points.shape)} do not fit {blocks} blocks")
        zero = _bit_fields(rows, bits)[:, :blocks, None].astype(np.float32)
    elif points is not None:
        zero = points.reshape(width, blocks, 1).astype(np.float32)
    values -= zero
    values *= scales.reshape(width, blocks, 1).astype(np.float32)
    return np.ascontiguousarray(values.reshape(width, blocks * block)[:, :depth].T)


def _unpacked(
    node: Node, packed: relax.Expr, scales: relax.Expr, points: Any, builder: Builder
) -> relax.Expr:
    """The weights (K, N) of run-time tensors, by a kernel."""
    bits, block, depth, width, blocks = _sizes(node)
    dtype, count = dtype_of(scales), 8 // bits
    packed = reshape(packed, [width, blocks, block * bits // 8], builder)
    scales = reshape(scales, [width, blocks], builder)
    is_packed = points is not None and dtype_of(points) == "uint8"
    if points is not None:
        columns = -(-blocks * bits // 8) if is_packed else blocks
        points = reshape(points, [width, columns], builder)

    def field(byte: Any, position: Any) -> Any:
        shift = (position % count * bits).astype("int32")
        return ((byte.astype("int32") >> shift) & ((1 << bits) - 1)).astype("float32")

    def kernel(weight: te.Tensor, steps: te.Tensor, *zeros: te.Tensor) -> te.Tensor:
        def element(k: Any, n: Any) -> Any:
            group, place = k // block, k % block
            value = field(weight(n, group, place // count), place)
            zero = tirx.const(float(1 << (bits - 1)), "float32")
            if is_packed:
                zero = field(zeros[0](n, group // count), group)
            elif zeros:
                zero = zeros[0](n, group).astype("float32")
            return ((value - zero) * steps(n, group).astype("float32")).astype(dtype)

        return te.compute((depth, width), element, name="unpack_weights")

    given = [points] if points is not None else []
    assert np_dtype(dtype).kind in "fV"
    return compute(builder, "unpack_weights", kernel, packed, scales, *given)
