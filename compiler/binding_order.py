"""The order of main's bindings, where sizes are computed by bindings too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tvm import relax
from tvm.ir import Expr, PrimType, TupleType

from athanor.compiler.program import symbols_of


def in_order(
    bindings: Iterable[relax.Binding],
    late: Sequence[tuple[Expr, Sequence[Expr]]],
    defined: Iterable[str],
) -> Iterator[relax.Binding]:
    """The bindings, each behind those that compute the sizes it needs; otherwise as they are.

    Fusion orders kernels by the tensors that they read, so one may come before the kernel that
    computes its sizes. `late` says which symbols become known with which bound variable, `defined`
    names the symbols known from the start. What can never be bound comes last.
    """
    known, waiting = set(defined), []
    for binding in bindings:
        waiting.append(binding)
        ready = _first_ready(waiting, known)
        while ready is not None:
            waiting.remove(ready)
            yield ready
            for origin, symbols in late:
                if origin.same_as(ready.var):
                    known |= {symbol.name for symbol in symbols}
            ready = _first_ready(waiting, known)
    yield from waiting


def _first_ready(waiting: Sequence[relax.Binding], known: set[str]) -> relax.Binding | None:
    blocked: set[relax.Var] = set()
    for binding in waiting:
        waits = blocked and not blocked.isdisjoint(relax.analysis.free_vars(binding.value))
        if not waits and _sizes(binding) <= known:
            return binding
        blocked.add(binding.var)
    return None


def _sizes(binding: relax.Binding) -> set[str]:
    """Names of the symbols in a binding's type and arguments."""
    found: list[Expr] = []

    def see(ty: relax.Type) -> None:
        if isinstance(ty, TupleType):
            for field in ty.fields:
                see(field)
        elif isinstance(ty, relax.TensorType):
            found.extend(ty.shape.values)

    see(binding.var.ty)
    value = binding.value
    if isinstance(value, relax.Call) and len(value.args) > 1:
        arguments = value.args[1].fields if isinstance(value.args[1], relax.Tuple) else []
        found += [argument for argument in arguments if isinstance(argument.ty, PrimType)]
    return {symbol.name for dim in found for symbol in symbols_of(dim)}
