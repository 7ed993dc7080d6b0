"""Program + memory plan -> C source of the host program.

The text is meant to be read: one line a kernel call, in the order of the model, every tensor with
its name, shape and place. It includes the loader's contract, athanor_abi.h, and nothing else of
ours; what it exports is the one descriptor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.ir import Expr

from athanor.compiler.cexpr import PRELUDE, c_expression
from athanor.compiler.memory import ALIGNMENT, MemoryPlan, align
from athanor.compiler.program import Copy, KernelCall, Program, Tensor
from athanor.compiler.weights import weight_offsets
from athanor.frontends.onnx.import_builder import Requirement


@dataclass(frozen=True)
class Signature:
    """What the user knows and the program's tensors don't."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    requirements: tuple[Requirement, ...] = ()
    """Conditions on symbolic dimensions, checked whenever they change."""


def print_host(program: Program, plan: MemoryPlan, signature: Signature) -> str:
    """C source of the host program."""
    return _Printer(program, plan, signature).text()


class _Printer:
    def __init__(self, program: Program, plan: MemoryPlan, signature: Signature) -> None:
        self.program, self.plan, self.signature = program, plan, signature
        self.weights, self.weights_bytes = weight_offsets(program)
        self.symbols = [f"s{i}_{_identifier(s.name)}" for i, s in enumerate(program.symbols)]

    def text(self) -> str:
        parts = [
            '#include "athanor_abi.h"\n#include <string.h>\n',
            PRELUDE,
            self.kernels(),
            self.tensors(),
            self.plan_function(),
            self.run_function(),
            self.descriptor(),
        ]
        return "\n".join(parts)

    # Expressions and places

    def expression(self, expr: int | Expr) -> str:
        return c_expression(expr, self.symbol_name)

    def symbol_name(self, var: tirx.Var) -> str:
        for symbol, name in zip(self.program.symbols, self.symbols, strict=True):
            if symbol.same_as(var) or symbol.name == var.name:
                return name
        raise AssertionError(f"the dimension {var} belongs to no input")

    def place(self, tensor: Tensor) -> str:
        """C expression of the tensor's address."""
        root, inner = tensor.root()
        if root.constant is not None:
            return f"(void *)(run->weights + {self.weights[root] + inner})"
        if root.input_index is not None:
            base = f"run->inputs[{root.input_index}]"
        elif root in self.plan.outputs:
            base = f"run->outputs[{self.plan.outputs[root]}]"
        elif root in self.plan.offsets:
            return f"(run->arena + {self.plan.offsets[root] + inner})"
        else:
            base = f"(run->arena + slot{self.plan.slot_of[root]})"
        return f"((uint8_t *){base} + {inner})" if inner else base

    def size_bytes(self, tensor: Tensor) -> str:
        return self.expression(tensor.size) + f" * {tensor.itemsize_bits // 8}"

    # Sections

    def kernels(self) -> str:
        arity = {}
        for step in self.program.steps:
            if isinstance(step, KernelCall):
                arity[step.kernel] = (len(step.inputs) + len(step.outputs), len(step.dims))
        declared, table, filled = [], [], []
        for name, (pointers, dims) in arity.items():
            types = ", ".join(["void *"] * pointers + ["int64_t"] * dims) or "void"
            declared.append(f"extern int {name}({types});")
            table.append(f"  int (*{name})({types});")
            filled.append(f"  kernels.{name} = {name};")
        return "\n".join(
            [
                *declared,
                "\n/* Filled at load, so that a processor can be given its own variant. */",
                "static struct {",
                *(table or ["  int none;"]),
                "} kernels;\n",
                "/* What TVM's code generator leaves to be resolved. */",
                "static const AthanorServices *services;",
                "static void *workspace_alloc(int device_type, int device_id, uint64_t size_bytes,",
                "                             int dtype_code, int dtype_bits) {",
                "  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;",
                "  return services->workspace_alloc(size_bytes);",
                "}",
                "static int workspace_free(int device_type, int device_id, void *pointer) {",
                "  (void)device_type, (void)device_id;",
                "  return services->workspace_free(pointer);",
                "}",
                '#define HIDDEN __attribute__((visibility("hidden")))',
                "HIDDEN void *__TVMBackendParallelLaunch;",
                "HIDDEN void *__TVMBackendAllocWorkspace = (void *)workspace_alloc;",
                "HIDDEN void *__TVMBackendFreeWorkspace = (void *)workspace_free;\n",
                "static int init(const AthanorServices *given) {",
                "  services = given;",
                "  __TVMBackendParallelLaunch = (void *)given->parallel_launch;",
                *filled,
                "  return 0;",
                "}\n",
            ]
        )

    def tensors(self) -> str:
        lines = []
        lists = (
            ("input", self.signature.input_names, self.program.inputs),
            ("output", self.signature.output_names, self.program.outputs),
        )
        for kind, names, tensors in lists:
            rows = []
            for index, (name, tensor) in enumerate(zip(names, tensors, strict=True)):
                dims = ", ".join(self.descriptor_dim(dim) for dim in tensor.shape) or "0"
                lines.append(f"static const int64_t {kind}{index}_shape[] = {{{dims}}};")
                code, bits = _dlpack(tensor.dtype)
                rows.append(
                    f"  {{{_string(name)}, {code}, {bits}, 1, {len(tensor.shape)}, "
                    f"{kind}{index}_shape}},"
                )
            rows = rows or ["  {0},"]
            lines += [f"static const AthanorTensorInfo {kind}s[] = {{", *rows, "};"]
        names = ", ".join([*(_string(s.name) for s in self.program.symbols), "0"])
        lines.append(f"static const char *const symbols[] = {{{names}}};\n")
        return "\n".join(lines)

    def descriptor_dim(self, dim: int | Expr) -> str:
        if isinstance(dim, int):
            return f"INT64_C({dim})"
        for index, symbol in enumerate(self.program.symbols):
            if symbol.same_as(dim):
                return f"ATHANOR_DIM_SYMBOL({index})"
        return "ATHANOR_DIM_COMPUTED"

    def symbol_lines(self, source: str) -> list[str]:
        return [
            f"  const int64_t {name} = {source}[{index}]; (void){name};"
            for index, name in enumerate(self.symbols)
        ]

    def slot_lines(self) -> list[str]:
        """Offsets of the symbolic slots, each behind the one before."""
        lines = [f"  uint64_t end = {align(self.plan.static_bytes)};"]
        for index, size in enumerate(self.plan.slots):
            lines.append(f"  const uint64_t slot{index} = end; (void)slot{index};")
            text = f"(uint64_t)({self.expression(size)})"
            lines.append(f"  end += ({text} + {ALIGNMENT - 1}) / {ALIGNMENT} * {ALIGNMENT};")
        return lines

    def plan_function(self) -> str:
        rank = self.max_output_ndim
        lines = [
            "static int plan(const int64_t *values, uint64_t *arena_bytes, int64_t *shapes) {",
            "  (void)values;",
            *self.symbol_lines("values"),
            *self.check_lines(),
            *self.slot_lines(),
            "  *arena_bytes = end;",
        ]
        for index, output in enumerate(self.program.outputs):
            for axis, dim in enumerate(output.shape):
                lines.append(f"  shapes[{index * rank + axis}] = {self.expression(dim)};")
        return "\n".join([*lines, "  (void)shapes;", "  return 0;", "}\n"])

    def check_lines(self) -> list[str]:
        """Refusals of symbol values that the model's shapes rule out."""
        one = "the dimension {} is 0, and the model was compiled for at least 1"
        checks = [
            (f"{name} >= 1", one.format(repr(symbol.name)))
            for name, symbol in zip(self.symbols, self.program.symbols, strict=True)
        ]
        checks += [(self.expression(r.condition), r.sentence) for r in self.signature.requirements]
        lines = []
        for condition, sentence in checks:
            lines.append(f"  if (!({condition})) {{")
            lines += [f"    services->set_error({_string(sentence)});", "    return -1;", "  }"]
        return lines

    def run_function(self) -> str:
        lines = ["static int run(AthanorRun *run) {", "  int result;", "  (void)result;"]
        lines += self.symbol_lines("run->symbols")
        if self.plan.slots:
            lines += [*self.slot_lines(), "  (void)end;"]
        for step in self.program.steps:
            if isinstance(step, KernelCall):
                lines += self.call_lines(step)
            else:
                lines += self.copy_lines(step)
        for index, output in enumerate(self.program.outputs):
            if self.plan.outputs.get(output.root()[0]) != index:
                size = self.size_bytes(output)
                lines.append(f"  memcpy(run->outputs[{index}], {self.place(output)}, {size});")
        return "\n".join([*lines, "  return 0;", "}\n"])

    def call_lines(self, step: KernelCall) -> list[str]:
        made = ", ".join(f"{t.name}{_shape(t)}" for t in step.outputs)
        arguments = [self.place(tensor) for tensor in [*step.inputs, *step.outputs]]
        arguments += [self.expression(dim) for dim in step.dims]
        return [
            f"  /* {_comment(made)} */",
            f"  if ((result = kernels.{step.kernel}({', '.join(arguments)}))) return result;",
        ]

    def copy_lines(self, step: Copy) -> list[str]:
        source, target = self.place(step.source), self.place(step.target)
        return [f"  memcpy({target}, {source}, {self.size_bytes(step.target)});"]

    @property
    def max_output_ndim(self) -> int:
        return max((len(output.shape) for output in self.program.outputs), default=0)

    def descriptor(self) -> str:
        return (
            "\n".join(
                [
                    '__attribute__((visibility("default")))',
                    "const AthanorDescriptor athanor_descriptor = {",
                    "  ATHANOR_ABI_VERSION, sizeof(AthanorDescriptor),",
                    f"  {len(self.program.inputs)}, {len(self.program.outputs)}, "
                    f"{len(self.program.symbols)}, {self.max_output_ndim},",
                    f"  inputs, outputs, symbols, {self.weights_bytes}, init, plan, run,",
                    "};",
                ]
            )
            + "\n"
        )


def _dlpack(dtype: str) -> tuple[int, int]:
    """DLPack's type code and the bits of one element."""
    parsed = tvm.DataType(dtype)
    return int(parsed.type_code), int(parsed.bits)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _string(text: str) -> str:
    """A C string literal; names may hold anything, so all but plain ASCII is escaped."""
    safe = (32 <= b < 127 and chr(b) not in '"\\?' for b in text.encode())
    pairs = zip(text.encode(), safe, strict=True)
    return '"' + "".join(chr(b) if plain else f"\\{b:03o}" for b, plain in pairs) + '"'


def _comment(text: str) -> str:
    return text.replace("*/", "* /")


def _shape(tensor: Tensor) -> str:
    return "[" + ", ".join(str(dim) for dim in tensor.shape) + "]"
