"""Relax main -> a flat program: tensors, and kernel calls in order.

After legalization and fusion, `main` is a straight list of kernel calls and reshapes. Here it
becomes plain data, so that memory planning and printing need no TVM: shapes are printed to C
expressions, reshapes are aliases, and equal kernels have become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Expr, GenericConst, IRModule, PrimType, TupleType

from athanor.compiler.passes.rewrite import constant_array
from athanor.targets.codegen import symbolic_parameters

_NAME_LIMIT = 80
"""Characters of a kernel's name."""


@dataclass(eq=False)
class Tensor:
    """A value of the program.

    A view (`source` set) shares the memory of its source, `offset_bytes` in; all other tensors
    own theirs.
    """

    name: str
    dtype: str
    shape: tuple[int | Expr, ...]
    source: Tensor | None = None
    offset_bytes: int = 0
    constant: np.ndarray | None = None
    input_index: int | None = None

    def root(self) -> tuple[Tensor, int]:
        """The tensor that owns the memory, and the byte offset of this one in it."""
        tensor, offset = self, 0
        while tensor.source is not None:
            tensor, offset = tensor.source, offset + tensor.offset_bytes
        return tensor, offset

    @property
    def size(self) -> int | Expr:
        """Number of elements."""
        count: int | Expr = 1
        for dim in self.shape:
            count = count * dim
        return count

    @property
    def itemsize_bits(self) -> int:
        """Bits of one element; sub-byte elements take a byte each."""
        return max(8, tvm.DataType(self.dtype).bits)

    @property
    def static_bytes(self) -> int | None:
        """Size in bytes, None where it depends on a symbol."""
        size = self.size
        return size * self.itemsize_bits // 8 if isinstance(size, int) else None


@dataclass(eq=False)
class KernelCall:
    """`kernel(*inputs, *outputs, *dims)`."""

    kernel: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    dims: list[Expr]
    label: str
    """Where the kernel came from: names of the graph's values that it computes."""


@dataclass(eq=False)
class Copy:
    """Copy all bytes of `source` to `target`, which has the same size."""

    source: Tensor
    target: Tensor


@dataclass(eq=False)
class Program:
    """All that the host program does in one run."""

    symbols: list[tirx.Var]
    inputs: list[Tensor]
    outputs: list[Tensor]
    steps: list[KernelCall | Copy]
    kernels: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    """Unscheduled prim_func of each kernel that `steps` call."""

    def constants(self) -> list[Tensor]:
        """Every constant that a step or an output reads, in order of first use."""
        read = [tensor for step in self.steps for tensor in step_reads(step)]
        found: dict[Tensor, None] = {}
        for tensor in [*read, *self.outputs]:
            root, _ = tensor.root()
            if root.constant is not None:
                found.setdefault(root)
        return list(found)


def step_reads(step: KernelCall | Copy) -> list[Tensor]:
    """The tensors that a step reads."""
    return step.inputs if isinstance(step, KernelCall) else [step.source]


def step_writes(step: KernelCall | Copy) -> list[Tensor]:
    """The tensors that a step writes."""
    return step.outputs if isinstance(step, KernelCall) else [step.target]


def extract_program(mod: IRModule) -> Program:
    """The program of `mod["main"]`, whose body must be kernel calls, reshapes and tuples."""
    return _Extractor(mod).run()


