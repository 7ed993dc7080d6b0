"""What a graph takes and returns, as tensors: a sequence or an optional is several of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from tvm import relax, tirx

from athanor.errors import CompileError
from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.ops.loop_kernel import int64, loop, loop_kernel, store, when
from athanor.frontends.onnx.ops.packed_sequences import Table
from athanor.frontends.onnx.ops.value_forms import (
    ABSENT,
    Form,
    form_of,
    tensors_of,
    value_of,
)
from athanor.frontends.onnx.sequence_value import (
    LARGEST_RANK,
    OPTIONAL,
    OPTIONAL_SEQUENCE,
    SEQUENCE,
    TENSOR,
    ElementShape,
    PackedOptional,
    PackedSequence,
)
from athanor.frontends.onnx.shapes import Symbols, TensorSpec, identifier, output_spec
from athanor.frontends.onnx.small_types import SMALL_TYPES
from athanor.frontends.onnx.tensor_data import np_dtype_of
from athanor.frontends.onnx.tensors import shape_of

_MOST_ELEMENTS = 1 << 46
"""Of one tensor; more than any memory has room for."""


def input_kind(value: onnx.ValueInfoProto) -> tuple[str, onnx.TypeProto.Tensor]:
    """What an input is, and the type of its tensors; CompileError for maps and sparse tensors."""
    inner = value.type
    kind = TENSOR
    if inner.HasField("optional_type"):
        kind, inner = OPTIONAL, inner.optional_type.elem_type
    if inner.HasField("sequence_type"):
        kind = SEQUENCE if kind == TENSOR else OPTIONAL_SEQUENCE
        inner = inner.sequence_type.elem_type
    if not inner.HasField("tensor_type"):
        name = inner.WhichOneof("value") or "value without a type"
        what = {TENSOR: "a", SEQUENCE: "a sequence of"}.get(kind, "an optional")
        raise CompileError(
            f"input {value.name!r} is {what} {name}; only tensors, and sequences and optionals "
            "of them, are supported"
        )
    return kind, inner.tensor_type


def sequence_input(
    value: onnx.ValueInfoProto,
    given: Sequence[int | str] | None,
    symbols: Symbols,
) -> tuple[TensorSpec, list[relax.Var], Form]:
    """The spec, main's parameters and the form of an input that is no tensor.

    `given` is the shape of each element by the user's `shapes`; names stand for any size.
    """
    kind, tensor = input_kind(value)
    name = value.name
    dtype = np_dtype_of(tensor.elem_type, f"input {name!r}")
    if dtype.kind in "OcSU" or dtype.name in SMALL_TYPES:
        text = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise CompileError(f"input {name!r} is a {kind} of {text}; it is not supported")
    sizes = _element_sizes(name, tensor, given)
    width = LARGEST_RANK if sizes is None else len(sizes)
    total, length = symbols.count(name, "elements"), symbols.count(name, "length")
    shapes = [[total], [length, 1 + width], []]
    dtypes = [dtype.name, "int64", "bool"]
    spec = TensorSpec(name, dtype.name, sizes, kind)
    params = [
        relax.Var(identifier(part), relax.TensorType(dims, part_dtype))
        for part, dims, part_dtype in zip(spec.part_names, shapes, dtypes, strict=False)
    ]
    return spec, params, Form(kind, dtype.name, ElementShape(width, sizes))


def _element_sizes(
    name: str, tensor: onnx.TypeProto.Tensor, given: Sequence[int | str] | None
) -> tuple[int | None, ...] | None:
    declared = None
    if tensor.HasField("shape"):
        declared = [
            dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
        ]
    if given is None:
        return None if declared is None else tuple(declared)
    wanted = [dim if isinstance(dim, int) else None for dim in given]
    if len(wanted) > LARGEST_RANK or any(dim is not None and dim < 0 for dim in wanted):
        raise CompileError(f"shapes: {list(given)} is no shape of an element of input {name!r}")
    if declared is not None:
        fits = len(declared) == len(wanted) and all(
            have is None or want in (None, have)
            for have, want in zip(declared, wanted, strict=True)
        )
        if not fits:
            raise CompileError(
                f"shapes: elements of input {name!r} have shape {declared}; {list(given)} was given"
            )
        wanted = [a if b is None else b for a, b in zip(declared, wanted, strict=True)]
    return tuple(wanted)


def received(spec: TensorSpec, params: list[relax.Var], form: Form, builder: ImportBuilder) -> Any:
    """The value of an input; the run is told to check that its table fits its elements."""
    value = value_of(form, params)
    sequence = value.content if isinstance(value, PackedOptional) else value
    _check_table(spec, sequence, builder)
    if spec.kind == OPTIONAL:
        builder.require(sequence.length <= 1, f"input {spec.name!r} has more than one element")
    return value


def _check_table(spec: TensorSpec, sequence: PackedSequence, builder: ImportBuilder) -> None:
    """Require ranks and sizes that fit the type, and as many elements as there are."""
    width = int(shape_of(sequence.shapes)[1]) - 1
    sizes = sequence.element.sizes

    def check(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (buffer,), (fits, state), (length, total) = ins, outs, scalars
        table = Table(buffer, sequence)
        one, sum_at, count_at, bound_at = int64(1), int64(0), int64(1), int64(2)
        store(fits, int64(0), one)
        store(state, sum_at, int64(0))
        with loop(length) as row:
            rank = buffer[row * (1 + width)]
            right = rank == len(sizes) if sizes is not None else tirx.all(rank >= 0, rank <= width)
            with when(tirx.Not(right)):
                store(fits, int64(0), int64(0))
            for place in (count_at, bound_at):
                store(state, place, one)
            for axis in range(width):
                size = table.size(row, axis)
                known = None if sizes is None else sizes[axis]
                wrong = size < 0 if known is None else size != known
                with when(tirx.all(rank > axis, wrong)):
                    store(fits, int64(0), int64(0))
                with when(tirx.all(rank > axis, fits[0] > 0)):
                    # with 1 in the place of 0, so that no product of the sizes overflows anywhere
                    extent = tirx.max(size, one)
                    with when(state[bound_at] > tirx.floordiv(int64(_MOST_ELEMENTS), extent)):
                        store(fits, int64(0), int64(0))
                    with when(fits[0] > 0):
                        store(state, bound_at, state[bound_at] * extent)
                        store(state, count_at, state[count_at] * size)
            # what is larger than the total needs no exact value
            store(state, sum_at, tirx.min(state[sum_at] + state[count_at], total + 1))
        with when(state[sum_at] != total):
            store(fits, int64(0), int64(0))

    outputs = [([1], "int64"), ([3], "int64")]
    scalars = [sequence.length, sequence.total]
    fits, _ = loop_kernel(builder, "check_shapes", [sequence.shapes], outputs, scalars, check)
    (value,) = builder.late_values(fits, 1)
    shape = "" if sizes is None else f" or are not {['any' if s is None else s for s in sizes]}"
    builder.require(value > 0, f"the shapes of input {spec.name!r} do not fit its elements{shape}")


def returned(
    value: onnx.ValueInfoProto,
    result: Any,
    small_type: str,
    symbols: Symbols,
    builder: ImportBuilder,
) -> tuple[TensorSpec, list[relax.Expr]]:
    """The spec of an output, and its tensors."""
    form = form_of(result)
    if form.kind == TENSOR:
        return output_spec(value.name, result, symbols, small_type), [result]
    if form.kind == ABSENT:
        kind, tensor = input_kind(value)
        dtype = np_dtype_of(tensor.elem_type, f"output {value.name!r}").name
        form = Form(OPTIONAL if kind == TENSOR else kind, dtype)
    sizes = () if form.element.is_empty else form.element.sizes
    return TensorSpec(value.name, form.dtype, sizes, form.kind), tensors_of(result, form, builder)
