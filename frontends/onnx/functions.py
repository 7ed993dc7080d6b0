"""Operators that are defined by a function body become that body.

Bodies that do not depend on the call are inlined before conversion (onnx.inliner); those that
depend on input types are asked for while converting, when the types are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import onnx
import onnx.inliner

from athanor.errors import CompileError
from athanor.frontends.onnx.operators import Operators, walk_nodes
from athanor.frontends.onnx.opsets import canonical_domain, read_opsets

_MOST_NODES = 1 << 18  # the largest exported networks have some 20,000
_MOST_CALLS = 64
_MAX_ROUNDS = 8  # a body may call operators that have bodies themselves


def inline_functions(skeleton: onnx.ModelProto, operators: Operators) -> onnx.ModelProto:
    """Inline model-local functions, then every operator without a converter that has a body.

    Raises CompileError when a body is invalid or recursive.
    """
    try:
        if skeleton.functions:
            _check_expansion(skeleton)
            skeleton = onnx.inliner.inline_local_functions(skeleton)
        for _ in range(_MAX_ROUNDS):
            wanted = _with_body(skeleton, operators)
            if not wanted:
                return skeleton
            expanded = onnx.inliner.inline_selected_functions(
                skeleton, wanted, inline_schema_functions=True
            )
            if expanded == skeleton:
                return skeleton
            skeleton = expanded
    except RuntimeError as error:
        raise CompileError(f"a function body can't be expanded: {error}") from error
    return skeleton


def _check_expansion(skeleton: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, and few small ones that expand to very many nodes."""
    bodies = {(canonical_domain(f.domain), f.name, f.overload): f for f in skeleton.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], callers: tuple[Any, ...]) -> int:
        total = 0
        for node in walk_nodes(nodes):
            key = (canonical_domain(node.domain), node.op_type, node.overload)
            if key in callers:
                raise CompileError(f"function {key[1]!r} of domain {key[0]!r} calls itself")
            if len(callers) > _MOST_CALLS:
                raise CompileError(f"functions call each other more than {_MOST_CALLS} deep")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key].node, (*callers, key))
            total += sizes.get(key, 1)
        return total

    total = size(skeleton.graph.node, ())
    if total > _MOST_NODES:
        raise CompileError(f"functions expand to {total} nodes; at most {_MOST_NODES} are taken")


def _with_body(skeleton: onnx.ModelProto, operators: Operators) -> list[tuple[str, str]]:
    """The (domain, operator) pairs in the graph that have a body and no converter of ours."""
    versions = read_opsets(skeleton)
    wanted: set[tuple[str, str]] = set()
    for node in walk_nodes(skeleton.graph.node):
        version = versions.get(canonical_domain(node.domain))
        if version is None or operators.find(node.domain, node.op_type, version):
            continue
        schema = schema_of(node.domain, node.op_type, version)
        if schema is not None and schema.has_function:
            wanted.add((node.domain, node.op_type))
    return sorted(wanted)


def schema_of(domain: str, op: str, version: int) -> Any:
    """The standard's definition of an operator, None where it has none."""
    try:
        return onnx.defs.get_schema(op, version, canonical_domain(domain))
    except onnx.defs.SchemaError:
        return None


def typed_body(
    proto: onnx.NodeProto, version: int, types: Sequence[onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """The body of an operator whose function depends on the node's attributes and input types.

    `types` has an entry for each input, empty for an absent one. None when there is no body.
    """
    schema = schema_of(proto.domain, proto.op_type, version)
    if schema is None or not schema.has_context_dependent_function:
        return None
    data = schema.get_context_dependent_function_with_opset_version(
        max(v for v in schema.context_dependent_function_opset_versions if v <= version),
        proto.SerializeToString(),
        [kind.SerializeToString() for kind in types],
    )
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    return function if function.node else None


def called_nodes(
    function: onnx.FunctionProto, proto: onnx.NodeProto, prefix: str
) -> list[onnx.NodeProto]:
    """The function's nodes with the call's inputs, outputs and attributes put in.

    Names inside the body get the prefix; absent inputs and outputs become "".
    """
    names = {"": ""}
    for formal, actual in zip_longest(function.input, proto.input, fillvalue=""):
        names[formal] = actual
    outputs = list(proto.output) + [""] * (len(function.output) - len(proto.output))
    for position, (formal, actual) in enumerate(zip(function.output, outputs, strict=False)):
        names[formal] = actual or f"{prefix}.{position}"
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    schema_defaults = {attribute.name: attribute for attribute in function.attribute_proto}
    return [
        _renamed(node, names, {**schema_defaults, **attributes}, prefix) for node in function.node
    ]


def _renamed(
    node: onnx.NodeProto,
    names: dict[str, str],
    attributes: dict[str, onnx.AttributeProto],
    prefix: str,
) -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.name = f"{prefix}.{node.name or node.op_type}"
    result.input[:] = [names.setdefault(name, f"{prefix}.{name}") for name in node.input]
    result.output[:] = [names.setdefault(name, f"{prefix}.{name}") for name in node.output]
    del result.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in attributes:
                continue
            given = result.attribute.add()
            given.CopyFrom(attributes[attribute.ref_attr_name])
            given.name = attribute.name
            continue
        copied = result.attribute.add()
        copied.CopyFrom(attribute)
        for graph in (copied.g, *copied.graphs):
            _rename_graph(graph, names, attributes, prefix)
    return result


def _rename_graph(
    graph: onnx.GraphProto,
    names: dict[str, str],
    attributes: dict[str, onnx.AttributeProto],
    prefix: str,
) -> None:
    """Outer names that a subgraph captures follow the renaming; its own names stay."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    visible = {name: new for name, new in names.items() if name not in own}
    visible |= {name: name for name in own}
    nodes = [_renamed(node, visible, attributes, prefix) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
