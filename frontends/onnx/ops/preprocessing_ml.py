"""Preprocessing operators of ai.onnx.ml: scaling, encoding, imputing, picking features."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, te, tirx

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import constant, is_symbolic, product
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops.indexing import from_front
from athanor.frontends.onnx.ops.loop_kernel import int64, is_nan, loop, loop_kernel, store, when
from athanor.frontends.onnx.tensors import (
    cast,
    compute,
    dtype_of,
    is_float,
    rank_of,
    reshape,
    scalar,
    shape_of,
)

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder


def _features(node: Node, x: relax.Expr) -> int:
    """The last dimension, which has to be fixed."""
    dims = shape_of(x)
    if not dims or is_symbolic(dims[-1]):
        raise node.error(f"input {dims} has to have a fixed number of features")
    return dims[-1]


def _per_feature(node: Node, x: relax.Expr, name: str, default: float) -> np.ndarray:
    """A float attribute with one value, or one for each feature."""
    values = np.array(node.floats(name, [default]), np.float32)
    if values.size not in (1, _features(node, x)):
        raise node.error(f"{values.size} values of {name} for input {shape_of(x)}")
    return values


def scaler(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """`(x - offset) * scale` in float32.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html
    """
    x = inputs[0]
    offset = _per_feature(node, x, "offset", 0.0)
    scale = _per_feature(node, x, "scale", 1.0)
    # doubles are rounded after the subtraction, as in ONNX Runtime
    wide = dtype_of(x) if dtype_of(x) == "float64" else "float32"
    centered = builder.emit(R.subtract(cast(x, wide, builder), constant(offset, wide)))
    return R.multiply(cast(centered, "float32", builder), constant(scale))


def normalizer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """Rows divided by their norm: MAX (of the absolute values), L1 or L2; a norm of 0 counts as 1.

    ONNX Runtime takes the largest value for MAX; scikit-learn and the onnx reference do as here.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_Normalizer.html
    """
    x = cast(inputs[0], "float32", builder)
    norm = node.string("norm", "MAX")
    if rank_of(x) not in (1, 2):
        raise node.error(f"input {shape_of(x)} has to have 1 or 2 dimensions")
    if norm == "MAX":
        size = R.max(builder.emit(R.abs(x)), axis=-1, keepdims=True)
    elif norm == "L1":
        size = R.sum(builder.emit(R.abs(x)), axis=-1, keepdims=True)
    elif norm == "L2":
        squares = builder.emit(R.multiply(x, x))
        size = R.sqrt(builder.emit(R.sum(squares, axis=-1, keepdims=True)))
    else:
        raise node.error(f"norm={norm!r} is none of MAX, L1, L2")
    size = builder.emit(size)
    one, zero = scalar(1, "float32"), scalar(0, "float32")
    return R.divide(x, builder.emit(R.where(builder.emit(R.equal(size, zero)), one, size)))


def binarizer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """1 where x > threshold, else 0, in x's type.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html
    """
    x = inputs[0]
    wide = dtype_of(x) if is_float(x) else "float64"
    limit = scalar(node.float("threshold", 0.0), wide)
    return R.astype(builder.emit(R.greater(cast(x, wide, builder), limit)), dtype_of(x))


def imputer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The value that stands for a missing one replaced by the feature's own.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_Imputer.html
    """
    x = inputs[0]
    dtype = dtype_of(x)
    kind = "float" if is_float(x) else "int64"
    if kind == "float":
        values = np.array(node.floats("imputed_value_floats", []))
        missing: float | int = node.float("replaced_value_float", 0.0)
    else:
        values = np.array(node.ints("imputed_value_int64s", []), np.int64)
        missing = node.int("replaced_value_int64", 0)
    if values.size == 0 or values.size not in (1, _features(node, x)):
        raise node.error(f"{values.size} imputed_value_{kind}s for input {shape_of(x)}")
    if kind == "float" and np.isnan(missing):
        absent = builder.emit(R.isnan(x))
    else:
        absent = builder.emit(R.equal(x, scalar(missing, dtype)))
    replacement = builder.emit(
        R.broadcast_to(constant(values, dtype), relax.ShapeExpr(shape_of(x)))
    )
    return R.where(absent, replacement, x)


def one_hot_encoder(node: Node, inputs: Inputs, builder: ImportBuilder) -> relax.Expr:
    """A new last axis with 1 at the category of the element, in float32.

    A value that is no category gives zeros; with zeros=0 it is an error of the run.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html
    """
    if node.has("cats_strings") and node.strings("cats_strings"):
        raise node.error("string categories are not supported")
    categories = np.array(node.ints("cats_int64s"), np.int64)
    if categories.size == 0 or len(set(categories.tolist())) < categories.size:
        raise node.error("cats_int64s is empty or names a category twice")
    x = cast(inputs[0], "int64", builder)
    spread = reshape(x, [*shape_of(x), 1], builder)
    encoded = cast(builder.emit(R.equal(spread, constant(categories))), "int64", builder)
    if not node.int("zeros", 1):
        found = builder.emit(R.max(encoded, axis=-1))
        missing = builder.emit(R.sum(builder.emit(R.subtract(scalar(1, "int64"), found))))
        (count,) = builder.late_values(reshape(missing, [1], builder), 1)
        builder.require(count <= 0, "a value is none of the categories (zeros=0)")
    return R.astype(encoded, "float32")


