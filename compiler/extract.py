"""Relax main -> Program.

Shapes become C-printable expressions, reshapes views. What an imported graph's main looks like,
with the sizes that only a run knows and with control flow, is told in
frontends/onnx/import_builder.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Expr, GenericConst, IRModule, PrimType, TupleType

from athanor.compiler.binding_order import in_order
from athanor.compiler.passes.rewrite import constant_array
from athanor.compiler.program import (
    Block,
    Branch,
    Check,
    Copy,
    HostCall,
    KernelCall,
    Loop,
    Program,
    ReadDims,
    Step,
    Tensor,
    step_writes,
    symbols_of,
)
from athanor.frontends.onnx.import_builder import (
    HOST,
    IF,
    LATE,
    LOOP,
    Requirement,
    Subgraph,
    marker_numbers,
)
from athanor.frontends.onnx.known import is_late
from athanor.frontends.onnx.origins import ORIGINS
from athanor.targets.codegen import symbolic_parameters

_NAME_LIMIT = 80
"""Characters of a kernel's name."""


def extract_program(
    mod: IRModule,
    subgraphs: Sequence[Subgraph] = (),
    requirements: Sequence[Requirement] = (),
) -> Program:
    """The program of `mod["main"]`, whose body must be kernel calls, views, tuples and markers.

    `subgraphs` are what markers name, after the same passes. Of `requirements` those on late
    dimensions become checks; the others are the caller's.
    """
    shared = _Shared(subgraphs)
    inputs, symbols = [], []
    for param in mod["main"].params:
        if not isinstance(param.ty, relax.TensorType):
            continue
        tensor = _tensor(param.name, param.ty)
        tensor.input_index = len(inputs)
        inputs.append(tensor)
        for dim in tensor.shape:
            if isinstance(dim, tirx.Var) and not any(dim.same_as(s) for s in symbols):
                symbols.append(dim)
    late = [r for r in requirements if any(is_late(var) for var in symbols_of(r.condition))]
    block = _Extractor(mod, inputs, late, symbols, shared).run()
    return Program(symbols, inputs, block.results, block.steps, shared.kernels)


class _Shared:
    """What all blocks of a program have together."""

    def __init__(self, subgraphs: Sequence[Subgraph]) -> None:
        self.subgraphs = subgraphs
        self.kernels: dict[str, tirx.PrimFunc] = {}
        self.kernel_names: dict[int, list[tuple[tirx.PrimFunc, str]]] = {}
        self.constants: list[tuple[GenericConst, Tensor]] = []

    def kernel(self, hint: str, func: tirx.PrimFunc) -> str:
        """The name of a kernel; equal ones share it."""
        key = tvm_ffi.structural_hash(func)
        for known, name in self.kernel_names.get(key, []):
            if tvm_ffi.structural_equal(known, func):
                return name
        # Prefixed, for a kernel may be called `exp`; cut, for fusion strings names together.
        name = stem = f"k_{hint}"[:_NAME_LIMIT]
        number = 1
        while name in self.kernels:
            name, number = f"{stem}_{number}", number + 1
        self.kernels[name] = func
        self.kernel_names.setdefault(key, []).append((func, name))
        return name

    def constant(self, expr: GenericConst) -> Tensor:
        """The tensor of a constant; one object is one tensor."""
        for known, tensor in self.constants:
            if known.same_as(expr):
                return tensor
        tensor = _tensor(f"constant_{len(self.constants)}", expr.ty)
        tensor.constant = constant_array(expr)
        self.constants.append((expr, tensor))
        return tensor


