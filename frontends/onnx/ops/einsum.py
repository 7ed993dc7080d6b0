"""Einsum as transposes, reshapes and one matrix product per pair of operands."""

from __future__ import annotations

from tvm import relax, te

from athanor.frontends.onnx.known import is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import compute, rank_of, reshape, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def einsum(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """NumPy's einsum, ellipsis and repeated labels included.

    Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    terms, result = _parse(node, inputs)
    operands = [
        _diagonal(value, labels, builder) for value, labels in zip(inputs, terms, strict=True)
    ]
    value, labels = operands[0]
    for position, (other, other_labels) in enumerate(operands[1:], start=1):
        later = "".join(term for _, term in operands[position + 1 :]) + result
        value, labels = _multiply(value, labels, other, other_labels, later, builder)
    summed = [axis for axis, label in enumerate(labels) if label not in result]
    if summed:
        value = builder.emit(R.sum(value, summed))
        labels = "".join(label for label in labels if label in result)
    return _permute(value, labels, result, builder)


def _parse(node: Node, inputs: Inputs) -> tuple[list[str], str]:
    """The label string of each operand and of the result; an ellipsis becomes capital labels."""
    equation = node.string("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(inputs):
        raise node.error(f"equation {equation!r} has {len(terms)} operands, not {len(inputs)}")
    free = [chr(code) for code in range(0x100, 0x180)]  # labels that no equation can use
    widest = 0
    for position, (term, value) in enumerate(zip(terms, inputs, strict=True)):
        named = len(term.replace("...", ""))
        width = rank_of(value) - named
        if ("..." in term and width < 0) or ("..." not in term and width != 0):
            raise node.error(f"operand {term!r} does not fit the rank-{rank_of(value)} input")
        widest = max(widest, width)
        terms[position] = term.replace("...", "".join(free[64 - width : 64]))
    ellipsis = "".join(free[64 - widest : 64])
    if arrow:
        return terms, right.replace("...", ellipsis)
    joined = "".join(terms)
    single = sorted(label for label in set(joined) if joined.count(label) == 1 and label < "\x80")
    return terms, ellipsis + "".join(single)


def _diagonal(value: relax.Expr, labels: str, builder: Builder) -> tuple[relax.Expr, str]:
    """The operand with every label once: repeated ones take the diagonal."""
    unique = "".join(dict.fromkeys(labels))
    if unique == labels:
        return value, labels

    def kernel(data: te.Tensor) -> te.Tensor:
        shape = [data.shape[labels.index(label)] for label in unique]
        return te.compute(
            shape, lambda *i: data(*(i[unique.index(label)] for label in labels)), name="diagonal"
        )

    return compute(builder, "diagonal", kernel, value), unique


def _permute(value: relax.Expr, have: str, want: str, builder: Builder) -> relax.Expr:
    if have == want:
        return value
    return builder.emit(R.permute_dims(value, [have.index(label) for label in want]))


def _multiply(
    left: relax.Expr,
    left_labels: str,
    right: relax.Expr,
    right_labels: str,
    later: str,
    builder: Builder,
) -> tuple[relax.Expr, str]:
    """One product: shared labels that are needed later are batch, other shared ones contract."""
    left, left_labels = _drop(left, left_labels, right_labels + later, builder)
    right, right_labels = _drop(right, right_labels, left_labels + later, builder)
    shared = [label for label in left_labels if label in right_labels]
    batch = "".join(label for label in shared if label in later)
    inner = "".join(label for label in shared if label not in later)
    rows = "".join(label for label in left_labels if label not in shared)
    columns = "".join(label for label in right_labels if label not in shared)
    size = dict(zip(left_labels, shape_of(left), strict=True))
    for label, dim in zip(right_labels, shape_of(right), strict=True):
        # an ellipsis dim of size 1 broadcasts
        if label not in size or (not is_symbolic(size[label]) and size[label] == 1):
            size[label] = dim
    left = _broadcast(
        _permute(left, left_labels, batch + rows + inner, builder),
        [size[label] for label in batch + rows + inner],
        builder,
    )
    right = _broadcast(
        _permute(right, right_labels, batch + inner + columns, builder),
        [size[label] for label in batch + inner + columns],
        builder,
    )
    outer = [size[label] for label in batch]
    m, k, n = (product([size[x] for x in labels]) for labels in (rows, inner, columns))
    result = builder.emit(
        R.matmul(reshape(left, [*outer, m, k], builder), reshape(right, [*outer, k, n], builder))
    )
    labels = batch + rows + columns
    return reshape(result, [size[label] for label in labels], builder), labels


def _drop(value: relax.Expr, labels: str, needed: str, builder: Builder) -> tuple[relax.Expr, str]:
    """The operand with labels that nobody else needs summed away."""
    axes = [axis for axis, label in enumerate(labels) if label not in needed]
    if not axes:
        return value, labels
    kept = "".join(label for label in labels if label in needed)
    return builder.emit(R.sum(value, axes)), kept


def _broadcast(value: relax.Expr, shape: list, builder: Builder) -> relax.Expr:
    have = shape_of(value)
    same = all(
        a is b or (not is_symbolic(a) and not is_symbolic(b) and a == b)
        for a, b in zip(have, shape, strict=True)
    )
    return value if same else builder.emit(R.broadcast_to(value, relax.ShapeExpr(shape)))