def label_encoder(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The value that belongs to the element's key, or the default.

    The kernel looks the key up in the sorted keys, by bisection.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html
    """
    x = inputs[0]
    keys, values, default = _mapping(node)
    if str(keys.dtype) != dtype_of(x):
        raise node.error(f"keys of type {keys.dtype} for an input of {dtype_of(x)}")
    if len(keys) != len(values) or len(keys) == 0:
        raise node.error(f"{len(keys)} keys for {len(values)} values")
    # a NaN key is found by a NaN, as from opset 4 on
    nan_places = np.flatnonzero(np.isnan(keys)) if keys.dtype.kind == "f" else np.zeros(0, int)
    for_nan = values[nan_places[0]] if nan_places.size else default
    if nan_places.size:
        kept = ~np.isnan(keys)
        keys, values = keys[kept], values[kept]
    keys, first = np.unique(keys, return_index=True)
    if len(first) < len(values):
        raise node.error("a key is there twice; converters disagree on which one counts")
    values = values[first]
    if keys.size == 0:
        keys, values = np.zeros(1, keys.dtype), np.full(1, default, values.dtype)
    last = len(keys) - 1

    def look_up(ins: list[Any], outs: list[Any], scalars: list[Any]) -> None:
        (data, table, mapped), (result, below), (size,) = ins, outs, scalars
        with loop(size) as i:
            store(below, int64(0), int64(0))
            # how many keys are below the element: bit by bit, the highest first
            for bit in reversed(range(len(keys).bit_length())):
                place = below[0] + ((1 << bit) - 1)
                is_below = table[tirx.min(place, int64(last))] < data[i]
                with when(tirx.all(place <= last, is_below)):
                    store(below, int64(0), below[0] + (1 << bit))
            place = tirx.min(below[0], int64(last))
            missing = tirx.const(default, str(values.dtype))
            value = tirx.Select(table[place] == data[i], mapped[place], missing)
            if is_float(x):
                value = tirx.Select(is_nan(data[i]), tirx.const(for_nan, str(values.dtype)), value)
            store(result, i, value)

    shape = shape_of(x)
    result, _ = loop_kernel(
        builder,
        "label",
        [x, constant(keys), constant(values)],
        [(shape, str(values.dtype)), ([1], "int64")],
        [product(shape)],
        look_up,
    )
    return result


def _mapping(node: Node) -> tuple[np.ndarray, np.ndarray, Any]:
    """Keys, values and the default of a LabelEncoder."""
    kinds = {"int64s": np.int64, "floats": np.float32}
    if any(node.has(n) for n in ("keys_strings", "values_strings", "classes_strings")):
        raise node.error("string keys or values are not supported")

    def side(name: str) -> np.ndarray:
        if node.has(f"{name}_tensor"):
            array = numpy_helper.to_array(node.attributes[f"{name}_tensor"]).reshape(-1)
            if array.dtype.kind not in "if":
                raise node.error(f"{name}_tensor of type {array.dtype} is not supported")
            return array
        for kind, dtype in kinds.items():
            if node.has(f"{name}_{kind}"):
                return np.array(node.attributes[f"{name}_{kind}"], dtype)
        raise node.error(f"{name} are missing")

    keys, values = side("keys"), side("values")
    if node.has("default_tensor"):
        default = numpy_helper.to_array(node.attributes["default_tensor"]).reshape(-1)[0]
    elif values.dtype.kind == "f":
        default = node.float("default_float", -0.0)
    else:
        default = node.int("default_int64", -1)
    return keys, values, values.dtype.type(default).item()


def feature_vectorizer(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The inputs' columns side by side in float32, each cut or padded to inputdimensions.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_FeatureVectorizer.html
    """
    widths = node.ints("inputdimensions", [_features(node, x) for x in inputs])
    if len(widths) != len(inputs):
        raise node.error(f"{len(widths)} inputdimensions for {len(inputs)} inputs")
    parts = []
    for x, width in zip(inputs, widths, strict=True):
        have = _features(node, x)
        if rank_of(x) != 2 or width < 1:  # what one dimension means, implementations disagree on
            raise node.error(f"input {shape_of(x)} with inputdimensions {widths}; two are needed")
        x = cast(x, "float32", builder)
        if width < have:
            x = builder.emit(R.strided_slice(x, [1], [0], [width]))
        elif width > have:
            x = builder.emit(R.nn.pad(x, [0, 0, 0, width - have]))
        parts.append(x)
    return R.concat(parts, axis=1)


def array_feature_extractor(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """The elements of the last axis at the indices in input 1.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html
    """
    x, indices = inputs
    if rank_of(x) == 0 or shape_of(x)[-1] == 0:
        raise node.error(f"input {shape_of(x)} has no features")
    last, picked = shape_of(x)[-1], node.known[1]
    if picked is not None and picked.is_constant and not is_symbolic(last):
        outside = [i for i in picked.elements.reshape(-1).tolist() if not 0 <= i < last]
        if outside:
            raise node.error(f"index {outside[0]} is outside of [0, {last})")
    count = product(shape_of(indices))
    flat = reshape(indices, [count], builder)
    outer = shape_of(x)[:-1] or [1]
    x = reshape(x, [*outer, shape_of(x)[-1]], builder)

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            return data(*i[:-1], from_front(index(i[-1]), data.shape[-1]))

        return te.compute((*data.shape[:-1], index.shape[0]), element, name="features")

    return compute(builder, "features", kernel, x, flat)