class _Extractor:
    """One main -> one block; `arguments` are its tensor parameters, in order.

    Late dimensions are read as soon as their tensor is there; the passes keep the order of
    bindings, so whatever has such a dimension comes after.
    """

    def __init__(
        self,
        mod: IRModule,
        arguments: Sequence[Tensor],
        requirements: Sequence[Requirement],
        symbols: Sequence[tirx.Var],
        shared: _Shared,
    ) -> None:
        self.mod, self.shared = mod, shared
        self.main = mod["main"]
        self.steps: list[Step] = []
        self.requirements = list(requirements)
        self.defined = {symbol.name for symbol in symbols}
        params = [param for param in self.main.params if isinstance(param.ty, relax.TensorType)]
        self.values: dict[relax.Var, Tensor | list] = dict(zip(params, arguments, strict=True))
        results = _fields(self.main.body)
        late = [param for param in self.main.params if param.name.startswith(LATE)]
        self.result_exprs = results[: len(results) - len(late)]
        sources = results[len(results) - len(late) :]
        definitions = {
            binding.var: binding.value
            for block in self.main.body.blocks
            for binding in block.bindings
        }
        self.late = [
            (_origin(source, definitions), source, list(param.ty.values))
            for source, param in zip(sources, late, strict=True)
        ]
        self.definitions = definitions
        self.origins = (self.main.attrs or {}).get(ORIGINS, {})

    def run(self) -> Block:
        self.check()
        for param in self.main.params:
            self.read_dims(param)
        bindings = [binding for block in self.main.body.blocks for binding in block.bindings]
        late = [(origin, symbols) for origin, _, symbols in self.late]
        for binding in in_order(bindings, late, self.defined):
            self.bind(binding)
            self.read_dims(binding.var)
        assert not self.late, "late dimensions come from values that main binds"
        results: list[Tensor] = []
        for expr in self.result_exprs:
            value = self.value(expr)  # of a module of one's own, it may be a call's tuple
            results += value if isinstance(value, list) else [value]
        return Block(self.steps, results)

    def read_dims(self, bound: relax.Var) -> None:
        """Read the late dimensions that the call just bound has computed, if any."""
        for entry in [entry for entry in self.late if entry[0].same_as(bound)]:
            self.late.remove(entry)
            _, source, symbols = entry
            self.steps.append(ReadDims(self.tensor(source), symbols))
            self.defined |= {symbol.name for symbol in symbols}
        self.check()

    def check(self) -> None:
        """Check what can be checked now."""
        for requirement in list(self.requirements):
            if all(var.name in self.defined for var in symbols_of(requirement.condition)):
                self.requirements.remove(requirement)
                self.steps.append(Check(requirement.condition, requirement.sentence))

    def bind(self, binding: relax.Binding) -> None:
        value = binding.value
        if isinstance(value, relax.Call):
            name = value.op.name if isinstance(value.op, tvm.ir.Op) else None
            lowered = {
                "relax.call_tir": self.call,
                "relax.reshape": self.view,
                "relax.concat": self.concat,
                "relax.call_dps_packed": self.marker,
            }.get(name or "")
            assert lowered is not None, f"no lowering for {value.op} left in main: {binding}"
            self.values[binding.var] = lowered(binding)
            return
        self.values[binding.var] = self.value(value)

    def value(self, expr: relax.Expr) -> Tensor | list:
        if isinstance(expr, relax.Var):
            # an element of a tuple may be asked for before it is bound
            return self.values[expr] if expr in self.values else self.value(self.definitions[expr])
        if isinstance(expr, relax.Tuple):
            return [self.value(item) for item in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self.parts(expr.tuple_value)[expr.index]
        if isinstance(expr, GenericConst):
            return self.shared.constant(expr)
        raise AssertionError(f"no lowering for {type(expr).__name__} left in main: {expr}")

    def tensor(self, expr: relax.Expr) -> Tensor:
        """The value of what is no tuple."""
        value = self.value(expr)
        assert isinstance(value, Tensor), f"a tuple where a tensor is due: {expr}"
        return value

    def parts(self, expr: relax.Expr) -> list:
        """The values of a tuple."""
        value = self.value(expr)
        assert isinstance(value, list), f"a tensor where a tuple is due: {expr}"
        return value

    def made(self, name: str, call: relax.Call) -> list[Tensor]:
        """New tensors for the results of a call."""
        (out_ty,) = call.ty_args
        if not isinstance(out_ty, TupleType):
            return [_tensor(name, out_ty)]
        return [_tensor(f"{name}_{i}", ty) for i, ty in enumerate(out_ty.fields)]

    def call(self, binding: relax.Binding) -> Tensor | list[Tensor]:
        name, call = binding.var.name, binding.value
        func = self.mod[call.args[0]]
        arguments = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else [call.args[1]]
        tensors = [arg for arg in arguments if not _is_scalar(arg)]
        explicit = [arg for arg in arguments if _is_scalar(arg)]
        inputs = [self.tensor(arg) for arg in tensors]
        outputs = self.made(name, call)
        dims = [*explicit, *_bind_symbols(func, [*inputs, *outputs])]
        for value in [*dims, *(dim for tensor in outputs for dim in tensor.shape)]:
            unknown = [v.name for v in symbols_of(value) if v.name not in self.defined]
            assert not unknown, f"{name} needs {unknown}, which comes later"
        kernel = self.shared.kernel(call.args[0].name_hint, func)
        self.steps.append(KernelCall(kernel, inputs, outputs, dims, name, self.nodes(name)))
        return outputs if isinstance(call.ty_args[0], TupleType) else outputs[0]

    def nodes(self, name: str) -> list[str]:
        """The nodes that a binding comes from."""
        return [str(node) for node in self.origins.get(name, ())]

    def view(self, binding: relax.Binding) -> Tensor:
        view = _tensor(binding.var.name, binding.var.ty)
        view.source = self.tensor(binding.value.args[0])
        return view

    def concat(self, binding: relax.Binding) -> Tensor:
        """Concatenation along the outermost axis that is not 1: parts are views of the whole.

        A part that a kernel has just written moves into the whole; anything else is copied.
        """
        whole = _tensor(binding.var.name, binding.var.ty)
        written = _written(self.steps)
        offset = 0
        for part in self.parts(binding.value.args[0]):
            root, inner = part.root()
            size = part.static_bytes
            assert size is not None, "concat of symbolic parts must be legalized"
            if id(root) in written and inner == 0 and root.static_bytes == size:
                root.source, root.offset_bytes = whole, offset
            else:
                view = Tensor(f"{part.name}_part", part.dtype, part.shape, whole, offset)
                self.steps.append(Copy(part, view, self.nodes(whole.name)))
            offset += size
        return whole

    def marker(self, binding: relax.Binding) -> Tensor | list[Tensor]:
        """A call of subgraphs or of a C function."""
        call = binding.value
        symbol = call.args[0].global_symbol
        arguments = [self.tensor(argument) for argument in call.args[1].fields]
        outputs = self.made(binding.var.name, call)
        if symbol.startswith(HOST):
            self.steps.append(HostCall(symbol.removeprefix(HOST), arguments, outputs))
        elif symbol.startswith(IF):
            self.branch(arguments, outputs, marker_numbers(symbol)[1])
        else:
            kind, numbers = marker_numbers(symbol)
            assert kind == LOOP, f"unknown marker {kind}"
            outputs = self.loop(binding.var.name, arguments, outputs, numbers)
        return outputs if isinstance(call.ty_args[0], TupleType) else outputs[0]

    def inner(self, number: int, arguments: Sequence[Tensor]) -> Block:
        """The block of a subgraph on these tensors."""
        graph = self.shared.subgraphs[number]
        symbols = [tirx.Var(name, "int64") for name in self.defined]
        return _Extractor(graph.mod, arguments, graph.requirements, symbols, self.shared).run()

    def branch(self, arguments: list[Tensor], outputs: list[Tensor], numbers: list[int]) -> None:
        """Arguments: the condition, then's captured values, those of else."""
        then_graph, else_graph, captured = numbers
        condition, *values = arguments
        then = self.inner(then_graph, values[:captured])
        otherwise = self.inner(else_graph, values[captured:])
        for block in (then, otherwise):
            _write_results_in_place(block, block.results, outputs)
        self.steps.append(Branch(condition, then, otherwise, outputs))

    def loop(
        self, name: str, arguments: list[Tensor], outputs: list[Tensor], numbers: list[int]
    ) -> list[Tensor]:
        """Arguments: trips and condition where there are, initial states, captured values."""
        graph, has_trips, has_condition, width = numbers
        rest = list(arguments)
        trips = rest.pop(0) if has_trips else None
        condition = rest.pop(0) if has_condition else None
        initial, captured = rest[:width], rest[width:]
        main = self.shared.subgraphs[graph].mod["main"]
        types = [param.ty for param in main.params if isinstance(param.ty, relax.TensorType)]
        iteration, *states = (
            _tensor(f"{name}_state{i}", ty) for i, ty in enumerate(types[: width + 1])
        )
        following = [Tensor(f"{s.name}_next", s.dtype, s.shape) for s in states]
        body = self.inner(graph, [iteration, *states, *captured])
        _write_results_in_place(body, body.results[1 : width + 1], following)
        final, scans, count = outputs[:width], outputs[width:-1], outputs[-1]
        for output, state in zip(final, states, strict=True):
            output.source = state
        self.steps.append(
            Loop(trips, condition, initial, states, following, iteration, body, scans, count)
        )
        return outputs


def _write_results_in_place(
    block: Block, results: Sequence[Tensor], targets: Sequence[Tensor]
) -> None:
    """Let what a block writes as a result be the target itself, where sizes are known."""
    written = _written(block.steps)
    for result, target in zip(results, targets, strict=True):
        root, offset = result.root()
        size = root.static_bytes
        if id(root) in written and offset == 0 and size is not None and size == target.static_bytes:
            if root is not target:
                root.source = target


def _written(steps: Sequence[Step]) -> set[int]:
    """The tensors that own their memory and that kernels and copies among `steps` write."""
    plain = [step for step in steps if isinstance(step, (KernelCall, Copy))]
    return {id(tensor.root()[0]) for step in plain for tensor in step_writes(step)}


def _fields(body: relax.SeqExpr) -> list[Expr]:
    """The elements of main's result, where it is a tuple that main binds."""
    result = body.body
    for block in body.blocks:
        for binding in block.bindings:
            if binding.var.same_as(result) and isinstance(binding.value, relax.Tuple):
                result = binding.value
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]


