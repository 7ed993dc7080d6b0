"""Nodes whose result is known at import: shape computations and arithmetic on small constants.

Small constants go through onnx's reference implementation; elements with symbolic dimensions
through the folders of `fold_symbolic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from athanor.frontends.onnx.fold_symbolic import FOLDERS
from athanor.frontends.onnx.known import Known, known
from athanor.frontends.onnx.node import Node

_MAX_ELEMENTS = 1 << 13  # larger results are left to the compiler, which folds with its own kernels
_MAX_SYMBOLIC = 256  # symbolic elements are expressions: slow to simplify, and shapes are short


def fold(node: Node, present: Sequence[bool]) -> tuple[Known | None, ...] | None:
    """The outputs of a node that is known at import, else None.

    `node.known` has the elements of the inputs where known; `present` says which inputs exist.
    """
    if node.domain != "":
        return None
    inputs = [value for value, exists in zip(node.known, present, strict=True) if exists]
    if not inputs or any(value is None for value in inputs):
        return None
    if all(value.is_constant for value in inputs if value is not None):
        return _fold_constants(node)
    folder = FOLDERS.get(node.op)
    if folder is None or any(v.elements.size > _MAX_SYMBOLIC for v in inputs if v is not None):
        return None
    result = folder(node, list(node.known))
    return None if result is None else (result,)


# What shape computations and exporters' constant arithmetic are made of. Not everything: the
# reference is wrong in places (LRN over more channels than images, Mean with broadcasting), and
# other constants are folded by the compiler with the kernels that the tests compare.
_CONSTANT = frozenset(
    "Abs Add And ArgMax ArgMin Cast CastLike Ceil Concat Div Equal Exp Expand Flatten Floor Gather "
    "GatherElements GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Log Max "
    "Min Mod Mul Neg NonZero Not Or Pow Range Reciprocal ReduceMax ReduceMin ReduceProd ReduceSum "
    "Reshape Shape Sign Size Slice Split Sqrt Squeeze Sub Sum Tile Transpose Trilu Unsqueeze Where "
    "Xor".split()
)


def _fold_constants(node: Node) -> tuple[Known | None, ...] | None:
    """Run the node in onnx's reference implementation; None when it is no small computation."""
    if node.op not in _CONSTANT:
        return None
    arrays = [value.elements if value is not None else None for value in node.known]
    if sum(array.size for array in arrays if array is not None) > _MAX_ELEMENTS:
        return None
    if node.op in ("Expand", "Tile", "Range"):
        return None if not _is_small_result(node, arrays) else _reference(node, arrays)
    return _reference(node, arrays)


def _is_small_result(node: Node, arrays: Sequence[np.ndarray | None]) -> bool:
    """Whether the result of an operator that can grow its input stays small."""
    try:
        if node.op == "Range":
            start, limit, delta = (float(a.item()) for a in arrays if a is not None)
            return abs((limit - start) / delta) <= _MAX_ELEMENTS
        if node.op == "Expand" and arrays[1] is not None and arrays[0] is not None:
            return int(np.prod(arrays[1], dtype=object)) * arrays[0].size <= _MAX_ELEMENTS
        if node.op == "Tile" and arrays[1] is not None and arrays[0] is not None:
            return int(np.prod(arrays[1], dtype=object)) * arrays[0].size <= _MAX_ELEMENTS
    except (ZeroDivisionError, OverflowError, ValueError):
        return False
    return False


def _reference(node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[Known | None, ...] | None:
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    outputs = [f"y{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = onnx.helper.make_node(node.op, names, outputs, domain=node.domain)
    for name, value in node.attributes.items():
        proto.attribute.append(onnx.helper.make_attribute(name, value))
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in names if name],
        [onnx.ValueInfoProto(name=name) for name in outputs if name],
    )
    opset = onnx.helper.make_opsetid(node.domain, node.opset)
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset])).run(
                None, feeds
            )
    except Exception:
        return None  # the converter says what is wrong, in a sentence
    values = iter(results)
    folded = tuple(_as_known(next(values)) if name else None for name in outputs)
    return (
        folded
        if all(f is not None or not n for f, n in zip(folded, outputs, strict=True))
        else None
    )


def _as_known(value: Any) -> Known | None:
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "SUc" or array.size > _MAX_ELEMENTS:
        return None
    return known(array)
