"""Operators on strings; what a string tensor is, text.py tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.operators import Converter
from athanor.frontends.onnx.ops.broadcasting import broadcast_shape, unify
from athanor.frontends.onnx.ops.data_dependent import take_rows, unique
from athanor.frontends.onnx.regex import compile_regex
from athanor.frontends.onnx.regex_syntax import RegexError
from athanor.frontends.onnx.small_types import STRING, Carried
from athanor.frontends.onnx.tensors import reshape, shape_of
from athanor.frontends.onnx.text import encoded, host_call, string_constant

R = relax.op
Inputs = list[relax.Expr]


def of_strings(for_strings: Converter, otherwise: Converter) -> Converter:
    """A converter that takes the first one where input 0 is a string tensor."""

    def converter(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
        is_string = node.small_type(0) == STRING
        return (for_strings if is_string else otherwise)(node, inputs, builder)

    return converter


def only_strings(convert: Callable[..., Any]) -> Converter:
    """The converter of an operator that takes nothing but strings."""

    def converter(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
        if node.small_type(0) != STRING:
            raise node.error("input 0 is no string tensor")
        return convert(node, inputs, builder)

    return converter


def _broadcast(inputs: Inputs, builder: ImportBuilder) -> tuple[Inputs, list[Any]]:
    """Both operands in their common shape."""
    operands = unify(inputs, builder)
    shape = broadcast_shape([shape_of(x) for x in operands])
    wide = relax.ShapeExpr(shape)
    return [builder.emit(R.broadcast_to(x, wide)) for x in operands], shape


def equal(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Whether strings are the same, byte for byte.

    Source: https://onnx.ai/onnx/operators/onnx__Equal.html
    """
    operands, shape = _broadcast(inputs, builder)
    return host_call("string_equal", operands, [(shape, "bool")], builder)[0]


@only_strings
def concat(node: Node, inputs: Inputs, builder: ImportBuilder) -> Carried:
    """Each string of the first input followed by that of the second.

    Source: https://onnx.ai/onnx/operators/onnx__StringConcat.html
    """
    operands, shape = _broadcast(inputs, builder)
    (result,) = host_call("string_concat", operands, [(shape, "int64")], builder)
    return Carried(result, STRING)


@only_strings
def split(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[Any, ...]:
    """The parts of each string along a new last axis, padded with "", and how many there are.

    An empty delimiter, the default, is any run of white space.
    Source: https://onnx.ai/onnx/operators/onnx__StringSplit.html
    """
    x = inputs[0]
    shape = shape_of(x)
    delimiter = np.array([node.string("delimiter", "")], object)
    limit = node.int("maxsplit") if node.has("maxsplit") else -1
    if node.has("maxsplit") and limit < 0:
        raise node.error(f"maxsplit={limit} is negative")
    operands = [
        x,
        string_constant(delimiter, node.place, builder),
        constant(np.array([limit], np.int64)),
    ]
    sizes = [(shape, "int64"), ([1], "int64")]
    counts, most = host_call("string_count_parts", operands, sizes, builder)
    (width,) = builder.late_dims(most, 1)
    (parts,) = host_call("string_split", operands, [([*shape, width], "int64")], builder)
    return Carried(parts, STRING), counts


@only_strings
def regex_full_match(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """Whether each whole string matches the pattern, in RE2's syntax.

    Source: https://onnx.ai/onnx/operators/onnx__RegexFullMatch.html
    """
    pattern = node.string("pattern", "")
    try:
        automaton = compile_regex(pattern)
    except RegexError as error:
        raise node.error(f"pattern={pattern!r}: {error}") from None
    tables = (automaton.classes, automaton.next, automaton.matches)
    operands = [inputs[0], *(constant(table) for table in tables)]
    return host_call("string_matches", operands, [(shape_of(inputs[0]), "bool")], builder)[0]


def places_of(x: relax.Expr, keys: Sequence[Any], what: str, builder: ImportBuilder) -> relax.Expr:
    """The place of each string among the keys, len(keys) where it is none; of equal keys the first.

    x: any shape, strings. Result: int64, the same shape.
    """
    first: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(encoded(key, what), index)
    ordered = sorted(first)  # as strcmp orders them
    table = string_constant(np.array(ordered, object), what, builder)
    (place,) = host_call("string_place", [x, table], [(shape_of(x), "int64")], builder)
    # the place -1 of a string that is no key is the last element
    order = np.array([*(first[key] for key in ordered), len(keys)], np.int64)
    return look_up(place, constant(order), builder)


def look_up(places: relax.Expr, table: relax.Expr, builder: ImportBuilder) -> relax.Expr:
    """The elements of a vector at places that are inside, or -1 for the last."""
    flat = reshape(places, [product(shape_of(places))], builder)
    (length,) = shape_of(table)
    from_end = builder.emit(R.add(flat, constant(np.array(length, np.int64))))
    inside = builder.emit(R.less(flat, constant(np.array(0, np.int64))))
    found = take_rows(table, builder.emit(R.where(inside, from_end, flat)), 0, builder)
    return reshape(found, shape_of(places), builder)


def unique_strings(node: Node, inputs: Inputs, builder: ImportBuilder) -> tuple[Any, ...]:
    """Unique of strings, in the order of their bytes.

    Source: https://onnx.ai/onnx/operators/onnx__Unique.html
    """
    x = inputs[0]
    (ranks,) = host_call("string_rank", [x], [(shape_of(x), "int64")], builder)
    _, firsts, inverse, counts = unique(node, [ranks], builder)
    axis = node.axis("axis", len(shape_of(x))) if node.has("axis") else None
    rows = reshape(x, [product(shape_of(x))], builder) if axis is None else x
    return Carried(take_rows(rows, firsts, axis or 0, builder), STRING), firsts, inverse, counts
