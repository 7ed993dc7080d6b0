"""Finding the converter of a node, and listing everything that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import onnx

from athanor.frontends.onnx.not_supported import REASONS
from athanor.frontends.onnx.opsets import REVIEWED, canonical_domain, changed_since_review

# def converter(node, inputs, builder) -> relax.Expr | Known | numpy.ndarray | tuple of these;
# a Known or an array is a result that needs no kernel
Converter = Callable[..., Any]


class Operators:
    """A converter table: (domain, operator, since_opset) -> converter."""

    def __init__(self, table: Mapping[tuple[str, str, int], Converter]) -> None:
        self._versions: dict[tuple[str, str], list[tuple[int, Converter]]] = {}
        for (domain, op, since), converter in sorted(table.items(), key=lambda item: item[0]):
            key = (canonical_domain(domain), op)
            self._versions.setdefault(key, []).append((since, converter))

    def find(self, domain: str, op: str, opset: int) -> Converter | None:
        """The converter with the largest since_opset <= opset, or None.

        None as well where the standard has changed the operator since the converters were reviewed.
        """
        domain = canonical_domain(domain)
        changed = changed_since_review(domain, op, opset) or 0
        versions = self._versions.get((domain, op), [])
        return next((c for since, c in reversed(versions) if changed <= since <= opset), None)

    def unsupported(
        self, graph: onnx.GraphProto, opsets: Mapping[str, int]
    ) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Every node without a converter, and a sentence that says so and what would help."""
        for node in walk_nodes(graph.node):
            domain = canonical_domain(node.domain)
            if domain not in opsets:
                yield node, f"{_label(node)}: the model imports no opset of domain {domain!r}"
            elif self.find(domain, node.op_type, opsets[domain]) is None and not (
                has_typed_body(node, opsets[domain])
            ):
                hint = self._hint(node, opsets[domain])
                yield node, f"{_label(node)}, opset {opsets[domain]}: {hint}"

    def _hint(self, node: onnx.NodeProto, opset: int) -> str:
        domain = canonical_domain(node.domain)
        changed = changed_since_review(domain, node.op_type, opset)
        if changed is not None:
            reviewed = REVIEWED[domain]
            return (
                f"opset {changed} changed it, and the converters follow the standard up to opset "
                f"{reviewed}; export the model for opset {reviewed}"
            )
        versions = self._versions.get((domain, node.op_type))
        if versions:
            return f"supported from opset {versions[0][0]}; convert the model to a newer opset"
        if reason := REASONS.get((domain, node.op_type)):
            return f"not supported: {reason}"
        if domain == "":
            return "no converter; export the model without it"
        return (
            f'no converter for domain {domain!r}; pass operators={{("{domain}", '
            f'"{node.op_type}", 1): converter}}'
        )


def walk_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Every node, and every node of the graphs in its attributes."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g):
                yield from walk_nodes(inner.node)


def breaks_inference(node: onnx.NodeProto) -> bool:
    """Whether ONNX's shape inference may not be asked about a model with this node.

    On some wrong equations of Einsum it never ends. An axis beyond 32 bits it takes for another
    one, with which it reads what is not there.
    """
    axes = (a for a in node.attribute if a.name in ("axis", "axes"))
    numbers = (number for attribute in axes for number in (attribute.i, *attribute.ints))
    return node.op_type == "Einsum" or any(not -(1 << 31) <= n < 1 << 31 for n in numbers)


def has_typed_body(node: onnx.NodeProto, version: int) -> bool:
    """Whether the standard defines the operator by a body that depends on input types."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, canonical_domain(node.domain))
    except onnx.defs.SchemaError:
        return False
    return schema.has_context_dependent_function


def _label(node: onnx.NodeProto) -> str:
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    name = node.name or (node.output[0] if node.output else "")
    return f"{operator} {name!r}"
