"""Kernels that are plain loops in a fixed order: sorting, compaction, selection.

What comes next depends on what was found before, so there is nothing to schedule; such a kernel
keeps its loops (attribute `tirx.is_scheduled`). It sees flat buffers, and sizes as scalars that may
be symbolic, so one way of writing it serves every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as I

from athanor.frontends.onnx.known import as_int, is_symbolic, product
from athanor.frontends.onnx.tensors import dtype_of, reshape, shape_of

Body = Callable[[list[Any], list[Any], list[Any]], None]
"""Called with the input buffers, the output buffers and the scalars; emits the loops."""


def loop_kernel(
    builder: relax.BlockBuilder,
    name: str,
    inputs: Sequence[relax.Expr],
    outputs: Sequence[tuple[Sequence[Any], str]],
    scalars: Sequence[Any],
    body: Body,
) -> list[relax.Expr]:
    """Emit a kernel; `outputs` are shapes and dtypes, scalars int64 numbers or expressions.

    Numbers stay numbers in the kernel, expressions become its parameters.
    """
    sizes = [product(shape_of(x)) for x in inputs] + [product(shape) for shape, _ in outputs]
    given = [as_int(value) for value in (*scalars, *sizes)]
    arguments = [value for value in given if is_symbolic(value)]
    with IRBuilder() as frame:
        with I.prim_func(is_private=True, s_tir=True):
            I.func_name(name)
            values = [_parameter(number, value) for number, value in enumerate(given)]
            extents = values[len(scalars) :]
            dtypes = [dtype_of(x) for x in inputs] + [dtype for _, dtype in outputs]
            buffers = [
                I.arg(f"b{number}", I.buffer((extent,), dtype))
                for number, (extent, dtype) in enumerate(zip(extents, dtypes, strict=True))
            ]
            # 8 is TVM's kOpaque: what has no block can't be fused
            I.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
            body(buffers[: len(inputs)], buffers[len(inputs) :], values[: len(scalars)])
    kernel = builder.add_func(frame.get(), name)
    flat = [reshape(x, [size], builder) for x, size in zip(inputs, sizes, strict=False)]
    types = [
        relax.TensorType([size], dtype)
        for size, (_, dtype) in zip(sizes[len(inputs) :], outputs, strict=True)
    ]
    call = builder.emit(relax.call_tir(kernel, [*arguments, *flat], types))
    parts = [call] if len(types) == 1 else _parts(call, len(types), builder)
    return [
        reshape(part, list(shape), builder) for part, (shape, _) in zip(parts, outputs, strict=True)
    ]


def _parameter(number: int, value: Any) -> Any:
    if not is_symbolic(value):
        return tirx.IntImm("int64", value)
    return I.arg(f"n{number}", tirx.Var(f"n{number}", "int64"))


def _parts(call: relax.Expr, count: int, builder: relax.BlockBuilder) -> list[relax.Expr]:
    return [builder.emit(relax.TupleGetItem(call, index)) for index in range(count)]


def int64(value: int) -> tirx.IntImm:
    """A number in a kernel."""
    return tirx.IntImm("int64", value)


def loop(extent: Any) -> Any:
    """`for i in range(extent)`; use with `with`."""
    return I.serial(int64(0), int64(extent) if isinstance(extent, int) else extent)


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """`if condition:`."""
    with I.If(condition), I.Then():
        yield


def store(buffer: Any, index: Any, value: Any) -> None:
    """`buffer[index] = value`."""
    I.buffer_store(buffer, value, [index])


def is_less(left: Any, right: Any) -> Any:
    """Numpy's order: NaN behind all numbers."""
    if "float" not in str(left.ty.dtype):
        return left < right
    return tirx.any(left < right, tirx.all(is_nan(right), tirx.Not(is_nan(left))))


def is_nan(value: Any) -> Any:
    """Whether a float of any width is NaN."""
    dtype = str(value.ty.dtype)
    return tirx.isnan(value if dtype in ("float32", "float64") else tirx.Cast("float32", value))


def merge_sort(order: Any, scratch: Any, state: Any, base: Any, length: Any, less: Any) -> None:
    """Sort `order[base : base + length]`, which holds 0, 1, ..., by `less(i, j)`; stable.

    scratch is as long as order; state holds 4 int64. Bottom-up merges of runs of 1, 2, 4, ...
    """
    run, left, right, middle = (int64(index) for index in range(4))
    store(state, run, int64(1))
    with loop(63), when(state[run] < length):
        with loop((length + 2 * state[run] - 1) // (2 * state[run])) as pair:
            start = pair * 2 * state[run]
            end = tirx.min(start + 2 * state[run], length)
            store(state, left, start)
            store(state, middle, tirx.min(start + state[run], length))
            store(state, right, state[middle])
            with loop(end - start) as step:
                out_of_left = state[left] >= state[middle]
                # clamped, for both operands of the comparison are read whatever it is for
                last = length - 1
                i, j = tirx.min(state[left], last), tirx.min(state[right], last)
                right_wins = tirx.all(state[right] < end, less(order[base + j], order[base + i]))
                take_right = tirx.any(out_of_left, right_wins)
                with I.If(take_right):
                    with I.Then():
                        store(scratch, base + start + step, order[base + j])
                        store(state, right, state[right] + 1)
                    with I.Else():
                        store(scratch, base + start + step, order[base + i])
                        store(state, left, state[left] + 1)
        with loop(length) as index:
            store(order, base + index, scratch[base + index])
        store(state, run, state[run] * 2)
