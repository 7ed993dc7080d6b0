"""Operators that are defined by a function body become that body."""

from __future__ import annotations

import onnx
import onnx.inliner

from athanor.errors import CompileError
from athanor.frontends.onnx.operators import Operators, canonical_domain

_MAX_ROUNDS = 8  # a body may call operators that have bodies themselves


def inline_functions(skeleton: onnx.ModelProto, operators: Operators) -> onnx.ModelProto:
    """Inline model-local functions, then every operator without a converter that has a body.

    Raises CompileError when a body is invalid or recursive.
    """
    try:
        if skeleton.functions:
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


def _with_body(skeleton: onnx.ModelProto, operators: Operators) -> list[tuple[str, str]]:
    """The (domain, operator) pairs in the graph that have a body and no converter of ours."""
    versions = {canonical_domain(e.domain): e.version for e in skeleton.opset_import}
    wanted: set[tuple[str, str]] = set()
    for node in operators.walk(skeleton.graph):
        version = versions.get(canonical_domain(node.domain))
        if version is None or operators.find(node.domain, node.op_type, version):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            continue
        if schema.has_function or schema.has_context_dependent_function:
            wanted.add((node.domain, node.op_type))
    return sorted(wanted)
