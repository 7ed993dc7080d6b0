"""Converters that a user hands in: checked before the import, and watched while they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.known import Known
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.operators import Converter
from athanor.frontends.onnx.sequence_value import NO_TENSORS

Key = tuple[str, str, int]

_FORM = 'operators={("my.domain", "MyOp", 1): converter}'


def custom_table(operators: Mapping[Key, Converter] | None) -> dict[Key, Converter]:
    """The user's converters, each wrapped so that what goes wrong in it is told with its name.

    Raises CompileError for a key that is not (domain, operator, since_opset) and for a converter
    that can't be called.
    """
    if operators is None:
        return {}
    if not isinstance(operators, Mapping):
        raise CompileError(f"operators is a {type(operators).__name__}; expected {_FORM}")
    for key, converter in operators.items():
        _check_key(key)
        if not callable(converter):
            raise CompileError(
                f"operators: the converter of {key} is a {type(converter).__name__}; expected a "
                "function (node, inputs, builder)"
            )
    return {key: _watched(converter) for key, converter in operators.items()}


def _check_key(key: Any) -> None:
    kinds = [type(part) for part in key] if isinstance(key, tuple) else []
    if kinds != [str, str, int] or not key[1] or key[2] < 1:
        raise CompileError(
            f"operators: the key {key!r} is not (domain, operator, since_opset); expected {_FORM}"
        )


def _watched(converter: Converter) -> Converter:
    """The converter, whose exceptions and wrong results become a CompileError for its author."""
    name = getattr(converter, "__name__", type(converter).__name__)

    def convert(node: Node, inputs: list[Any], builder: relax.BlockBuilder) -> Any:
        try:
            result = converter(node, inputs, builder)
        except CompileError:
            raise
        except Exception as error:
            text = str(error).strip().splitlines() or [""]
            raise node.error(
                f"its converter {name} raised {type(error).__name__}: {text[-1].strip()}"
            ) from error
        _check_result(node, name, result)
        return result

    return convert


def _check_result(node: Node, name: str, result: Any) -> None:
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    if isinstance(result, relax.Tuple):
        results = list(result.fields)
    for position, value in enumerate(results):
        if not isinstance(value, (tvm.ir.Expr, np.ndarray, Known, *NO_TENSORS)):
            raise node.error(
                f"its converter {name} returned a {type(value).__name__} for output {position}; "
                "expected a Relax expression or a NumPy array"
            )
        if isinstance(getattr(value, "ty", None), relax.TupleType):
            raise node.error(
                f"its converter {name} returned a Relax tuple for output {position}; return a "
                "Python tuple of its elements, relax.TupleGetItem(value, 0), ..."
            )
    wanted = [output for output in node.outputs if output]
    if len(results) < len(wanted):
        raise node.error(
            f"its converter {name} returned {len(results)} results; the node has {len(wanted)} "
            f"outputs: {', '.join(wanted)}"
        )
