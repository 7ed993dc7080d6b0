"""import_model(): an ONNX model to a Relax module, or one error with everything unsupported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import tvm
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.functions import inline_functions
from athanor.frontends.onnx.graph import GraphConverter
from athanor.frontends.onnx.import_builder import ImportBuilder, Requirement, Subgraph
from athanor.frontends.onnx.model_file import read_model
from athanor.frontends.onnx.operators import Converter, Operators
from athanor.frontends.onnx.ops import CONVERTERS
from athanor.frontends.onnx.opsets import read_opsets
from athanor.frontends.onnx.shapes import (
    Symbols,
    TensorSpec,
    input_dtype,
    input_shapes,
    output_spec,
    relax_input,
)
from athanor.frontends.onnx.small_types import SMALL_TYPES, Carried


@dataclass(frozen=True)
class ImportedModel:
    """A model in Relax: `mod["main"]` takes the inputs in order and returns a tuple of outputs.

    `symbols` names the symbolic dimensions; the same name is the same variable in every shape.
    They are at least 1: a run with an empty symbolic dimension has to be refused, and so has one
    that breaks a requirement.
    `source_sha256` is the hash of the model file (of the serialized proto, for a ModelProto).
    """

    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    source_sha256: str
    opsets: dict[str, int]
    subgraphs: tuple[Subgraph, ...] = ()


def import_model(
    model: str | Path | bytes | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    operators: Mapping[tuple[str, str, int], Converter] | None = None,
) -> ImportedModel:
    """Import an ONNX model: logical shapes, ordinary Relax operators, weights as constants.

    `shapes` fixes or names dimensions of inputs, e.g. {"input_ids": ["batch", 128]}.
    `operators` adds converters, keyed (domain, operator, since_opset); they come before ours.
    Raises CompileError for a broken model and for one that has unsupported operators; the
    message lists all of these with node name, domain and opset.
    """
    source = read_model(model)
    table = Operators({**CONVERTERS, **dict(operators or {})})
    skeleton = inline_functions(source.skeleton, table)
    opsets = read_opsets(skeleton)
    table.check(skeleton.graph, opsets)

    graph_inputs = [value for value in skeleton.graph.input if value.name not in source.weights]
    symbols = Symbols()
    dims = input_shapes(graph_inputs, shapes)
    builder = ImportBuilder()
    converter = GraphConverter(builder, table, opsets, source.folder)
    inputs: list[TensorSpec] = []
    params: list[relax.Expr] = []
    for value in graph_inputs:
        dtype = input_dtype(value)
        params.append(relax_input(value.name, dims[value.name], dtype, symbols))
        inputs.append(TensorSpec(value.name, dtype, tuple(dims[value.name])))
        small = dtype in SMALL_TYPES
        converter.define(value.name, Carried(params[-1], dtype) if small else params[-1])
    for name, tensor in source.weights.items():
        converter.define_weight(name, tensor)

    builder.declare(params)
    with builder.function("main"):
        with builder.dataflow():
            converter.convert(skeleton.graph.node)
            results = [converter.tensor(value.name) for value in skeleton.graph.output]
            output = builder.emit_output(relax.Tuple([*results, *builder.late_sources]))
        builder.emit_func_output(output, [*params, *builder.late_params])
    mod = builder.finish()
    outputs = tuple(
        output_spec(value.name, result, symbols, converter.small_type(value.name))
        for value, result in zip(skeleton.graph.output, results, strict=True)
    )
    if not outputs:
        raise CompileError("the model's graph has no output")
    return ImportedModel(
        mod,
        tuple(inputs),
        outputs,
        symbols.names,
        tuple(builder.requirements),
        source.sha256,
        opsets,
        tuple(builder.shared.subgraphs),
    )
