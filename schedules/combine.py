"""How partial results of a reduction are brought together."""

from __future__ import annotations

import tvm_ffi
from tvm import ir, tirx

from athanor.schedules import blocks
from athanor.schedules.row_stages import Stage

_COMBINE = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min, tirx.And, tirx.Or)


def is_combinable(stage: Stage) -> bool:
    """Whether `combined` knows how, and the order doesn't matter."""
    if len(stage.values) == 1:
        return _sides(stage) is not None
    return _pair_sources(stage) is not None


def combined(stage: Stage, ours: list[tirx.Expr], theirs: list[tirx.Expr]) -> list[tirx.Expr]:
    """The partial results of two sets of elements -> those of both."""
    if len(stage.values) == 1:
        return [type(stage.values[0])(ours[0], theirs[0])]
    sources = _pair_sources(stage)
    assert sources is not None, "is_combinable"

    def other_of(expr: ir.Expr) -> ir.Expr:
        if isinstance(expr, ir.TensorLoad) and stage.is_own(expr):
            return ours[_number(stage, expr)]
        for source, other in zip(sources, theirs, strict=True):
            if tvm_ffi.structural_equal(expr, source):
                return other
        return expr

    return [
        tvm_ffi.structural_map(value, (ir.Expr, other_of), order="pre") for value in stage.values
    ]


def _sides(stage: Stage) -> tuple[tirx.Expr, tirx.Expr] | None:
    """(the old partial result, the element) of a reduction by one operation."""
    value = stage.values[0]
    if not isinstance(value, _COMBINE):
        return None
    for own, element in ((value.a, value.b), (value.b, value.a)):
        if isinstance(own, ir.TensorLoad) and stage.is_own(own):
            inner = any(stage.is_own(load) for load in blocks.loads(element))
            return None if inner else (own, element)
    return None


def _pair_sources(stage: Stage) -> list[tirx.Expr] | None:
    """What each partial result is replaced by, as ArgMax does: `Select(better, old, element)`."""
    sources = []
    for number, value in enumerate(stage.values):
        if not isinstance(value, tirx.Select) or not isinstance(value.true_value, ir.TensorLoad):
            return None
        if not stage.is_own(value.true_value) or _number(stage, value.true_value) != number:
            return None
        sources.append(value.false_value)
    return sources


def _number(stage: Stage, load: ir.TensorLoad) -> int:
    return next(i for i, buffer in enumerate(stage.buffers) if load.source.same_as(buffer))


def rank_nan(value: tirx.Expr) -> tirx.Expr:
    """Comparisons of a reduction of pairs, with NaN before all numbers and equal to itself.

    So that ArgMax and ArgMin find the first NaN whatever the order, as NumPy's do.
    """

    def is_nan(value: tirx.Expr) -> tirx.Expr:
        wide = str(value.ty.dtype) == "bfloat16"  # of which TVM knows no isnan
        return tirx.isnan(tirx.Cast("float32", value) if wide else value)

    def before(compare: tirx.Expr) -> tirx.Expr:
        a, b = compare.a, compare.b
        if "float" not in str(a.ty.dtype):
            return compare
        return tirx.any(compare, tirx.all(is_nan(a), tirx.Not(is_nan(b))))

    def same(compare: tirx.Expr) -> tirx.Expr:
        a, b = compare.a, compare.b
        if "float" not in str(a.ty.dtype):
            return compare
        return tirx.any(compare, tirx.all(is_nan(a), is_nan(b)))

    visitors = [((tirx.GT, tirx.LT), before), (tirx.EQ, same)]
    return tvm_ffi.structural_map(value, visitors, order="post")
