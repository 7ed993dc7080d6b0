"""StringNormalizer: words left out, letters changed to capitals or small ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from tvm import relax, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.data_dependent import positions_of_true, take_rows
from athanor.frontends.onnx.ops.loop_kernel import int64, loop, loop_kernel, store, when
from athanor.frontends.onnx.ops.strings import only_strings, places_of
from athanor.frontends.onnx.small_types import STRING, Carried
from athanor.frontends.onnx.tensors import reshape, shape_of
from athanor.frontends.onnx.text import host_call, string_constant

R = relax.op
Inputs = list[relax.Expr]

_OTHER_LETTERS = ("az", "lt", "tr")
"""Languages whose capitals and small letters are not those of Unicode's own table."""


@only_strings
def string_normalizer(node: Node, inputs: Inputs, builder: ImportBuilder) -> Carried:
    """The strings of (C,) or (1, C) without the stop words, in capitals or small letters if asked.

    Where nothing is left, one empty string. Letters change one by one as Unicode's simple mapping
    has it, which is what most locales do; a letter that becomes two (the German sharp s) stays.
    Source: https://onnx.ai/onnx/operators/onnx__StringNormalizer.html
    """
    x, dims = inputs[0], shape_of(inputs[0])
    if len(dims) not in (1, 2) or (len(dims) == 2 and dims[0] != 1):
        raise node.error(f"input {dims}, expected (C) or (1, C)")
    action = node.string("case_change_action", "NONE").lower()
    if action not in ("none", "lower", "upper"):
        raise node.error(f"case_change_action={action!r} is none of NONE, LOWER, UPPER")
    words = node.strings("stopwords", [])
    is_sensitive = bool(node.int("is_case_sensitive", 0)) or not words
    locale = node.string("locale", "en_US")
    if (action != "none" or not is_sensitive) and locale[:2].lower() in _OTHER_LETTERS:
        raise node.error(f"locale={locale!r} has capital letters of its own, not supported")
    flat = reshape(x, [product(dims)], builder)
    probe = flat
    if not is_sensitive:
        table = letters("lower")
        words = ["".join(chr(table.get(ord(c), ord(c))) for c in word) for word in words]
        probe = _changed(flat, "lower", builder)
    flat = _without(flat, places_of(probe, words, node.place, builder), len(words), builder)
    flat = flat if action == "none" else _changed(flat, action, builder)
    return Carried(reshape(flat, [*dims[:-1], *shape_of(flat)], builder), STRING)


@cache
def letters(action: str) -> dict[int, int]:
    """Code points and what they become in `lower` or `upper` case, where that is another one."""
    table = {}
    for code in range(0x110000):
        changed = getattr(chr(code), action)()
        if len(changed) == 1 and ord(changed) != code:
            table[code] = ord(changed)
    return table


def _changed(x: relax.Expr, action: str, builder: ImportBuilder) -> relax.Expr:
    table = letters(action)
    columns = (np.array(list(side), np.int32) for side in (table.keys(), table.values()))
    operands = [x, *(constant(column) for column in columns)]
    return host_call("string_changed", operands, [(shape_of(x), "int64")], builder)[0]


def _without(x: relax.Expr, places: relax.Expr, absent: int, builder: ImportBuilder) -> relax.Expr:
    """The strings (C,) whose place is `absent`; one empty string where there is none."""
    (count,) = shape_of(x)

    def choose(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (place,), (kept,), (length,) = ins, outs, scalars
        store(kept, length, int64(1))
        with loop(length) as i:
            store(kept, i, tirx.Cast("int64", place[i] == absent))
            with when(kept[i] > 0):
                store(kept, length, int64(0))

    kept = [([count + 1], "int64")]
    (mask,) = loop_kernel(builder, "kept_words", [places], kept, [count], choose)
    empty = string_constant(np.array([""], object), "an empty string", builder)
    positions, _ = positions_of_true(mask, builder)
    return take_rows(builder.emit(R.concat([x, empty], axis=0)), positions, 0, builder)
