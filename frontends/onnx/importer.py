"""import_model(): an ONNX model to a Relax module, or one error with everything unsupported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import tvm
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.boundary import input_kind, received, returned, sequence_input
from athanor.frontends.onnx.custom import custom_table
from athanor.frontends.onnx.functions import inline_functions
from athanor.frontends.onnx.graph import GraphConverter
from athanor.frontends.onnx.import_builder import ImportBuilder, Requirement, Subgraph
from athanor.frontends.onnx.model_file import SourceModel, read_model
from athanor.frontends.onnx.operators import Converter, Operators
from athanor.frontends.onnx.ops import CONVERTERS
from athanor.frontends.onnx.ops.value_forms import Form
from athanor.frontends.onnx.opsets import read_opsets
from athanor.frontends.onnx.refusals import Refusals
from athanor.frontends.onnx.sequence_value import TENSOR
from athanor.frontends.onnx.shapes import (
    Symbols,
    TensorSpec,
    check_size,
    input_dtype,
    input_shapes,
    relax_input,
)
from athanor.frontends.onnx.small_types import CARRIED_TYPES, Carried

_PLAIN = (TENSOR, None)
"""The kinds of inputs whose `shapes` are those of tensors; None is for one that is not there."""


@dataclass(frozen=True)
class ImportedModel:
    """A model in Relax: `mod["main"]` takes the inputs in order and returns a tuple of outputs.

    An input or output that is a sequence or an optional is several tensors, one after another.
    `symbols` names the symbolic dimensions; the same name is the same variable in every shape.
    They are at least 1: a run with an empty symbolic dimension has to be refused, and so has one
    that breaks a requirement.
    `columns` names the columns of an output by class labels, where the model has them.
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
    columns: dict[str, tuple[int | str, ...]] = field(default_factory=dict)


def import_model(
    model: str | Path | bytes | onnx.ModelProto | SourceModel,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    operators: Mapping[tuple[str, str, int], Converter] | None = None,
) -> ImportedModel:
    """Import an ONNX model: logical shapes, ordinary Relax operators, weights as constants.

    `shapes` fixes or names dimensions of inputs, e.g. {"input_ids": ["batch", 128]}.
    `operators` adds converters, keyed (domain, operator, since_opset); they come before ours.
    Raises CompileError for a broken model, and RefusedModel, which lists all of them with node
    name, domain and opset, where nodes can't be compiled.
    """
    source = model if isinstance(model, SourceModel) else read_model(model)
    table = Operators({**CONVERTERS, **custom_table(operators)})
    skeleton = inline_functions(source.skeleton, table)
    opsets = read_opsets(skeleton)
    symbols = Symbols()
    refusals = Refusals(skeleton, symbols)
    for node, sentence in table.unsupported(skeleton.graph, opsets):
        refusals.add_unsupported(node, sentence)

    graph_inputs = [value for value in skeleton.graph.input if value.name not in source.weights]
    kinds = {value.name: input_kind(value)[0] for value in graph_inputs}
    tensors = [value for value in graph_inputs if kinds[value.name] == TENSOR]
    given = dict(shapes or {})
    of_elements = {name: given.pop(name) for name in list(given) if kinds.get(name) not in _PLAIN}
    dims = input_shapes(tensors, given, list(kinds))
    builder = ImportBuilder()
    converter = GraphConverter(builder, table, opsets, source.folder, refusals=refusals)
    inputs: list[TensorSpec] = []
    params: list[relax.Var] = []
    packed: list[tuple[TensorSpec, list[relax.Var], Form]] = []
    for value in graph_inputs:
        if kinds[value.name] != TENSOR:
            packed.append(sequence_input(value, of_elements.get(value.name), symbols))
            inputs.append(packed[-1][0])
            params += packed[-1][1]
            continue
        dtype = input_dtype(value)
        check_size(f"input {value.name!r}", dims[value.name])
        params.append(relax_input(value.name, dims[value.name], dtype, symbols))
        inputs.append(TensorSpec(value.name, dtype, tuple(dims[value.name])))
        is_carried = dtype in CARRIED_TYPES
        converter.define(value.name, Carried(params[-1], dtype) if is_carried else params[-1])
    for name, tensor in source.weights.items():
        converter.define_weight(name, tensor)

    builder.declare(params)
    with builder.function("main"):
        with builder.dataflow():
            for spec, parts, form in packed:
                converter.define(spec.name, received(spec, parts, form, builder))
            converter.convert(skeleton.graph.node)
            refusals.finish()
            outputs: list[TensorSpec] = []
            results: list[relax.Expr] = []
            for value in skeleton.graph.output:
                small_type = converter.small_type(value.name)
                result = converter.value(value.name)
                spec, parts = returned(value, result, small_type, symbols, builder)
                outputs.append(spec)
                results += parts
            output = builder.emit_output(relax.Tuple([*results, *builder.late_sources]))
        builder.emit_func_output(output, [*params, *builder.late_params])
    mod = builder.finish()
    if not outputs:
        raise CompileError("the model's graph has no output")
    return ImportedModel(
        mod,
        tuple(inputs),
        tuple(outputs),
        symbols.names,
        tuple(builder.requirements),
        source.sha256,
        opsets,
        tuple(builder.shared.subgraphs),
        {spec.name: builder.columns[spec.name] for spec in outputs if spec.name in builder.columns},
    )
