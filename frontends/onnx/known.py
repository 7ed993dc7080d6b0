"""Tensor elements that are known at import, and the arithmetic of symbolic dimensions.

Exporters compute shapes in the graph (Shape -> Gather -> Concat -> Reshape). The elements of such
tensors are followed here: as a NumPy array when they are constants, or as an object array of ints
and `tirx` expressions over symbolic dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.sym import Analyzer, ProofStrength

from athanor.frontends.onnx.small_types import carried, carrier_of


@dataclass(frozen=True)
class Known:
    """The elements of one tensor: a plain array, or dtype object with symbolic integers in it."""

    elements: np.ndarray
    dtype: str

    @property
    def is_constant(self) -> bool:
        """Whether no element depends on a symbolic dimension."""
        return self.elements.dtype != object

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self.elements.shape

    def flat(self) -> list[Any]:
        """The elements in row-major order: Python numbers, and expressions where symbolic."""
        return [as_int(value) for value in self.elements.reshape(-1).tolist()]

    def exact(self) -> np.ndarray:
        """The elements as an object array, whose integer arithmetic never overflows."""
        return as_objects(self.flat(), self.shape)


def known(elements: np.ndarray, dtype: str | None = None) -> Known:
    """Wrap elements; an object array without any symbolic element becomes a plain one."""
    if elements.dtype != object:
        return Known(elements, str(elements.dtype) if dtype is None else dtype)
    dtype = dtype or "int64"
    values = [as_int(value) for value in elements.reshape(-1).tolist()]
    if all(isinstance(value, (int, float, bool)) for value in values):
        return Known(np.array(values, dtype=dtype).reshape(elements.shape), dtype)
    return Known(as_objects(values, elements.shape), dtype)


def as_objects(values: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """An object array of that shape (NumPy would try to look inside the expressions)."""
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array.reshape(tuple(shape))


def as_int(value: Any) -> Any:
    """A Python int for an IntImm or NumPy integer; anything else as it is."""
    if isinstance(value, tirx.IntImm):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def is_symbolic(value: Any) -> bool:
    """Whether the element is an expression rather than a number."""
    return isinstance(value, tvm.ir.Expr) and not isinstance(value, tirx.IntImm)


_LARGEST_DIM = 1 << 40  # bound for proofs only: no tensor dimension comes near it


_LATE_DIM, _LATE_VALUE, _COUNT = ".dim", ".value", ".count_"
"""In names of symbols; `identifier` leaves no dot in those of inputs."""


def late_symbol(stem: str, number: int, is_dim: bool) -> tirx.Var:
    """A symbol whose value the run computes: a dimension, at least 0, or any integer."""
    return tirx.Var(f"{stem}{_LATE_DIM if is_dim else _LATE_VALUE}{number}", "int64")


def count_symbol(stem: str, what: str) -> tirx.Var:
    """A dimension of an input that may be 0, such as the length of a sequence."""
    return tirx.Var(f"{stem}{_COUNT}{what}", "int64")


def is_count(symbol: tvm.ir.Var) -> bool:
    """Whether the symbol is a dimension of an input that may be 0."""
    return _COUNT in symbol.name


def is_late(symbol: tvm.ir.Var) -> bool:
    """Whether the symbol's value comes from a run, not from the shapes of inputs."""
    return _LATE_DIM in symbol.name or _LATE_VALUE in symbol.name


def is_late_dim(symbol: tvm.ir.Var) -> bool:
    """Whether the symbol is a late dimension, which is never negative."""
    return _LATE_DIM in symbol.name


def analyzer_for(values: Sequence[Any]) -> Analyzer:
    """An analyzer that knows every symbolic dimension in `values` to be at least 1.

    Late dimensions and counts are at least 0, late values any integer.
    """
    analyzer = Analyzer()
    seen: set[int] = set()

    def bind(var: tvm.ir.Var) -> None:
        if var.__hash__() not in seen:
            seen.add(var.__hash__())
            if _LATE_VALUE not in var.name:
                least = 0 if is_late(var) or is_count(var) else 1
                analyzer.bind(var, tvm.ir.Range(least, _LARGEST_DIM))

    for value in values:
        if is_symbolic(value):
            for var in tirx.analysis.undefined_vars(value):
                bind(var)
    return analyzer


