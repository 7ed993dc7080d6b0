"""Pack constant matrices for the matrix product kernels."""

from __future__ import annotations

import math

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.choices import Choices
from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    array_constant,
    batches_fit,
    constant_array,
    op_name,
    static_shape,
)
from athanor.schedules.blocks import constant
from athanor.schedules.compute import few_rows, int16, matmul
from athanor.schedules.compute.bf16 import pack_pairs
from athanor.schedules.compute.pack import pack_kernel
from athanor.targets import TargetSpec

DOTS = 0
"""Choice: columns are computed one by one."""
TILE = 100
"""Choice of a register tile: panel * TILE + rows."""
TILE_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
"""Rows that a tuner may try."""
_BITS = {"float32": 32, "int32": 32, "uint32": 32, "float64": 64, "int64": 64, "uint64": 64}
"""Of the types that products are summed up in."""
_WIDENED = (("float16", "float32"), ("bfloat16", "float32"), ("int16", "int32"))
"""Types that are multiplied in another one."""
LESS_PADDED = 0.9
"""Columns, empty ones too, against panels of one vector from which narrower ones are tried."""


@tvm.transform.module_pass(opt_level=0, name="PackMatmul")
class PackMatmul:
    """Turn `matmul` into the computes that the matrix product rules schedule.

        y = R.matmul(x, w)    =>    y = matmul_packed(x, packed w)    # w constant, (K, N)
        y = R.matmul(a, b)    =>    y = batch_matmul(a, b)            # both known at run time

    A transpose of the last two axes in front of `b` is taken into the product. Batch axes of one
    operand may be missing or 1: along those that `b` lacks, rows of `a` are just more rows.
    Packed weights are (N / panel, K, panel), zero-padded. With bf16, an even K is multiplied in
    pairs of bfloat16:

        y = R.matmul(x, w)    =>    y = matmul_packed(R.astype(x, "bfloat16"), packed pairs of w)

    float16 and bfloat16 are widened to float32, in which they are summed up; int16, which is what
    8-bit products become, is multiplied in pairs where w is constant:

        y = R.matmul(x, w, out_dtype="int32")   =>   y = matmul_packed(x, packed pairs of w)

    Vectors, and operands of two types, keep Relax's own legalization.
    After FoldConstants, before LegalizeOps.
    """

    def __init__(
        self, target: TargetSpec, bf16: bool = False, choices: Choices | None = None
    ) -> None:
        self.target, self.bf16 = target, bf16
        self.choices = choices or Choices()

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.target, self.bf16, self.choices).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, target: TargetSpec, bf16: bool, choices: Choices) -> None:
        super().__init__(mod)
        self.target, self.bf16 = target, bf16
        self.choices = choices

    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.matmul"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.matmul":
            return None
        a, b = call.args
        ranks = [len(arg.ty.shape.values) for arg in (a, b)]
        sizes = [constant(size) for operand in (a, b) for size in operand.ty.shape.values]
        types = *(str(arg.ty.dtype) for arg in (a, b)), str(old.ty.dtype)
        if min(ranks) < 2 or types[0] != types[1] or 0 in sizes:
            return None
        weights = self.constant(b)
        if types[1:] == ("int16", "int32") and weights is not None and ranks[1] == 2:
            return self.integer_product(a, weights, name)
        if types[1:] in _WIDENED:
            a, b = (self.widened(operand, types[2]) for operand in (a, b))
            weights = self.constant(b)
        elif types[1] != types[2] or types[2] not in _BITS:
            return None
        bits = _BITS[types[2]]
        if weights is not None and ranks[1] == 2 and types[2] != "float32":
            return self.emit(self.wide_product(a, weights, bits), name)
        if weights is not None and ranks[1] == 2:
            depth, columns = weights.shape
            tile = self.constant_tile(a, depth, columns)
            if tile == DOTS:
                rows = array_constant(weights.T)
                return self.emit(self.call(matmul.matmul_dots, a, rows, hint="matmul"), name)
            panel, tile_rows = divmod(tile, TILE)
            packed = array_constant(matmul.weight_panels(weights, False, self.target, panel))
            if self.bf16 and depth % 2 == 0:
                a, packed = self.narrow(a), relax.const(pack_pairs(constant_array(packed), 1))
                tile_rows = 0

            def dense(x: te.Tensor, w: te.Tensor) -> te.Tensor:
                return matmul.matmul_packed(x, w, columns, tile_rows or None)

            made = self.call(dense, a, packed, hint="matmul", options=(columns, tile_rows))
            return self.emit(made, name)
        if not batches_fit(a, b):
            return None  # a symbol beside another one
        swapped = self.swaps_last_axes(b)
        b = self.definition[b].args[0] if swapped else b
        a, b = self.fold_batch(a, b)
        made = self.run_time_product(a, b, swapped, bits)
        if len(a.ty.shape.values) == len(old.ty.shape.values):
            return self.emit(made, name)
        return self.emit(relax.op.reshape(self.emit(made), old.ty.shape), name)

    def widened(self, value: Expr, dtype: str) -> Expr:
        """The value in that type; a constant here, a transposed one before its transpose."""
        known = self.constant(value)
        if known is not None:
            return array_constant(known.astype(dtype))
        if self.swaps_last_axes(value):
            made = self.definition[value]
            source = self.emit(relax.op.astype(made.args[0], dtype))
            return self.emit(relax.op.permute_dims(source, made.attrs.axes))
        return self.emit(relax.op.astype(value, dtype))

    def wide_product(self, a: Expr, weights: np.ndarray, bits: int) -> Call:
        """The kernel call of a product with a weight of float64 or integers."""
        depth, columns = weights.shape
        if matmul.worth_dots(depth, columns, self.target):
            return self.call(matmul.matmul_dots, a, array_constant(weights.T), hint="matmul")
        panel = max(1, matmul.matmul_panel(self.target, columns, depth) * 32 // bits)
        packed = array_constant(matmul.weight_panels(weights, False, self.target, panel))

        def dense(x: te.Tensor, w: te.Tensor) -> te.Tensor:
            return matmul.matmul_packed(x, w, columns)

        return self.call(dense, a, packed, hint="matmul", options=columns)

    def integer_product(self, a: Expr, weights: np.ndarray, name: str) -> Expr:
        """The product of int16 numbers with a weight of such, in int32."""
        depth, columns = weights.shape
        panel = matmul.matmul_panel(self.target, columns)
        panels = matmul.weight_panels(weights, False, self.target, panel)
        packed = relax.const(int16.pack_pairs(panels, 1))
        if depth % 2:

            def even(x: te.Tensor) -> te.Tensor:
                return _with_zero(x, depth)

            a = self.emit(self.call(even, a, hint="pad", options=depth))

        def dense(x: te.Tensor, w: te.Tensor) -> te.Tensor:
            return matmul.matmul_packed(x, w, columns)

        made = self.call(dense, a, packed, hint="matmul", options=columns)
        return self.emit(made, name)

    def fold_batch(self, a: Expr, b: Expr) -> tuple[Expr, Expr]:
        """Operands of equal rank; batch axes along which b repeats are rows of a where they can be.

        (..., h, m, k) @ (..., 1, k, n)  ->  (..., h * m, k) @ (..., k, n)
        """
        rank = max(len(operand.ty.shape.values) for operand in (a, b))
        left, right = (_with_rank(operand, rank) for operand in (a, b))
        while len(right) > 2 and constant(right[-3]) == 1 and constant(left[-3]) is not None:
            known = constant(left[-2])
            if known is None and constant(left[-3]) != 1:
                break
            rows = left[-2] if known is None else known * int(left[-3])
            left[-3:-1] = [rows]
            del right[-3]
        return self.shaped(a, left), self.shaped(b, right)

    def shaped(self, value: Expr, shape: list[Expr | int]) -> Expr:
        """The value in that shape."""
        if tvm_ffi.structural_equal(list(value.ty.shape.values), shape):
            return value
        return self.emit(relax.op.reshape(value, shape))

    def run_time_product(self, a: Expr, b: Expr, swapped: bool, bits: int) -> Expr:
        """The kernel call of a @ b, or a @ b^T where swapped; batch axes are equal or 1."""
        is_float32 = str(a.ty.dtype) == "float32"
        by_hand = self.read_once(a, b, swapped) if is_float32 else None
        if by_hand is not None:
            return by_hand
        if is_float32 and not swapped and self.has_few_rows(a, b):
            return self.call(matmul.few_rows_matmul, a, b, hint="matmul")
        if is_float32:
            panel, rows = divmod(self.run_time_tile(a, b, swapped), TILE)
        else:
            columns = None if swapped else constant(b.ty.shape.values[-1])
            panel, rows = matmul.run_time_panel(self.target, columns) * 32 // bits, 0
        panels = self.in_panels(b, panel) if swapped and is_float32 else None
        width = None if panels is None else int(b.ty.shape.values[-2])

        def product(left: te.Tensor, right: te.Tensor) -> te.Tensor:
            turned = swapped and width is None
            return matmul.batch_matmul(left, right, False, turned, panel, rows or None, width)

        right = b if panels is None else panels
        options = swapped, panel, rows, width
        return self.call(product, a, right, hint="batch_matmul", options=options)

    def read_once(self, a: Expr, b: Expr, swapped: bool) -> Expr | None:
        """The kernel call where b is read once, where it lies; None where another kernel is."""
        shape, other = static_shape(a), static_shape(b)
        if shape is None or other is None or shape[:-2] != other[:-2]:
            return None
        *batch, rows, depth = shape
        images, columns = math.prod(batch), other[-2] if swapped else other[-1]
        operands = (a, shape), (b, other)
        if columns == 1 and few_rows.worth_dots(1, rows, self.target):
            # (a @ b)^T = b^T @ a^T, where b^T is the one row and lies as b does
            operands = operands[::-1]
            func = few_rows.row_dots_kernel(images, 1, rows, depth, self.target)
        elif swapped and few_rows.worth_dots(rows, columns, self.target):
            func = few_rows.row_dots_kernel(images, rows, columns, depth, self.target)
        elif not swapped and few_rows.worth_lines(images, rows, depth, columns, self.target):
            func = few_rows.row_lines_kernel(images, rows, depth, columns, self.target)
        else:
            return None
        kernel = self.builder.add_func(func, "matmul")
        flat = [self.shaped(operand, [math.prod(sizes)]) for operand, sizes in operands]
        ty = relax.TensorType([images * rows * columns], "float32")
        made = self.emit(relax.call_tir(kernel, flat, ty))
        return relax.op.reshape(made, [*batch, rows, columns])

    def in_panels(self, value: Expr, panel: int) -> Expr | None:
        """(..., N, K) -> (..., ceil(N / panel), K, panel), whole vectors turned in registers.

        None where a size is known only to the run.
        """
        shape = static_shape(value)
        if shape is None or 0 in shape:
            return None
        *batch, columns, depth = shape
        images = math.prod(batch)
        lanes = min(panel, self.target.lanes(32))
        kernel = self.builder.add_func(
            pack_kernel(images, columns, 1, depth, panel, lanes), "pack_panels"
        )
        panels = -(-columns // panel)
        flat = self.emit(relax.op.reshape(value, [images, columns, 1, depth]))
        ty = relax.TensorType([images, panels, 1, depth, panel], "float32")
        packed = self.emit(relax.call_tir(kernel, [flat], ty))
        return self.emit(relax.op.reshape(packed, [*batch, panels, depth, panel]))

    def has_few_rows(self, a: Expr, b: Expr) -> bool:
        """Whether b is better read where it lies, a vector of a row at a time."""
        shape, other = static_shape(a), static_shape(b)
        if shape is None or other is None or 0 in (*shape, *other):
            return False
        return shape[-2] <= matmul.FEW_ROWS and other[-1] >= self.target.lanes(32)

    def constant_tile(self, a: Expr, depth: int, columns: int) -> int:
        """The register tile of a product with a weight as panel * TILE + rows, or DOTS.

        Rows are 0 where the compute decides them.
        """
        panel = matmul.matmul_panel(self.target, columns, None if self.bf16 else depth)
        dots = matmul.worth_dots(depth, columns, self.target)
        shape = static_shape(a)
        if shape is None or self.bf16:
            return DOTS if dots else panel * TILE
        rows = math.prod(shape[:-1])
        tiles = self.tiles(rows, columns)
        preferred = panel * TILE + matmul.tile_rows(rows, panel, depth, self.target)
        few = [DOTS] if columns <= 2 * self.target.lanes(32) else []
        key = f"matmul {'x'.join(map(str, shape))}, {depth}x{columns}"
        return self.choices.choose(
            key,
            sorted({*few, *tiles, preferred, *([DOTS] if dots else [])}),
            DOTS if dots else preferred,
            self.current,
        )

    def run_time_tile(self, a: Expr, b: Expr, swapped: bool) -> int:
        """The register tile of a product of two values of the run, as panel * TILE + rows."""
        shape, other = static_shape(a), static_shape(b)
        if shape is None or other is None:
            return matmul.run_time_panel(self.target, None) * TILE
        # A transposed operand is read along its rows, which are a panel's columns.
        columns = None if swapped else other[-1]
        panel = matmul.run_time_panel(self.target, columns)
        preferred = panel * TILE + matmul.tile_rows(shape[-2], panel, shape[-1], self.target)
        sizes = "x".join(map(str, shape)), "x".join(map(str, other))
        key = f"batch_matmul {sizes[0]}, {sizes[1]}{' transposed' if swapped else ''}"
        candidates = sorted({*self.tiles(shape[-2], columns), preferred})
        return self.choices.choose(key, candidates, preferred, self.current)

    def tiles(self, rows: int, columns: int | None) -> list[int]:
        """Register tiles that a tuner may try: panels of one to four vectors.

        And of a part of one, where that leaves much less of the last panel empty.
        """
        lanes = self.target.lanes(32)
        found = []
        for panel in (4, 8, lanes, 2 * lanes, 4 * lanes):
            vectors = max(1, panel // lanes)
            if panel < lanes and (columns is None or _padded(columns, panel, lanes) > LESS_PADDED):
                continue
            most = (self.target.vector_registers - 1 - vectors) // vectors
            if vectors == 1:  # each weight may stay in memory
                most = min(most, 16)
            sizes = {min(most, rows), *(n for n in TILE_ROWS if n <= min(most, rows))}
            found += [panel * TILE + n for n in sizes if n > 0]
        return found


def _with_rank(operand: Expr, rank: int) -> list[Expr | int]:
    """The shape with ones in front."""
    shape = list(operand.ty.shape.values)
    return [*[tirx.IntImm("int64", 1)] * (rank - len(shape)), *shape]


def _with_zero(x: te.Tensor, depth: int) -> te.Tensor:
    """A zero behind the last axis, of that length."""
    zero = tirx.const(0, x.dtype)
    return te.compute(
        (*x.shape[:-1], depth + 1),
        lambda *i: tirx.if_then_else(i[-1] < depth, x(*i[:-1], tirx.min(i[-1], depth - 1)), zero),
        name="pad",
    )


def _padded(columns: int, panel: int, lanes: int) -> float:
    """Columns, empty ones too, in panels of that width, against panels of one vector."""
    return -(-columns // panel) * panel / (-(-columns // lanes) * lanes)
