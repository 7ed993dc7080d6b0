"""Everything that keeps a model from being compiled, so that it can be said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.operators import breaks_inference, walk_nodes
from athanor.frontends.onnx.opsets import canonical_domain
from athanor.frontends.onnx.shapes import Symbols, identifier
from athanor.frontends.onnx.small_types import SMALL_TYPES
from athanor.frontends.onnx.tensor_data import np_dtype_of


@dataclass(frozen=True)
class Refusal:
    """Why a node can't be compiled, and what would help."""

    domain: str
    operator: str
    node: str
    sentence: str
    has_converter: bool
    """False where no converter serves the operator at all, whatever the node is like."""


class RefusedModel(CompileError):
    """A model of which nodes are refused: `refusals` has them all, the message says them all."""

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        missing = [r.sentence for r in self.refusals if not r.has_converter]
        others = [r.sentence for r in self.refusals if r.has_converter]
        lines: list[str] = []
        if missing:
            lines += [f"unsupported operators ({len(missing)}):", *(f"  {s}" for s in missing)]
        if (missing and others) or len(others) > 1:
            lines += [f"unsupported nodes ({len(others)}):", *(f"  {s}" for s in others)]
        else:
            lines += others
        super().__init__("\n".join(lines))


class Refusals:
    """Collects the refusals of one import and keeps it going behind them.

    What a refused node would have computed is stood for by a variable of the type that ONNX infers.
    Where it infers none, and where it is an integer tensor, whose elements later nodes might have
    to know, the nodes that depend on it are passed over: of them nothing is known.
    """

    def __init__(self, skeleton: onnx.ModelProto, symbols: Symbols) -> None:
        self.found: list[Refusal] = []
        self._skeleton = skeleton
        self._symbols = symbols
        self._unsupported: set[tuple[str, str]] = set()
        self._lost: set[str] = set()
        self._inferred: dict[str, onnx.TypeProto] | None = None

    def add_unsupported(self, node: onnx.NodeProto, sentence: str) -> None:
        """A node whose operator has no converter."""
        self._unsupported.add((canonical_domain(node.domain), node.op_type))
        self.found.append(_refusal(node, sentence, has_converter=False))

    def attempt(
        self,
        node: onnx.NodeProto,
        reads: Iterable[onnx.NodeProto],
        convert: Callable[[], None],
        define: Callable[[str, relax.Expr], None],
    ) -> None:
        """Convert a node or note why not; `reads` are the node and all nodes inside it."""
        reads = list(reads)
        if any(name in self._lost for inner in reads for name in inner.input):
            self._lost.update(node.output)
            return
        operators = {(canonical_domain(inner.domain), inner.op_type) for inner in reads}
        if not operators & self._unsupported:
            try:
                convert()
                return
            except CompileError as error:
                self.found.append(_refusal(node, str(error), has_converter=True))
            except AssertionError:
                if not self.found:
                    raise
                self._lost.update(node.output)  # a stand-in is not all that a value would be
                return
        for name in filter(None, node.output):
            stand_in = self._stand_in(name)
            if stand_in is None:
                self._lost.add(name)
            else:
                define(name, stand_in)

    def finish(self) -> None:
        """Raise RefusedModel where something was refused."""
        if self.found:
            raise RefusedModel(self.found)

    def _stand_in(self, name: str) -> relax.Expr | None:
        if self._inferred is None:
            self._inferred = self._infer()
        kind = self._inferred.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        try:
            dtype = np_dtype_of(kind.tensor_type.elem_type, name)
        except CompileError:
            return None
        if dtype.kind not in "fb" or dtype.name in SMALL_TYPES:
            return None
        dims = []
        for index, dim in enumerate(kind.tensor_type.shape.dim):
            symbol = dim.dim_param or f"{identifier(name)}_d{index}"
            dims.append(dim.dim_value if dim.HasField("dim_value") else self._symbols[symbol])
        return relax.Var(identifier(name), relax.TensorType(dims, dtype.name))

    def _infer(self) -> dict[str, onnx.TypeProto]:
        model = onnx.ModelProto()
        model.CopyFrom(self._skeleton)
        for node in list(walk_nodes(model.graph.node)):
            if breaks_inference(node):
                node.op_type, node.domain = "Opaque", "athanor"
        try:
            graph = onnx.shape_inference.infer_shapes(model).graph
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return {}
        return {value.name: value.type for value in (*graph.value_info, *graph.output)}


def _refusal(node: onnx.NodeProto, sentence: str, has_converter: bool) -> Refusal:
    name = node.name or next(filter(None, node.output), "")
    domain = canonical_domain(node.domain)
    return Refusal(domain, node.op_type, name, sentence, has_converter)