def simplify(value: Any) -> Any:
    """The simplest form of a symbolic element; a Python int when it is one."""
    if not is_symbolic(value):
        return as_int(value)
    return as_int(analyzer_for([value]).simplify(value))


def is_nonnegative(value: Any) -> bool:
    """Whether the element is provably >= 0 for every value of the symbolic dimensions."""
    if not is_symbolic(value):
        return value >= 0
    return _proven(value >= 0, analyzer_for([value]))


def _proven(condition: Any, analyzer: Analyzer) -> bool:
    # the default strength does not prove `w - w // 2 >= 0`
    return analyzer.can_prove(condition) or analyzer.can_prove(
        condition, ProofStrength.SYMBOLIC_BOUND
    )


def text_of(value: Any) -> str:
    """An element as a formula over names of dimensions: `min(seq, 512)`."""
    text = re.sub(r"(?:T\.)?int64\((-?\d+)\)", r"\1", str(value))
    return text.replace("T.", "")


def is_equal(left: Any, right: Any) -> bool | None:
    """Whether two elements are equal: True, False, or None where it depends on a dimension."""
    if not is_symbolic(left) and not is_symbolic(right):
        return bool(left == right)
    difference = simplify(left - right)
    if not is_symbolic(difference):
        return difference == 0
    analyzer = analyzer_for([difference])
    if _proven(difference > 0, analyzer) or _proven(difference < 0, analyzer):
        return False
    return None


def truncated_quotient(left: Any, right: Any) -> Any:
    """`left / right` rounded toward zero, as ONNX divides integers; right must not be 0."""
    if not is_symbolic(left) and not is_symbolic(right):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    left, right = _int64(left), _int64(right)
    if is_nonnegative(left) and is_nonnegative(right):
        return simplify(tirx.floordiv(left, right))  # floor simplifies better than truncation
    return simplify(tirx.truncdiv(left, right))


def product(values: Sequence[Any]) -> Any:
    """The product of the elements; 1 when there are none."""
    result: Any = 1
    for value in values:
        result = result * value
    return simplify(result)


def dims_quotient(dims: Sequence[Any], divisors: Sequence[Any]) -> Any:
    """product(dims) / product(divisors), common factors cancelled first; None when not whole.

    Symbolic factors that remain are divided at run time.
    """
    left, right = list(dims), list(divisors)
    for value in divisors:
        for index, other in enumerate(left):
            if is_symbolic(value) and is_symbolic(other) and is_equal(value, other):
                del left[index]
                right.remove(next(r for r in right if r is value))
                break
    numerator, denominator = product(left), product(right)
    if is_symbolic(numerator) or is_symbolic(denominator):
        return truncated_quotient(numerator, denominator)
    if denominator == 0 or numerator % denominator:
        return None
    return numerator // denominator


def _int64(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def constant(array: np.ndarray, dtype: str | None = None) -> relax.Expr:
    """A relax constant that holds a copy of the array (its only copy), bytes for small types."""
    array = carried(np.ascontiguousarray(array).reshape(array.shape))
    if dtype is not None and str(array.dtype) != dtype:
        array = array.astype(dtype)
    return relax.const(tvm.runtime.tensor(array))


def materialize(value: Known, builder: relax.BlockBuilder) -> relax.Expr:
    """The tensor itself: a constant, or a kernel that writes the symbolic elements."""
    if value.is_constant:
        return constant(value.elements, carrier_of(value.dtype))
    elements = [simplify(element) for element in value.flat()]
    symbolic = [element for element in elements if is_symbolic(element)]

    def write(*arguments: Any) -> te.Tensor:
        given = iter(arguments)
        flat = [next(given) if is_symbolic(e) else tirx.IntImm("int64", e) for e in elements]

        def element(*indices: Any) -> Any:
            position: Any = 0
            for index, extent in zip(indices, value.shape, strict=True):
                position = position * extent + index
            result = flat[-1]
            for number in range(len(flat) - 2, -1, -1):
                result = tirx.Select(position == number, flat[number], result)
            return result.astype(value.dtype)

        return te.compute(value.shape, element, name="shape_elements")

    call = builder.call_te(write, *symbolic, primfunc_name_hint="shape_elements")
    return builder.emit(call)
