"""Operators of ai.onnx.ml where keys or categories are strings.

A string is looked up among constant ones, which gives a number; from there on the converters for
numbers serve. Numbers become strings by looking them up in a constant tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import preprocessing_ml
from athanor.frontends.onnx.ops.strings import look_up, places_of
from athanor.frontends.onnx.small_types import STRING, Carried
from athanor.frontends.onnx.text import string_constant

Inputs = list[relax.Expr]


def label_encoder(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """The value that belongs to the element's key, or the default; of equal keys the first counts.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html
    """
    keys, values = _texts(node, "keys"), _texts(node, "values")
    _check_input(node, keys is not None)
    if keys is None and values is None:
        return preprocessing_ml.label_encoder(node, inputs, builder)
    table = values if values is not None else _numbers(node, "values")
    count, default_text = len(table), _default_text(node)
    if keys is None:
        numbered = {"values_int64s": list(range(count)), "default_int64": count}
        node = _with_attributes(node, ("values_", "default_"), numbered)
        places = preprocessing_ml.label_encoder(node, inputs, builder)
    else:
        if len(keys) != count:
            raise node.error(f"{len(keys)} keys for {count} values")
        places = places_of(inputs[0], keys, node.place, builder)
    if values is not None:
        return _texts_at(places, [*values, default_text], node, builder)
    default = _default_number(node, table.dtype)
    return look_up(places, constant(np.append(table, default)), builder)


def label_encoder_v1(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """Opset 1: classes_strings to their numbers and back.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html
    """
    classes = node.strings("classes_strings")
    return _mapped(node, inputs, classes, list(range(len(classes))), builder)


def category_mapper(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """Strings to the integers that belong to them, and back.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_CategoryMapper.html
    """
    texts, numbers = node.strings("cats_strings"), node.ints("cats_int64s")
    return _mapped(node, inputs, texts, numbers, builder)


def _mapped(
    node: Node, inputs: Inputs, texts: list[str], numbers: list[int], builder: ImportBuilder
) -> Any:
    """A LabelEncoder from strings to numbers, or the other way where the input has numbers."""
    sides: tuple[dict[str, Any], dict[str, Any]] = (
        {"keys_strings": texts, "values_int64s": numbers},
        {"keys_int64s": numbers, "values_strings": texts},
    )
    sides_of = sides[0] if node.small_type(0) == STRING else sides[1]
    return label_encoder(_with_attributes(node, ("cats_", "classes_"), sides_of), inputs, builder)


def one_hot_encoder(node: Node, inputs: Inputs, builder: ImportBuilder) -> Any:
    """A new last axis with 1 at the category of the element.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html
    """
    texts = node.strings("cats_strings", [])
    _check_input(node, bool(texts))
    if texts:
        numbered = {"cats_int64s": list(range(len(texts)))}
        places = places_of(inputs[0], texts, node.place, builder)
        node, inputs = _with_attributes(node, ("cats_",), numbered), [places]
    return preprocessing_ml.one_hot_encoder(node, inputs, builder)


def _check_input(node: Node, wants_text: bool) -> None:
    if (node.small_type(0) == STRING) != wants_text:
        have, want = ("numbers", "strings") if wants_text else ("strings", "numbers")
        raise node.error(f"the input has {have}, the attributes have {want}")


def _with_attributes(node: Node, dropped: Sequence[str], added: dict[str, Any]) -> Node:
    """The node without the attributes whose names begin so, and with others."""
    kept = {n: v for n, v in node.attributes.items() if not n.startswith(tuple(dropped))}
    return replace(node, attributes={**kept, **added})


def _texts(node: Node, side: str) -> list[Any] | None:
    """Keys or values that are strings."""
    if node.has(f"{side}_strings"):
        return node.strings(f"{side}_strings")
    if node.has(f"{side}_tensor"):
        array = numpy_helper.to_array(node.attributes[f"{side}_tensor"])
        if array.dtype.kind == "O":
            return array.reshape(-1).tolist()
    return None


def _numbers(node: Node, side: str) -> np.ndarray:
    if node.has(f"{side}_tensor"):
        return numpy_helper.to_array(node.attributes[f"{side}_tensor"]).reshape(-1)
    for kind, dtype in (("int64s", np.int64), ("floats", np.float32)):
        if node.has(f"{side}_{kind}"):
            return np.array(node.attributes[f"{side}_{kind}"], dtype)
    raise node.error(f"{side} are missing")


def _default_text(node: Node) -> Any:
    if node.has("default_tensor"):
        return numpy_helper.to_array(node.attributes["default_tensor"]).reshape(-1)[0]
    return node.string("default_string", "_Unused")


def _default_number(node: Node, dtype: np.dtype) -> np.ndarray:
    if node.has("default_tensor"):
        return numpy_helper.to_array(node.attributes["default_tensor"]).reshape(-1)[:1]
    if dtype.kind == "f":
        return np.array([node.float("default_float", -0.0)], dtype)
    return np.array([node.int("default_int64", -1)]).astype(dtype)


def _texts_at(
    places: relax.Expr, texts: Sequence[Any], node: Node, builder: ImportBuilder
) -> Carried:
    """The strings at places that are inside."""
    table = string_constant(np.array(texts, object), node.place, builder)
    return Carried(look_up(places, table, builder), STRING)
