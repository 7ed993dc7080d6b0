"""Program + memory plan -> C source of the host program.

The text is meant to be read: one line a kernel call, in the order of the model, every tensor with
its name, shape and place. It includes the loader's contract, athanor_abi.h, and nothing else of
ours; what it exports is the one descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tvm
from tvm.ir import Expr

from athanor.compiler.cexpr import PRELUDE, c_string
from athanor.compiler.host_device import device_descriptor, launch_functions
from athanor.compiler.host_run import late_prelude, profiled_run_function, run_function
from athanor.compiler.memory import MemoryPlan
from athanor.compiler.places import Places
from athanor.compiler.program import HostCall, Program, all_steps, symbols_of
from athanor.frontends.onnx.import_builder import Requirement
from athanor.frontends.onnx.known import is_count, is_late
from athanor.frontends.onnx.small_types import STRING


@dataclass(frozen=True)
class Signature:
    """What the user knows and the program's tensors don't."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    requirements: tuple[Requirement, ...] = ()
    """Conditions on symbolic dimensions, checked whenever they change."""
    carried: Mapping[str, str] = field(default_factory=dict)
    """The element types of inputs and outputs that the program has as bytes, by name."""
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Tensors that are part of a sequence or an optional: its AthanorKind, and which part."""


def print_host(
    program: Program,
    plan: MemoryPlan,
    signature: Signature,
    profile: bool = False,
    symbols: Mapping[str, str] | None = None,
    images: Sequence[str] = (),
) -> str:
    """C source of the host program.

    profile: with a second run function that times its steps. symbols: those of the kernels, where
    they are not their names. images: the architectures of the device images, in the order of the
    files `image0`, `image1`, ... that lie beside the source.
    """
    return _Printer(program, plan, signature, profile, symbols or {}, images).text()


class _Printer:
    def __init__(
        self,
        program: Program,
        plan: MemoryPlan,
        signature: Signature,
        profile: bool,
        symbols: Mapping[str, str],
        images: Sequence[str],
    ) -> None:
        self.program, self.plan, self.signature = program, plan, signature
        self.profile, self.symbols, self.images = profile, symbols, images
        self.places = Places(program, plan)

    def text(self) -> str:
        parts = [
            '#include "athanor_abi.h"\n#include <string.h>\n',
            *self.string_functions(),
            PRELUDE,
            self.kernels(),
            late_prelude(bool(self.program.device)),
            *([launch_functions(self.program.device)] if self.program.device else []),
            self.tensors(),
            self.plan_function(),
            run_function(self.program, self.places),
            *([profiled_run_function(self.program, self.places)] if self.profile else []),
            self.descriptor(),
        ]
        return "\n".join(parts)

    # Sections

    def string_functions(self) -> list[str]:
        """The include of the functions on strings, where one is called."""
        is_called = any(isinstance(step, HostCall) for step in all_steps(self.program.steps))
        return ['#include "athanor_strings.h"\n'] if is_called else []

    def kernels(self) -> str:
        arity = {}
        for call in self.program.kernel_calls():
            if call.on_device:
                continue
            arity[call.kernel] = (len(call.inputs) + len(call.outputs), len(call.dims))
        declared, table, filled = [], [], []
        for name, (pointers, dims) in arity.items():
            types = ", ".join(["void *"] * pointers + ["int64_t"] * dims) or "void"
            symbol = self.symbols.get(name, name)
            declared.append(f"extern int {symbol}({types});")
            table.append(f"  int (*{name})({types});")
            filled.append(f"  kernels.{name} = {symbol};")
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
                *self.device_check(),
                "  __TVMBackendParallelLaunch = (void *)given->parallel_launch;",
                *filled,
                "  return 0;",
                "}\n",
            ]
        )

    def device_check(self) -> list[str]:
        """Refusal of a loader that knows no devices."""
        if not self.program.device:
            return []
        return [
            "  if (given->size_bytes < sizeof *given) {",
            '    given->set_error("the model is for a GPU, this libathanor is too old for it");',
            "    return -1;",
            "  }",
        ]

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
                code, bits = _dlpack(self.signature.carried.get(name, tensor.dtype))
                part = "".join(f", {number}" for number in self.signature.parts.get(name, ()))
                rows.append(
                    f"  {{{c_string(name)}, {code}, {bits}, 1, {len(tensor.shape)}, "
                    f"{kind}{index}_shape{part}}},"
                )
            rows = rows or ["  {0},"]
            lines += [f"static const AthanorTensorInfo {kind}s[] = {{", *rows, "};"]
        names = ", ".join([*(c_string(s.name) for s in self.program.symbols), "0"])
        lines.append(f"static const char *const symbols[] = {{{names}}};\n")
        return "\n".join(lines)

    def descriptor_dim(self, dim: int | Expr) -> str:
        if isinstance(dim, int):
            return f"INT64_C({dim})"
        for index, symbol in enumerate(self.program.symbols):
            if symbol.same_as(dim):
                return f"ATHANOR_DIM_SYMBOL({index})"
        return "ATHANOR_DIM_COMPUTED"

    def plan_function(self) -> str:
        rank = self.max_output_ndim
        lines = [
            "static int plan(const int64_t *values, uint64_t *arena_bytes, int64_t *shapes) {",
            "  (void)values;",
            *self.places.symbol_lines("values"),
            *self.check_lines(),
            *self.places.slot_lines(),
            "  *arena_bytes = end;",
            *(["  arena_bytes[1] = host_end;"] if self.plan.host else []),
        ]
        for index, output in enumerate(self.program.outputs):
            for axis, dim in enumerate(output.shape):
                late = any(is_late(var) for var in symbols_of(dim))
                value = "ATHANOR_DIM_DATA_DEPENDENT" if late else self.places.expression(dim)
                lines.append(f"  shapes[{index * rank + axis}] = {value};")
        return "\n".join([*lines, "  (void)shapes;", "  return 0;", "}\n"])

    def check_lines(self) -> list[str]:
        """Refusals of symbol values that the model's shapes rule out."""
        one = "the dimension {} is 0, and the model was compiled for at least 1"
        checks = [
            (f"{name} >= 1", one.format(repr(symbol.name)))
            for name, symbol in zip(self.places.symbols, self.program.symbols, strict=True)
            if not is_count(symbol)
        ]
        checks += [
            (self.places.expression(r.condition), r.sentence)
            for r in self.signature.requirements
            if not any(is_late(var) for var in symbols_of(r.condition))
        ]
        lines = []
        for condition, sentence in checks:
            lines.append(f"  if (!({condition})) {{")
            lines += [f"    services->set_error({c_string(sentence)});", "    return -1;", "  }"]
        return lines

    @property
    def max_output_ndim(self) -> int:
        return max((len(output.shape) for output in self.program.outputs), default=0)

    def descriptor(self) -> str:
        kind, start, end = "AthanorDescriptor", "", ""
        if self.profile:
            kind, start, end = "AthanorProfilingDescriptor", "{", "}, run_profiled,"
        lines = [
            '__attribute__((visibility("default")))',
            f"const {kind} athanor_descriptor = {{{start}",
            f"  ATHANOR_ABI_VERSION, sizeof({kind}),",
            f"  {len(self.program.inputs)}, {len(self.program.outputs)}, "
            f"{len(self.program.symbols)}, {self.max_output_ndim},",
            f"  inputs, outputs, symbols, {self.places.weights_bytes}, init, plan, run,",
            f"{end}}};",
        ]
        if self.program.device:
            base = "\n".join(lines[3:-1])
            return device_descriptor(self.program, self.places, base, self.images, self.profile)
        return "\n".join(lines) + "\n"


def _dlpack(dtype: str) -> tuple[int, int]:
    """DLPack's type code and the bits of one element; a string is an opaque handle."""
    if dtype == STRING:
        return 3, 64
    parsed = tvm.DataType(dtype)
    return int(parsed.type_code), int(parsed.bits)
