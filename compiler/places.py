"""Where the host program's values are, as C expressions."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from athanor.compiler.cexpr import c_expression, c_identifier
from athanor.compiler.memory import ALIGNMENT, MemoryPlan, align
from athanor.compiler.program import Loop, Program, ReadDims, Tensor, all_steps, step_writes
from athanor.compiler.weights import weight_offsets


class Places:
    """Names of symbols and addresses of tensors.

    A tensor of late size has a pointer variable, and so has a loop's state, whose two buffers
    change places; every other tensor has a fixed place.
    """

    def __init__(self, program: Program, plan: MemoryPlan) -> None:
        self.program, self.plan = program, plan
        self.weights, self.weights_bytes = weight_offsets(program)
        self.symbols = [f"s{i}_{c_identifier(s.name)}" for i, s in enumerate(program.symbols)]
        self.late: dict[str, str] = {}
        self.pointers: dict[Tensor, str] = {}
        for step in all_steps(program.steps):
            if isinstance(step, ReadDims):
                for symbol in step.symbols:
                    self.late[symbol.name] = f"d{len(self.late)}_{c_identifier(symbol.name)}"
            swapped = [*step.states, *step.following] if isinstance(step, Loop) else []
            for tensor in step_writes(step):
                root, _ = tensor.root()
                if root in swapped or (root.is_late and root not in plan.outputs):
                    name = f"p{len(self.pointers)}_{c_identifier(root.name)}"
                    self.pointers.setdefault(root, name)

    def expression(self, expr: int | Expr) -> str:
        """C text of a dimension or a condition."""
        return c_expression(expr, self.symbol_name)

    def symbol_name(self, var: tirx.Var) -> str:
        """The C variable of a symbol."""
        if var.name in self.late:
            return self.late[var.name]
        for symbol, name in zip(self.program.symbols, self.symbols, strict=True):
            if symbol.same_as(var) or symbol.name == var.name:
                return name
        raise AssertionError(f"the dimension {var} belongs to no input")

    def address(self, tensor: Tensor, on_device: bool = False) -> str:
        """C expression of the tensor's address; of a constant, the one for that reader."""
        root, inner = tensor.root()
        if root.constant is not None:
            weights = "device_weights" if on_device else "weights"
            return f"(void *)(run->{weights} + {self.weights[root] + inner})"
        if root.input_index is not None:
            base = f"run->inputs[{root.input_index}]"
        elif root in self.pointers:
            base = self.pointers[root]
        elif root in self.plan.outputs:
            base = f"run->outputs[{self.plan.outputs[root]}]"
        else:
            return self.planned(root, inner)
        return f"((uint8_t *){base} + {inner})" if inner else base

    def planned(self, root: Tensor, inner: int = 0) -> str:
        """C expression of the address that memory planning gave."""
        plan, arena, slot = self.plan, "run->arena", "slot"
        if root.on_host and plan.host is not None:
            plan, arena, slot = plan.host, "run->host_arena", "host_slot"
        if root in plan.offsets:
            return f"({arena} + {plan.offsets[root] + inner})"
        base = f"({arena} + {slot}{plan.slot_of[root]})"
        return f"({base} + {inner})" if inner else base

    def output_on_host(self, index: int) -> bool:
        """Whether an output's buffer is the host's, in a program with a device."""
        root, _ = self.program.outputs[index].root()
        return root.on_host or not self.program.device

    def size_bytes(self, tensor: Tensor) -> str:
        """C expression of the tensor's size."""
        return self.expression(tensor.size) + f" * {tensor.itemsize_bits // 8}"

    def symbol_lines(self, source: str) -> list[str]:
        """Definitions of the inputs' symbols."""
        return [
            f"  const int64_t {name} = {source}[{index}]; (void){name};"
            for index, name in enumerate(self.symbols)
        ]

    def late_lines(self) -> list[str]:
        """Declarations of late dimensions and of pointers, for the whole function."""
        lines = [f"  int64_t {name} = 0; (void){name};" for name in self.late.values()]
        return lines + [f"  void *{name} = 0; (void){name};" for name in self.pointers.values()]

    def slot_lines(self) -> list[str]:
        """Offsets of the symbolic slots, each behind the one before; `end` is behind the last."""
        lines = self.slots_of(self.plan, "")
        return lines if self.plan.host is None else lines + self.slots_of(self.plan.host, "host_")

    def slots_of(self, plan: MemoryPlan, prefix: str) -> list[str]:
        """Those of one arena."""
        end = f"{prefix}end"
        lines = [f"  uint64_t {end} = {align(plan.static_bytes)};"]
        for index, size in enumerate(plan.slots):
            slot = f"{prefix}slot{index}"
            lines.append(f"  const uint64_t {slot} = {end}; (void){slot};")
            text = f"(uint64_t)({self.expression(size)})"
            lines.append(f"  {end} += ({text} + {ALIGNMENT - 1}) / {ALIGNMENT} * {ALIGNMENT};")
        return lines