def _origin(source: Expr, definitions: dict[relax.Var, Expr]) -> Expr:
    """What has to be bound for `source` to be there: passes may name a tuple's element late."""
    while True:
        if isinstance(source, relax.TupleGetItem):
            source = source.tuple_value
        elif isinstance(definitions.get(source), (relax.Var, relax.TupleGetItem)):
            source = definitions[source]
        else:
            return source


def _is_scalar(expr: Expr) -> bool:
    return isinstance(expr.ty, PrimType)


def _tensor(name: str, ty: relax.TensorType) -> Tensor:
    shape = tuple(_dimension(dim) for dim in ty.shape.values)
    return Tensor(name, str(ty.dtype), shape)


def _dimension(dim: Expr) -> int | Expr:
    return int(dim) if isinstance(dim, tirx.IntImm) else dim


def _bind_symbols(func: tirx.PrimFunc, arguments: Sequence[Tensor]) -> list[Expr]:
    """The caller's value of every symbolic dimension that the kernel takes behind its buffers."""
    buffers = [param for param in func.params if tirx.buffer.is_buffer_var(param)]
    values = []
    for symbol in symbolic_parameters(func):
        for buffer, tensor in zip(buffers, arguments, strict=True):
            found = [
                actual
                for dim, actual in zip(buffer.shape, tensor.shape, strict=True)
                if isinstance(dim, tirx.Var) and dim.same_as(symbol)
            ]
            if found:
                actual = found[0]
                values.append(tirx.IntImm("int64", actual) if isinstance(actual, int) else actual)
                break
        else:
            raise AssertionError(f"nothing tells the value of {symbol} in a kernel's shapes")
    return values
