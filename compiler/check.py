"""check(): whether a model will compile, and how much it computes and needs, without compiling it.

The model is imported and goes through the graph passes and the memory plan as in `compile`; what is
left out is scheduling, code generation and linking, which is nearly all of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from athanor.compiler.driver import plan_program
from athanor.compiler.memory import align
from athanor.compiler.profiling.work import step_work
from athanor.compiler.sizes import Sizes
from athanor.compiler.weights import weight_offsets
from athanor.errors import CompileError
from athanor.frontends.onnx.importer import ImportedModel, import_model
from athanor.frontends.onnx.model_file import SourceModel, read_model
from athanor.frontends.onnx.operators import walk_nodes
from athanor.frontends.onnx.opsets import canonical_domain, read_opsets
from athanor.frontends.onnx.refusals import RefusedModel
from athanor.frontends.onnx.type_check import blaming
from athanor.targets import TargetSpec, find_target


@dataclass(frozen=True)
class OperatorReport:
    """One operator of the model, in all its nodes and those of the graphs inside nodes.

    `domain` is "" for the standard's own. `refusals` says of each refused node why it is, and what
    would help; the operator is supported where there is none.
    """

    domain: str
    operator: str
    opset: int
    count: int
    refusals: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether no node of it is refused."""
        return not self.refusals


@dataclass(frozen=True)
class Estimate:
    """What one run computes and needs, with every dimension of `dims` at its size.

    `operations`: arithmetic operations, a multiply-add is two and a function such as exp is one; of
    loops one round, of branches both. Convolutions count by the direct method; where `compile`
    chooses Winograd's, it does fewer operations with larger weights. `weight_bytes`: of the weights
    as they are shipped, packed and without what was folded.
    `peak_activation_bytes`: of the memory that intermediate tensors share. `late_dims`: how many
    dimensions only the run knows; they count as 1, so that the numbers are then lower bounds.
    """

    dims: dict[str, int]
    operations: int
    weight_bytes: int
    peak_activation_bytes: int
    late_dims: int = 0


@dataclass(frozen=True)
class CheckReport:
    """Whether the model will compile, and why not.

    `refusals` has every reason, those of nodes included. `dynamic_dims` maps each symbolic
    dimension to the inputs that have it, as `ids[0]`. `estimate` is None where it is refused.
    """

    compiles: bool
    refusals: tuple[str, ...]
    operators: tuple[OperatorReport, ...]
    opsets: dict[str, int]
    dynamic_dims: dict[str, tuple[str, ...]]
    estimate: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        report = asdict(self)
        for mine, operator in zip(report["operators"], self.operators, strict=True):
            mine["supported"] = operator.supported
        return report


def check(
    model: str | Path | bytes | onnx.ModelProto,
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    *,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
) -> CheckReport:
    """Say whether `compile` would take a model, and what one run would cost.

    model, target, shapes, operators: as in `compile`. dims: the sizes of symbolic dimensions in the
    estimate; 1 where none is given.
    Raises CompileError for what is no ONNX model at all, an unknown target, and a dimension of
    `dims` that no input has.
    """
    spec = find_target(target)
    source = read_model(model)
    nodes = list(walk_nodes(source.skeleton.graph.node))
    opsets: dict[str, int] = {}
    try:
        opsets = read_opsets(source.skeleton)
        with blaming(source):
            imported = import_model(source, shapes, operators)
            unknown = sorted(set(dims or {}) - set(imported.symbols))
            sizes = {name: (dims or {}).get(name, 1) for name in imported.symbols}
            estimate = _estimate(imported, spec, sizes)
    except RefusedModel as refused:
        sentences = tuple(refusal.sentence for refusal in refused.refusals)
        reports = _operators(nodes, source, refused)
        return CheckReport(False, sentences, reports, opsets, _declared(source), None)
    except CompileError as error:
        reports = _operators(nodes, source)
        return CheckReport(False, (str(error),), reports, opsets, _declared(source), None)
    dynamic = _dynamic_dims((value.name, value.shape or ()) for value in imported.inputs)
    if unknown:
        raise CompileError(
            f"dims: the model has no symbolic dimension {unknown[0]!r}; it has "
            f"{list(imported.symbols)}"
        )
    return CheckReport(True, (), _operators(nodes, source), opsets, dynamic, estimate)


def _operators(
    nodes: Sequence[onnx.NodeProto], source: SourceModel, refused: RefusedModel | None = None
) -> tuple[OperatorReport, ...]:
    """A report on each operator, by domain and name."""
    opsets = {canonical_domain(e.domain): e.version for e in source.skeleton.opset_import}
    counts = Counter((canonical_domain(node.domain), node.op_type) for node in nodes)
    reasons: dict[tuple[str, str], list[str]] = {}
    for refusal in refused.refusals if refused else ():
        reasons.setdefault((refusal.domain, refusal.operator), []).append(refusal.sentence)
    for key in reasons.keys() - counts.keys():
        counts[key] = len(reasons[key])  # it came with the body of a function
    return tuple(
        OperatorReport(
            domain, op, opsets.get(domain, 0), count, tuple(reasons.get((domain, op), ()))
        )
        for (domain, op), count in sorted(counts.items())
    )


def _dynamic_dims(shapes: Any) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, dims in shapes:
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                found[dim] = (*found.get(dim, ()), f"{name}[{axis}]")
    return found


def _declared(source: SourceModel) -> dict[str, tuple[str, ...]]:
    """The dynamic dimensions as the model declares them, unnamed ones as `?`."""
    return _dynamic_dims(
        (
            value.name,
            [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
                for dim in value.type.tensor_type.shape.dim
            ],
        )
        for value in source.skeleton.graph.input
        if value.name not in source.weights
    )


def _estimate(imported: ImportedModel, target: TargetSpec, dims: dict[str, int]) -> Estimate:
    program, plan = plan_program(imported, target, winograd=False)
    sizes = Sizes(dims)
    work = [step_work(step, program.kernels) for step in program.timed_steps()]
    operations = sum(sizes.of(each.operations) for each in work)
    peak = plan.static_bytes + sum(align(sizes.of(size)) for size in plan.slots)
    return Estimate(dims, operations, weight_offsets(program)[1], peak, len(sizes.late))
