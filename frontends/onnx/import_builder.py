"""The block builder of an import: names bindings after ONNX values, collects requirements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax, tirx

from athanor.frontends.onnx.known import is_equal, text_of


@dataclass(frozen=True)
class Requirement:
    """A condition on symbolic dimensions that every run has to meet, checked before it starts.

    `condition` is an expression over the variables of main's parameters.
    """

    condition: Any
    sentence: str


class ImportBuilder(relax.BlockBuilder):
    """A BlockBuilder that knows which node is being converted.

    Bindings without a name hint take the name of the node's first output, so that kernels can be
    traced to nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requirements: list[Requirement] = []
        self._place = ""
        self._hint = ""

    def enter_node(self, place: str, name_hint: str) -> None:
        """From here on bindings and requirements belong to this node."""
        self._place, self._hint = place, name_hint

    def emit(self, expr: relax.Expr, name_hint: str = "") -> Any:
        """As BlockBuilder.emit, with the node's name as the default hint."""
        return super().emit(expr, name_hint or self._hint)

    def require_equal(self, left: Any, right: Any) -> None:
        """Every run needs `left == right`; nothing is recorded when that is provable."""
        if is_equal(left, right):
            return
        sentence = f"{text_of(left)} has to be equal to {text_of(right)} in {self._place}"
        # `==` on expressions compares the objects until it is asked for the expression
        condition = tirx.EQ(
            *(tirx.const(v, "int64") if isinstance(v, int) else v for v in (left, right))
        )
        self.requirements.append(Requirement(condition, sentence))
