"""Numbers for the sizes of a program whose dimensions are symbolic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Expr

from athanor.frontends.onnx.shapes import identifier


class Sizes:
    """Numbers for expressions over the symbols of a program.

    dims: sizes by the names that the model has; a symbol of any other name is 1, and is in `late`
    once it was met: only a run knows its size.
    """

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.values = {identifier(name): size for name, size in dims.items()}
        self.late: set[str] = set()

    def of(self, count: int | Expr) -> int:
        """The number."""
        if isinstance(count, int):
            return count

        def value(var: tirx.Var) -> Any:
            if var.name not in self.values:
                self.late.add(var.name)
            return tirx.const(self.values.get(var.name, 1), "int64")

        return int(sym.Analyzer().simplify(tvm_ffi.structural_map(count, (tirx.Var, value))))
