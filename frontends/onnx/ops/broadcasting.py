"""NumPy's broadcasting where dimensions are symbolic.

Two dimensions that are not provably equal, such as `seq` and `min(seq, 512)` of a sliced table,
are taken to be equal, which becomes a requirement of the imported model: it is checked before
each run. So a run that would broadcast a symbolic 1 there is refused, never computed wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import is_equal, is_symbolic
from athanor.frontends.onnx.tensors import shape_of

Builder = relax.BlockBuilder


def broadcast_shape(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    """The common shape; among symbolic dimensions a plain name is preferred to an expression."""
    rank = max(len(shape) for shape in shapes)
    result: list[Any] = []
    for position in range(rank):
        dims = [s[position - rank + len(s)] for s in shapes if position - rank + len(s) >= 0]
        result.append(_common(dims))
    return result


def _common(dims: Sequence[Any]) -> Any:
    wide = [dim for dim in dims if is_symbolic(dim) or int(dim) != 1]
    if not wide:
        return 1
    fixed = [dim for dim in wide if not is_symbolic(dim)]
    names = [dim for dim in wide if isinstance(dim, tvm.ir.Var)]
    return int(fixed[0]) if fixed else (names or wide)[0]


def unify(inputs: Sequence[relax.Expr], builder: Builder, keep: int = 0) -> list[relax.Expr]:
    """The operands, cast so that Relax sees them broadcast; the last `keep` dims are left out."""
    shapes = [shape_of(value) for value in inputs]
    outer = [shape[: len(shape) - keep] for shape in shapes]
    if not any(is_symbolic(dim) for shape in outer for dim in shape):
        return list(inputs)
    target = broadcast_shape(outer)
    return [
        cast_shape(value, [*_expected(part, target), *shape[len(part) :]], builder)
        for value, shape, part in zip(inputs, shapes, outer, strict=True)
    ]


def _expected(dims: Sequence[Any], target: Sequence[Any]) -> list[Any]:
    matching = target[len(target) - len(dims) :]
    return [
        dim if not is_symbolic(dim) and dim == 1 else full
        for dim, full in zip(dims, matching, strict=True)
    ]


def cast_shape(value: relax.Expr, shape: Sequence[Any], builder: Builder) -> relax.Expr:
    """`value` with its dimensions named by `shape`, as a requirement; itself when equal."""
    have = shape_of(value)
    if all(is_equal(a, b) for a, b in zip(have, shape, strict=True)):
        return value
    if any(
        not is_symbolic(a) and not is_symbolic(b) and a != b
        for a, b in zip(have, shape, strict=True)
    ):
        return value  # not broadcastable: Relax's own sentence says which dimensions
    assert isinstance(builder, ImportBuilder), "converters run with the importer's builder"
    for left, right in zip(have, shape, strict=True):
        builder.require_equal(left, right)
    return builder.emit(relax.op.reshape(value, relax.ShapeExpr(list(shape))))
