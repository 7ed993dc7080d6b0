"""Transposes that move the innermost axis, tile by tile in vector registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

PARALLEL_BYTES = 1 << 17
"""Below this much data waking a second core costs more than it gives."""


@dataclass(frozen=True)
class Transpose:
    """Axes of a transpose, with those joined that stay neighbours; strides in elements.

    outer: (extent, stride of the source, stride of the result) of every axis that is innermost on
    neither side. rows: extent and stride of the source of the axis that the result has innermost.
    columns: extent and stride of the result of the axis that the source has innermost.
    """

    outer: tuple[tuple[int, int, int], ...]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def elements(self) -> int:
        """Of the whole."""
        return math.prod((*(extent for extent, _, _ in self.outer), self.rows[0], self.columns[0]))


def plan_transpose(shape: Sequence[int], order: Sequence[int]) -> Transpose | None:
    """What `transpose(x, order)` does to x of that shape; None where the last axis stays last."""
    kept = [axis for axis in order if shape[axis] != 1]
    groups: list[list[int]] = []
    for axis in kept:
        before = groups[-1][-1] if groups else -1
        if (
            groups
            and all(shape[between] == 1 for between in range(before + 1, axis))
            and (before < axis)
        ):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) < 2 or groups[-1] == max(groups):
        return None
    axes: list[tuple[int, int, int]] = []
    stride = 1
    for group in reversed(groups):
        extent = math.prod(shape[axis] for axis in group)
        axes.insert(0, (extent, math.prod(shape[group[-1] + 1 :]), stride))
        stride *= extent
    *others, last = axes
    first = next(axis for axis in others if axis[1] == 1)
    outer = tuple(axis for axis in others if axis is not first)
    return Transpose(outer, (last[0], last[1]), (first[0], first[2]))


def transpose_kernel(transpose: Transpose, lanes: int) -> tirx.PrimFunc:
    """(source, result), both flat float32; `lanes` rows and columns at least.

        for outer axes, `lanes` rows in parallel:
            for `lanes` columns:
                result tile = transpose(source tile)        # a whole cache line at a time

    The last tile along an axis overlaps the one before it, so that no element is left over.
    """
    (rows, row_step), (columns, column_step) = transpose.rows, transpose.columns
    assert rows >= lanes <= columns, "a tile is whole"
    strips = -(-rows // lanes)
    tasks = transpose.elements // (rows * columns) * strips
    small = 4 * transpose.elements < PARALLEL_BYTES
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name("transpose")
            source = I.arg("source", I.buffer((transpose.elements,), "float32"))
            result = I.arg("result", I.buffer((transpose.elements,), "float32"))
            # 8 is TVM's kOpaque: what has no block can't be fused
            I.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
            with (I.serial if small else I.parallel)(_i64(0), _i64(tasks)) as task:
                row = tirx.min(tirx.floormod(task, _i64(strips)) * lanes, _i64(rows - lanes))
                index, start, place = tirx.floordiv(task, _i64(strips)), row * row_step, row
                for extent, step, result_step in reversed(transpose.outer):
                    position = tirx.floormod(index, _i64(extent))
                    start, place = start + position * step, place + position * result_step
                    index = tirx.floordiv(index, _i64(extent))
                with I.serial(_i64(0), _i64(-(-columns // lanes))) as tile:
                    column = tirx.min(tile * lanes, _i64(columns - lanes))
                    I.evaluate(
                        tirx.call_extern(
                            "int32",
                            f"athanor_transpose_{lanes}",
                            tirx.address_of(source[start + column]),
                            _i64(row_step),
                            _i64(lanes),
                            tirx.address_of(result[place + column * column_step]),
                            _i64(column_step),
                            _i64(lanes),
                        )
                    )
    return frame.get()


def _i64(value: int) -> Any:
    return tirx.IntImm("int64", value)
