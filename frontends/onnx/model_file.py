"""Reading and checking an ONNX model; every way it can be broken is a CompileError.

The weights are kept apart from the graph: what is checked, and where functions are inlined, is a
skeleton in which every large initializer is a graph input of the same type. So a model of several
gigabytes is never copied or serialized again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from athanor.errors import CompileError
from athanor.frontends.onnx.operators import walk_nodes
from athanor.frontends.onnx.opsets import canonical_domain

_SMALL_BYTES = 1024  # initializers up to this size (shapes, axes, scalars) stay in the skeleton


@dataclass(frozen=True)
class SourceModel:
    """A checked model: graph without its weights, the weights, and where they lie.

    `weights` has every initializer by name. `folder` resolves external data; None when the model
    came as bytes or as a ModelProto without a path.
    """

    skeleton: onnx.ModelProto
    weights: dict[str, onnx.TensorProto]
    folder: Path | None
    sha256: str


def read_model(model: str | Path | bytes | onnx.ModelProto) -> SourceModel:
    """Read, parse and check a model.

    Raises CompileError when the file is missing, no ONNX model, cut short, or fails the checker.
    """
    try:
        return _read_model(model)
    except UnicodeDecodeError as error:  # protobuf looks at a string when it is asked for
        raise CompileError(f"the model holds a name that is no UTF-8 text: {error}") from error


def _read_model(model: str | Path | bytes | onnx.ModelProto) -> SourceModel:
    folder = None
    if isinstance(model, (str, Path)):
        path = Path(model)
        data, origin, folder = _read_file(path), f"'{path}'", path.resolve().parent
    elif isinstance(model, (bytes, bytearray, memoryview)):
        data, origin = bytes(model), "the model bytes"
    elif isinstance(model, onnx.ModelProto):
        digest = hashlib.sha256(_serialized(model)).hexdigest()
        skeleton, weights = _split_weights(model)
        _check(skeleton, "the model")
        return SourceModel(skeleton, weights, None, digest)
    else:
        raise CompileError(
            f"model is a {type(model).__name__}; expected a path, bytes or onnx.ModelProto"
        )
    digest = hashlib.sha256(data).hexdigest()
    proto = _parse(data, origin)
    skeleton, weights = _split_weights(proto)
    _check(skeleton, origin)
    return SourceModel(skeleton, weights, folder, digest)


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise CompileError(f"'{path}' is a directory; expected an ONNX file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CompileError(f"'{path}' does not exist") from None
    except OSError as error:
        raise CompileError(f"'{path}' can't be read: {error.strerror}") from error


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise CompileError(
            f"the ModelProto can't be serialized ({error}); save it with external data and "
            "compile the file"
        ) from error


def _parse(data: bytes, origin: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise CompileError(
            f"{origin} is not an ONNX model or is cut short ({len(data)} bytes: {error})"
        ) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise CompileError(
            f"{origin} is not an ONNX model: it has no graph or no ir_version ({len(data)} bytes)"
        )
    return proto


def _split_weights(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """The model without large initializers, and all initializers; `model` stays as it is."""
    graph = model.graph
    weights: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        _decode(tensor.name)
        if tensor.name in weights:
            raise CompileError(f"initializer {tensor.name!r} is defined twice")
        weights[tensor.name] = tensor
    if graph.sparse_initializer:
        names = ", ".join(repr(sparse.values.name) for sparse in graph.sparse_initializer)
        raise CompileError(f"sparse initializers are not supported: {names}; store them dense")

    skeleton = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(skeleton, field.name, value)
        else:
            getattr(skeleton, field.name).MergeFrom(value)
    for field, value in graph.ListFields():
        if field.name == "initializer":
            continue
        if isinstance(value, (str, bytes)):
            setattr(skeleton.graph, field.name, value)
        else:
            getattr(skeleton.graph, field.name).MergeFrom(value)
    declared = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if _is_small(tensor):
            skeleton.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            skeleton.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return skeleton, weights


def _is_small(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return tensor.ByteSize() <= _SMALL_BYTES


def _check(skeleton: onnx.ModelProto, origin: str) -> None:
    _decode_strings(skeleton)
    _spell_domains(skeleton)
    _move_unofficial(skeleton)
    try:
        onnx.checker.check_model(_with_ranks(skeleton))
    except onnx.checker.ValidationError as error:
        raise CompileError(f"{origin} fails the ONNX checker: {error}") from error


def _with_ranks(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """The model as the checker wants it: with a shape for every input and output.

    Many tools write none where they don't know the rank. That of an output is inferred, that of an
    input is asked for where the user's `shapes` does not have it.
    """
    values = (*skeleton.graph.input, *skeleton.graph.output)
    if all(value.type.tensor_type.HasField("shape") for value in values if _is_tensor(value)):
        return skeleton
    checked = onnx.ModelProto()
    checked.CopyFrom(skeleton)
    for value in (*checked.graph.input, *checked.graph.output):
        if _is_tensor(value):
            value.type.tensor_type.shape.SetInParent()
    return checked


def _is_tensor(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type")


def _decode_strings(message: Message) -> None:
    """Ask for every string once; one that is no UTF-8 raises UnicodeDecodeError."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in (value,) if isinstance(value, Message) else value:
                _decode_strings(inner)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in (value,) if isinstance(value, (str, bytes)) else value:
                _decode(text)


def _decode(text: str | bytes) -> None:
    """Protobuf hands out a single string that is no UTF-8 as bytes, one in a list as an error."""
    if isinstance(text, bytes):
        text.decode()


def _spell_domains(skeleton: onnx.ModelProto) -> None:
    """Write `ai.onnx` as "", the other name of the same domain; the checker knows that one only."""
    for entries in (skeleton, *skeleton.functions):
        for entry in entries.opset_import:
            entry.domain = canonical_domain(entry.domain)
    for nodes in (skeleton.graph.node, *(function.node for function in skeleton.functions)):
        for node in walk_nodes(nodes):
            node.domain = canonical_domain(node.domain)


_UNOFFICIAL = {"SimplifiedLayerNormalization": 0, "LayerNormalization": 17}
"""Operators that ONNX Runtime's exporters put into the standard's domain -> the opset from which
the standard has them, 0 for never."""


def _move_unofficial(skeleton: onnx.ModelProto) -> None:
    """Move operators that the standard's domain lacks to com.microsoft, where they belong."""
    version = next((e.version for e in skeleton.opset_import if not e.domain), 0)
    names = {name for name, since in _UNOFFICIAL.items() if not since or version < since}
    nodes = walk_nodes(skeleton.graph.node)
    moved = [node for node in nodes if node.op_type in names and not node.domain]
    for node in moved:
        node.domain = "com.microsoft"
    if moved and all(entry.domain != "com.microsoft" for entry in skeleton.opset_import):
        skeleton.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
