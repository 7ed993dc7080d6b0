"""Through transposes, reshapes and slices back to the tensor whose elements a value has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call, Expr, GenericConst

from athanor.compiler.passes.rewrite import constant_array, op_name
from athanor.schedules.blocks import constant
from athanor.schedules.compute.strided import Factor, Strided

FLOATS = ("float32", "float16", "bfloat16")
"""Types whose views are looked through: what is left out of a product is rounded at most."""
_RESHAPES = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")


@dataclass
class Symbols:
    """The symbolic dimensions of main that a kernel takes, each as a parameter of its own."""

    arguments: list[tirx.Var] = field(default_factory=list)
    parameters: list[tirx.Var] = field(default_factory=list)

    def own(self, dim: Any) -> Any:
        """A size in the kernel's words; a number stays one."""
        known = constant(dim)
        return self._mapped(dim, self.parameter) if known is None else known

    def given(self, dim: Any) -> Any:
        """A size in main's words."""
        if isinstance(dim, int):
            return tirx.IntImm("int64", dim)
        pairs = list(zip(self.parameters, self.arguments, strict=True))
        return self._mapped(dim, lambda var: next(a for p, a in pairs if p.same_as(var)))

    def parameter(self, var: tirx.Var) -> tirx.Var:
        """The kernel's parameter for a dimension of main."""
        for argument, parameter in zip(self.arguments, self.parameters, strict=True):
            if argument.same_as(var):
                return parameter
        self.arguments.append(var)
        self.parameters.append(tirx.Var(f"n{len(self.parameters)}", "int64"))
        return self.parameters[-1]

    def _mapped(self, dim: Any, change: Any) -> Any:
        return tvm_ffi.structural_map(dim, (tirx.Var, change))


@dataclass(frozen=True)
class Operand:
    """A value as a view of `base`, times `scale`; sizes in the kernel's words."""

    base: Expr
    view: Strided
    shape: tuple[Any, ...]
    scale: float = 1.0

    def permuted(self, order: list[int]) -> Operand:
        """Axis i is the former axis order[i]."""
        shape = tuple(self.shape[axis] for axis in order)
        return replace(self, view=self.view.permuted(order), shape=shape)

    def with_unit_axis(self, axis: int) -> Operand:
        """One more axis, of one element."""
        axes = (*self.view.axes[:axis], (), *self.view.axes[axis:])
        shape = (*self.shape[:axis], 1, *self.shape[axis:])
        return replace(self, view=Strided(self.view.offset, axes), shape=shape)

    def repeated(self, axis: int, times: int) -> Operand:
        """Each element of an axis several times, one after another."""
        shape = list(self.shape)
        shape[axis] = shape[axis] * times
        return replace(self, view=self.view.repeated(axis, times), shape=tuple(shape))


def view_of(value: Expr, definition: Mapping[Expr, Expr], symbols: Symbols) -> Operand:
    """`value` as a view of the earliest value that it only views, or scales by a number.

    value: a tensor of known rank. Looks through permute_dims, reshape and its kin, broadcast_to,
    slices with step 1 and products with a constant number.
    """
    shape = tuple(symbols.own(dim) for dim in value.ty.shape.values)
    call = definition.get(value)
    found = None
    if isinstance(call, relax.Call) and op_name(call) is not None:
        found = _through(call, shape, definition, symbols)
    return found or Operand(value, Strided.whole(list(shape)), shape)


def _through(
    call: Call, shape: tuple[Any, ...], definition: Mapping[Expr, Expr], symbols: Symbols
) -> Operand | None:
    kind, source = op_name(call), call.args[0]
    number = 1.0
    if kind in ("relax.multiply", "relax.divide"):
        factors = [number_of(arg) for arg in call.args]
        if factors[1] is not None:
            number = factors[1] if kind == "relax.multiply" else 1.0 / (factors[1] or 1.0)
        elif factors[0] is not None and kind == "relax.multiply":
            source, number = call.args[1], factors[0]
        else:
            return None
    if not isinstance(source.ty, relax.TensorType):
        return None
    if not isinstance(source.ty.shape, relax.ShapeExpr) or str(source.ty.dtype) not in FLOATS:
        return None
    inner = view_of(source, definition, symbols)
    view: Strided | None = None
    if kind == "relax.permute_dims":
        rank = len(shape)
        axes = call.attrs.axes
        order = range(rank)[::-1] if axes is None else [int(axis) % rank for axis in axes]
        view = inner.view.permuted(list(order))
    elif kind in _RESHAPES:
        view = inner.view.reshaped(list(shape))
    elif kind == "relax.broadcast_to":
        view = _broadcast(inner, shape)
    elif kind == "relax.strided_slice":
        view = _sliced(call, inner, shape)
    elif kind in ("relax.multiply", "relax.divide") and inner.shape == shape:
        view = inner.view
    return view and Operand(inner.base, view, shape, inner.scale * number)


def _broadcast(inner: Operand, shape: tuple[Any, ...]) -> Strided:
    lead = len(shape) - len(inner.shape)
    axes: list[tuple[Factor, ...]] = [((dim, 0),) for dim in shape[:lead]]
    for axis, own, wanted in zip(inner.view.axes, inner.shape, shape[lead:], strict=True):
        axes.append(((wanted, 0),) if own == 1 and wanted != 1 else axis)
    return Strided(inner.view.offset, tuple(axis if axis != ((1, 0),) else () for axis in axes))


def _sliced(call: Call, inner: Operand, shape: tuple[Any, ...]) -> Strided | None:
    """A slice whose begins are known and inside, with steps of 1."""
    parts: list[list[Any]] = []
    for argument in call.args[1:]:
        fields = argument.fields if isinstance(argument, relax.Tuple) else None
        numbers = [_integer(item) for item in fields] if fields is not None else [None]
        if None in numbers:
            return None
        parts.append(numbers)
    if len(parts) < 3 or (len(parts) > 3 and any(step != 1 for step in parts[3])):
        return None
    view: Strided | None = inner.view
    for axis, begin in zip(parts[0], parts[1], strict=True):
        axis %= len(shape)
        whole, extent = inner.shape[axis], shape[axis]
        if not isinstance(whole, int) or not isinstance(extent, int) or view is None:
            return None
        begin = begin + whole if begin < 0 else begin
        if begin < 0 or begin + extent > whole or not inner.view.axes[axis]:
            return None
        view = view.sliced(axis, begin, extent)
    return view


def _integer(value: Any) -> int | None:
    value = getattr(value, "value", value)
    known = value if isinstance(value, int) else constant(value)
    return None if known is None else int(known)


def number_of(value: Expr) -> float | None:
    """The number that a constant of one element is."""
    if not isinstance(value, GenericConst):
        return None
    array = constant_array(value)
    return float(array.reshape(())) if array.size == 1 else None