class _Extractor:
    def __init__(self, mod: IRModule) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.values: dict[relax.Var, Tensor | list] = {}
        self.steps: list[KernelCall | Copy] = []
        self.kernels: dict[str, tirx.PrimFunc] = {}
        self.kernel_names: dict[int, list[tuple[tirx.PrimFunc, str]]] = {}
        self.constant_tensors: list[tuple[GenericConst, Tensor]] = []

    def run(self) -> Program:
        inputs, symbols = [], []
        for index, param in enumerate(self.main.params):
            tensor = _tensor(param.name, param.ty)
            tensor.input_index = index
            self.values[param] = tensor
            inputs.append(tensor)
            for dim in tensor.shape:
                if isinstance(dim, tirx.Var) and not any(dim.same_as(s) for s in symbols):
                    symbols.append(dim)
        for block in self.main.body.blocks:
            for binding in block.bindings:
                self.bind(binding)
        outputs = self.value(self.main.body.body)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return Program(symbols, inputs, outputs, self.steps, self.kernels)

    def bind(self, binding: relax.Binding) -> None:
        value = binding.value
        if isinstance(value, relax.Call):
            name = value.op.name if isinstance(value.op, tvm.ir.Op) else None
            if name == "relax.call_tir":
                self.values[binding.var] = self.call(binding.var.name, value)
                return
            if name == "relax.reshape":
                view = _tensor(binding.var.name, binding.var.ty)
                view.source = self.value(value.args[0])
                self.values[binding.var] = view
                return
            if name == "relax.concat":
                self.values[binding.var] = self.concat(binding)
                return
            raise AssertionError(f"no lowering for {value.op} left in main: {binding}")
        self.values[binding.var] = self.value(value)

    def value(self, expr: relax.Expr) -> Tensor | list:
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, relax.Tuple):
            return [self.value(item) for item in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self.parts(expr.tuple_value)[expr.index]
        if isinstance(expr, GenericConst):
            return self.constant(expr)
        raise AssertionError(f"no lowering for {type(expr).__name__} left in main: {expr}")

    def tensor(self, expr: relax.Expr) -> Tensor:
        value = self.value(expr)
        assert isinstance(value, Tensor), f"a tuple where a tensor is due: {expr}"
        return value

    def parts(self, expr: relax.Expr) -> list:
        value = self.value(expr)
        assert isinstance(value, list), f"a tensor where a tuple is due: {expr}"
        return value

    def constant(self, expr: GenericConst) -> Tensor:
        for known, tensor in self.constant_tensors:
            if known.same_as(expr):
                return tensor
        tensor = _tensor(f"constant_{len(self.constant_tensors)}", expr.ty)
        tensor.constant = constant_array(expr)
        self.constant_tensors.append((expr, tensor))
        return tensor

    def call(self, name: str, call: relax.Call) -> Tensor | list[Tensor]:
        func = self.mod[call.args[0]]
        arguments = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else [call.args[1]]
        tensors = [arg for arg in arguments if not _is_scalar(arg)]
        explicit = [arg for arg in arguments if _is_scalar(arg)]
        inputs = [self.tensor(arg) for arg in tensors]
        (out_ty,) = call.ty_args
        many = isinstance(out_ty, TupleType)
        types = list(out_ty.fields) if many else [out_ty]
        outputs = [_tensor(f"{name}_{i}" if many else name, ty) for i, ty in enumerate(types)]
        dims = [*explicit, *_bind_symbols(func, [*inputs, *outputs])]
        kernel = self.kernel(call.args[0].name_hint, func)
        self.steps.append(KernelCall(kernel, inputs, outputs, dims, name))
        return outputs if many else outputs[0]

    def concat(self, binding: relax.Binding) -> Tensor:
        """Concatenation along the outermost axis that is not 1: parts are views of the whole.

        A part that a kernel has just written moves into the whole; anything else is copied.
        """
        whole = _tensor(binding.var.name, binding.var.ty)
        written = {id(t.root()[0]) for step in self.steps for t in step_writes(step)}
        offset = 0
        for part in self.parts(binding.value.args[0]):
            root, inner = part.root()
            size = part.static_bytes
            assert size is not None, "concat of symbolic parts must be legalized"
            if id(root) in written and inner == 0 and root.static_bytes == size:
                root.source, root.offset_bytes = whole, offset
            else:
                view = Tensor(f"{part.name}_part", part.dtype, part.shape, whole, offset)
                self.steps.append(Copy(part, view))
            offset += size
        return whole

    def kernel(self, hint: str, func: tirx.PrimFunc) -> str:
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
