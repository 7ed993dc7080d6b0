"""The block builder of an import: names bindings after ONNX values, collects requirements.

What an imported module looks like. `main` takes tensors and returns a tuple of tensors. Two things
that ONNX has and a dataflow block has not are written so that every pass treats them as what it
knows already, and none needs to know about them:

Sizes that only the run knows. The importer emits a kernel that computes them as an int64 tensor.
For each such tensor main has one more parameter, `late0: R.Shape([n, ...])`, which defines the
symbols, and one more result, the tensor: the last results belong to the last parameters. To Relax
they are symbols like those of the inputs. (R.tensor_to_shape with a MatchCast says the same inside
the dataflow block; but then each pass has to carry the cast along, and dead code elimination has to
know that a cast nobody reads defines a symbol.)

Control flow. A graph inside a node becomes a module of its own with a `main` of its own, so the
whole pipeline runs on it as on any module. Its parameters are what the operator hands in, then the
values that it captures of the graph around it. The node becomes `call_dps_packed` of a marker such
as "athanor.if:0,1,2": opaque, pure, and with typed results. The numbers say which subgraphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx

from athanor.frontends.onnx.known import is_equal, late_symbol, text_of
from athanor.frontends.onnx.origins import mark_origins

IF = "athanor.if"
"""Numbers: the subgraph of then, that of else, how many values then captures."""

LOOP = "athanor.loop"
"""Numbers: the subgraph, whether there are a trip count and a condition, how many states."""

HOST = "athanor.host."
"""First part of a marker's name that stands for a C function of athanor_strings.h."""

LATE = "late"
"""First part of the name of a parameter that defines late dimensions."""


@dataclass(frozen=True)
class Requirement:
    """A condition on dimensions that every run has to meet.

    `condition` is an expression over the variables of main's parameters. It is checked before the
    run, or as soon as the late dimensions in it are known.
    """

    condition: Any
    sentence: str


@dataclass(frozen=True)
class Subgraph:
    """A graph inside a node as a module, and its requirements."""

    mod: tvm.IRModule
    requirements: tuple[Requirement, ...] = ()


@dataclass
class Shared:
    """What the builders of a model's graphs have together."""

    subgraphs: list[Subgraph] = field(default_factory=list)
    late_count: int = 0
    late_params: int = 0


def marker(kind: str, numbers: Sequence[int]) -> str:
    """The name of the packed function that stands for a control flow operator."""
    return f"{kind}:{','.join(str(int(number)) for number in numbers)}"


def marker_numbers(name: str) -> tuple[str, list[int]]:
    """What `marker` was made of."""
    kind, _, numbers = name.partition(":")
    return kind, [int(number) for number in numbers.split(",")]


class ImportBuilder(relax.BlockBuilder):
    """A BlockBuilder that knows which node is being converted.

    Bindings without a name hint take the name of the node's first output, so that kernels can be
    traced to nodes.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__()
        self.shared = shared or Shared()
        self.requirements: list[Requirement] = []
        self.late_params: list[relax.Var] = []
        self.late_sources: list[relax.Expr] = []
        self.visible: list[tirx.Var] = []
        """Symbols that this graph and those inside it may use."""
        self.scope: Any = None
        """The GraphConverter of this graph, for operators with graphs inside."""
        self.origins: dict[str, list[str]] = {}
        """The node of each binding, by the binding's name."""
        self.columns: dict[str, tuple[int | str, ...]] = {}
        """What the columns of a value stand for, by the value's ONNX name."""
        self._place = ""
        self._hint = ""
        self._label = ""

    def enter_node(self, place: str, name_hint: str, label: str) -> None:
        """From here on bindings and requirements belong to this node."""
        self._place, self._hint, self._label = place, name_hint, label

    @contextmanager
    def dataflow(self) -> Iterator[None]:
        """As BlockBuilder.dataflow; a block that an error leaves is given up without a warning."""
        with super().dataflow():
            try:
                yield
                return
            except BaseException as error:
                failure = error
        self._end_block()
        raise failure

    def emit(self, expr: relax.Expr, name_hint: str = "") -> Any:
        """As BlockBuilder.emit, with the node's name as the default hint."""
        var = super().emit(expr, name_hint or self._hint)
        self.origins[var.name] = [self._label]
        return var

    def finish(self) -> tvm.IRModule:
        """The module, without what nobody reads, marked with origins."""
        mod = relax.transform.DeadCodeElimination()(self.finalize())
        return mark_origins(mod, self.origins)

    def declare(self, params: Sequence[relax.Var]) -> None:
        """Make the symbols in the shapes of main's parameters visible."""
        for param in params:
            for dim in param.ty.shape.values:
                if isinstance(dim, tirx.Var) and not any(dim.same_as(v) for v in self.visible):
                    self.visible.append(dim)

    def require(self, condition: Any, sentence: str) -> None:
        """Every run needs the condition; the sentence says what is wrong without it."""
        self.requirements.append(Requirement(condition, f"{sentence} in {self._place}"))

    def require_equal(self, left: Any, right: Any) -> None:
        """Every run needs `left == right`; nothing is recorded when that is provable."""
        if is_equal(left, right):
            return
        # `==` on expressions compares the objects until it is asked for the expression
        condition = tirx.EQ(
            *(tirx.const(v, "int64") if isinstance(v, int) else v for v in (left, right))
        )
        self.require(condition, f"{text_of(left)} has to be equal to {text_of(right)}")

    def late_dims(self, source: relax.Expr, count: int) -> list[tirx.Var]:
        """Dimensions whose sizes are the `count` elements of an int64 tensor."""
        return self._late(source, count, is_dim=True)

    def late_values(self, source: relax.Expr, count: int) -> list[tirx.Var]:
        """Integers, negative ones too, that are the `count` elements of an int64 tensor."""
        return self._late(source, count, is_dim=False)

    def new_dims(self, count: int) -> list[tirx.Var]:
        """Dimensions whose tensor is named later, to `define_dims`."""
        return self._new(count, is_dim=True)

    def define_dims(self, symbols: Sequence[tirx.Var], source: relax.Expr) -> None:
        """Say which int64 tensor holds the sizes."""
        number = self.shared.late_params
        self.shared.late_params += 1
        self.late_params.append(relax.Var(f"{LATE}{number}", relax.ShapeType(list(symbols))))
        self.late_sources.append(source)

    def _late(self, source: relax.Expr, count: int, is_dim: bool) -> list[tirx.Var]:
        symbols = self._new(count, is_dim)
        self.define_dims(symbols, source)
        return symbols

    def _new(self, count: int, is_dim: bool) -> list[tirx.Var]:
        number = self.shared.late_count
        self.shared.late_count += 1
        stem = f"{self._hint or 'late'}_{number}"
        symbols = [late_symbol(stem, index, is_dim) for index in range(count)]
        self.visible += symbols
        return symbols
