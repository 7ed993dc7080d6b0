"""The host program's run function: one line a step, inner blocks as C blocks.

Memory of late tensors: allocated before the step that first writes them, freed after the last step
of the same block that uses them, or handed on as a result of the block. What is left when a run
ends early, the loader frees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from athanor.compiler.cexpr import c_string
from athanor.compiler.places import Places
from athanor.compiler.profiling.work import step_work
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
    all_steps,
    step_reads,
    step_writes,
)
from athanor.frontends.onnx.known import is_late_dim

_LATE_PRELUDE = """\
/* Memory for a tensor whose shape the run has computed; NULL with an error text. */
static inline void *late_alloc(AthanorRun *run, int64_t itemsize, int ndim, const int64_t *shape) {
  int64_t size = itemsize;
  for (int axis = 0; axis < ndim; axis++)
    if (shape[axis] < 0 || (shape[axis] && size > ((int64_t)1 << 46) / shape[axis])) {
      services->set_error("a shape that the run computed is negative or larger than any memory");
      return 0;
    } else {
      size *= shape[axis];
    }
  return services->run_alloc(run, (uint64_t)size);
}
/* Twice the memory for stacked elements, when `count` of them fill it. */
static inline int late_grow(AthanorRun *run, void **stack, int64_t count, int64_t element_bytes) {
  if (count & (count - 1)) return 0;
  if (count && element_bytes > ((int64_t)1 << 45) / count) {
    services->set_error("a loop's output is larger than any memory");
    return -1;
  }
  void *grown = services->run_alloc(run, (uint64_t)((count ? 2 * count : 1) * element_bytes));
  if (!grown) return -1;
  if (count) memcpy(grown, *stack, (uint64_t)(count * element_bytes));
  services->run_free(run, *stack);
  *stack = grown;
  return 0;
}
"""


def late_prelude(on_device: bool) -> str:
    """C text of the functions that give memory to late tensors; with those for a device's."""
    if not on_device:
        return _LATE_PRELUDE
    copied = "memcpy(grown, *stack, (uint64_t)(count * element_bytes))"
    moved = "services->device_copy(run, grown, *stack, (uint64_t)(count * element_bytes), 0)"
    device = _LATE_PRELUDE.replace(f"if (count) {copied};", f"if (count && {moved}) return -1;")
    for name in ("late_alloc", "late_grow"):
        device = device.replace(name, f"device_{name}")
    return _LATE_PRELUDE + device.replace("services->run_", "services->device_")


PROFILE_PRELUDE = """\
/* The end of a step that began at `start_ns`. */
static inline void event(AthanorEvents *events, int32_t step, int64_t start_ns, int64_t operations,
                         int64_t bytes) {
  const int64_t end_ns = events->now_ns();
  if (events->count < events->capacity)
    events->events[events->count] = (AthanorEvent){step, 0, start_ns, end_ns, operations, bytes};
  events->count++;
}
"""


def run_function(program: Program, places: Places) -> str:
    """C text of `run`."""
    return _RunPrinter(program, places).text("run(AthanorRun *run)")


def profiled_run_function(program: Program, places: Places) -> str:
    """C text of `run_profiled`, the same steps with the clock read around each."""
    numbers: dict[Step, int] = {step: i for i, step in enumerate(program.timed_steps())}
    text = _RunPrinter(program, places, numbers).text(
        "run_profiled(AthanorRun *run, AthanorEvents *events)"
    )
    return f"{PROFILE_PRELUDE}\n{text}"


class _RunPrinter:
    """`timed`: the numbers of the steps that are timed."""

    def __init__(
        self, program: Program, places: Places, timed: Mapping[Step, int] | None = None
    ) -> None:
        self.program, self.places = program, places
        self.loops = 0
        self.timed = timed or {}

    def text(self, declarator: str) -> str:
        places = self.places
        lines = [f"static int {declarator} {{", "  int result;", "  (void)result;"]
        if self.timed:
            lines.append("  int64_t start_ns = 0; (void)start_ns;")
        lines += [*places.symbol_lines("run->symbols"), *places.late_lines()]
        if places.plan.slots or (places.plan.host and places.plan.host.slots):
            lines += [*places.slot_lines(), "  (void)end;"]
            lines += ["  (void)host_end;"] if places.plan.host else []
        lines += self.steps(self.program.steps, self.program.outputs)
        for index, output in enumerate(self.program.outputs):
            if places.plan.outputs.get(output.root()[0]) != index:
                if output.is_late:
                    lines += self.allocate_output(output, index)
                on_host = places.output_on_host(index)
                lines.append(self.copy(output, f"run->outputs[{index}]", to_host=on_host))
        return "\n".join([*lines, "  return 0;", "}\n"])

    # Blocks

    def steps(self, steps: Sequence[Step], results: Sequence[Tensor]) -> list[str]:
        """Steps in order, with the memory of late tensors; that of `results` is not freed."""
        last: dict[Tensor, int] = {}
        for index, step in enumerate(steps):
            for inner in all_steps([step]):
                for tensor in [*step_reads(inner), *step_writes(inner)]:
                    last[tensor.root()[0]] = index
        kept = {tensor.root()[0] for tensor in results}
        owned: dict[Tensor, None] = {}
        lines = []
        for index, step in enumerate(steps):
            made = [tensor.root()[0] for tensor in step_writes(step)]
            late = [root for root in made if root.is_late and root not in owned]
            owned.update(dict.fromkeys(late))
            if isinstance(step, (KernelCall, Copy, HostCall)):
                for root in late:
                    lines += self.allocate(root)
            lines += self.timed_step(step)
            for root in owned:
                if last[root] == index and root not in kept and root in self.places.pointers:
                    lines.append(self.free(root))
        return lines

    def timed_step(self, step: Step) -> list[str]:
        """The lines of a step, with the clock read around it where it is timed."""
        number = self.timed.get(step)
        if number is None:
            return self.step(step)
        assert isinstance(step, (KernelCall, Copy)), "a step with blocks is timed by its parts"
        work = step_work(step, self.program.kernels)
        counts = ", ".join(self.places.expression(c) for c in (work.operations, work.bytes))
        if self.is_queued(step):
            ended = f"&(AthanorEvent){{{number}, 0, 0, 0, {counts}}}"
            return [
                "  if (services->device_mark(run, events, 0)) return -1;",
                *self.step(step),
                f"  if (services->device_mark(run, events, {ended})) return -1;",
            ]
        return [
            "  start_ns = events->now_ns();",
            *self.step(step),
            f"  event(events, {number}, start_ns, {counts});",
        ]

    def is_queued(self, step: KernelCall | Copy) -> bool:
        """Whether a device does the step, by its own clock."""
        if isinstance(step, KernelCall):
            return step.on_device
        return self.on_device(step.source) or self.on_device(step.target)

    def step(self, step: Step) -> list[str]:
        """The lines of one step."""
        match step:
            case KernelCall():
                return self.call(step)
            case Copy():
                return [self.copy_to(step.target, step.source)]
            case HostCall():
                return self.host_call(step)
            case ReadDims():
                return self.read_dims(step)
            case Check():
                condition = self.places.expression(step.condition)
                return _error_unless(condition, step.sentence)
            case Branch():
                return self.branch(step)
            case Loop():
                return self.loop(step)

    def hand_on(
        self, block: Block, results: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> list[str]:
        """Bring results of a block to where the step's are: at best by handing on the memory."""
        copies, moves = [], []
        made = {t.root()[0] for step in block.steps for t in step_writes(step)}
        moved: set[Tensor] = set()
        for result, target in zip(results, targets, strict=True):
            root, offset = result.root()
            if not target.is_late:
                if root is not target.root()[0]:
                    copies.append(self.copy_to(target, result))
            elif (
                root.on_host == target.root()[0].on_host
                and root in made
                and root in self.places.pointers
                and root.is_late
                and not (offset or root in moved)
            ):
                moved.add(root)
                moves.append(f"  {self.places.pointers[target]} = {self.places.pointers[root]};")
            else:
                copies += self.allocate(target, result.shape)
                # The target's own sizes are read behind the branches.
                to_host = not self.on_device(target)
                copies.append(self.copy(result, self.places.address(target), to_host=to_host))
        left = {t.root()[0] for t in block.results} & made - moved
        frees = [self.free(root) for root in made if root in left and root.is_late]
        return [*copies, *moves, *frees]

    # Memory

    def allocate(self, tensor: Tensor, shape: Sequence | None = None) -> list[str]:
        """Memory for a late tensor, whose shape may be known by other names."""
        if tensor in self.places.plan.outputs:
            return self.allocate_output(
                self.program.outputs[self.places.plan.outputs[tensor]],
                self.places.plan.outputs[tensor],
            )
        dims = tensor.shape if shape is None else shape
        sizes = ", ".join(self.places.expression(dim) for dim in dims) or "1"
        name = self.places.pointers[tensor]
        alloc = "device_late_alloc" if self.on_device(tensor) else "late_alloc"
        return [
            f"  if (!({name} = {alloc}(run, {tensor.itemsize_bits // 8}, {len(dims)}, "
            f"(const int64_t[]){{{sizes}}}))) return -1;"
        ]

    def allocate_output(self, output: Tensor, index: int) -> list[str]:
        """Memory of the caller's for an output of late size."""
        sizes = ", ".join(self.places.expression(dim) for dim in output.shape)
        return [
            f"  if (!services->output(run, {index}, {len(output.shape)}, "
            f"(const int64_t[]){{{sizes}}})) return -1;"
        ]

    def free(self, root: Tensor) -> str:
        name = self.places.pointers[root]
        return f"  services->{self.free_function(root)}(run, {name}); {name} = 0;"

    def free_function(self, root: Tensor) -> str:
        """The service that frees a late tensor."""
        return "device_free" if self.on_device(root) else "run_free"

    def on_device(self, tensor: Tensor) -> bool:
        """Whether a device has the tensor; of a constant, the host has one too."""
        root, _ = tensor.root()
        return bool(self.program.device) and not root.on_host and root.constant is None

    def copy_to(self, target: Tensor, source: Tensor) -> str:
        """All bytes of one tensor to another of the same size."""
        to_host = not self.on_device(target)
        return self.copy(
            source, self.places.address(target), self.places.size_bytes(target), to_host
        )

    def copy(
        self, source: Tensor, target: str, size: str | None = None, to_host: bool = True
    ) -> str:
        """All bytes of a tensor, or `size`, to an address on the host or the device."""
        size = size or self.places.size_bytes(source)
        address = self.places.address(source)
        if to_host and not self.on_device(source):
            return f"  memcpy({target}, {address}, {size});"
        call = f"services->device_copy(run, {target}, {address}, {size}, {int(to_host)})"
        return f"  if ({call}) return -1;"

    # Steps

    def call(self, step: KernelCall) -> list[str]:
        made = ", ".join(f"{t.name}{_shape(t)}" for t in step.outputs).replace("*/", "* /")
        on_device = step.on_device
        arguments = [self.places.address(tensor, on_device) for tensor in step.buffers]
        arguments += [self.places.expression(dim) for dim in step.dims]
        function = f"kernels.{step.kernel}"
        if on_device:
            function, arguments = f"device_{step.kernel}", ["run", *arguments]
        return [
            f"  /* {made} */",
            f"  if ((result = {function}({', '.join(arguments)}))) return result;",
        ]

    def host_call(self, step: HostCall) -> list[str]:
        made = ", ".join(f"{t.name}{_shape(t)}" for t in step.outputs).replace("*/", "* /")
        arguments = []
        for tensor in [*step.inputs, *step.outputs]:
            arguments += [self.places.address(tensor), self.places.expression(tensor.size)]
        call = f"athanor_{step.function}(run, {', '.join(arguments)})"
        return [f"  /* {made} */", f"  if ((result = {call})) return result;"]

    def read_dims(self, step: ReadDims) -> list[str]:
        lines, address = [], self.places.address(step.source)
        for index, symbol in enumerate(step.symbols):
            name = self.places.late[symbol.name]
            lines.append(f"  {name} = ((const int64_t *){address})[{index}];")
            if is_late_dim(symbol):
                sentence = f"the run computed a negative or an absurd size {symbol.name}"
                lines += _error_unless(f"{name} >= 0 && {name} <= (int64_t)1 << 46", sentence)
        return lines

    def branch(self, step: Branch) -> list[str]:
        lines = [f"  if (*(const uint8_t *){self.places.address(step.condition)}) {{"]
        for block in (step.then, step.otherwise):
            inner = self.steps(block.steps, block.results)
            inner += self.hand_on(block, block.results, step.outputs)
            lines += _indented(inner)
            lines.append("  } else {" if block is step.then else "  }")
        return lines

    def loop(self, step: Loop) -> list[str]:
        """Initial states, the rounds, and the number of them."""
        places, number, width = self.places, self.loops, len(step.states)
        self.loops += 1
        i, more = f"i{number}", f"more{number}"
        lines = []
        for initial, state, following in zip(
            step.initial, step.states, step.following, strict=True
        ):
            if state.is_late:
                lines += self.allocate(state, initial.shape)
            else:
                for tensor in (state, following):
                    lines.append(f"  {places.pointers[tensor]} = {places.planned(tensor)};")
            to_host = not self.on_device(state)
            lines.append(self.copy(initial, places.pointers[state], to_host=to_host))
        trips = "INT64_MAX"
        if step.trips is not None:
            trips = f"*(const int64_t *){places.address(step.trips)}"
        condition = "1"
        if step.condition is not None:
            condition = f"*(const uint8_t *){places.address(step.condition)}"
        lines += [
            f"  int64_t {i} = 0, trips{number} = {trips};",
            f"  int {more} = {condition};",
            f"  for (; {i} < trips{number} && {more}; {i}++) {{",
        ]
        goes_on, states = step.body.results[0], step.body.results[1 : width + 1]
        inner = [f"  *(int64_t *){places.address(step.iteration)} = {i};"]
        inner += self.steps(step.body.steps, step.body.results)
        inner.append(f"  {more} = *(const uint8_t *){places.address(goes_on)};")
        for result, scan in zip(step.body.results[width + 1 :], step.scans, strict=True):
            inner += self.stack(result, scan, i)
        inner += self.hand_on(step.body, states, step.following)
        for state, following in zip(step.states, step.following, strict=True):
            now, then = places.pointers[state], places.pointers[following]
            if state.is_late:
                free = self.free_function(state)
                inner.append(f"  services->{free}(run, {now}); {now} = {then}; {then} = 0;")
            else:
                inner.append(f"  {{ void *swap = {now}; {now} = {then}; {then} = swap; }}")
        lines += [*_indented(inner), "  }"]
        for scan in step.scans:
            if scan in places.pointers:
                name = places.pointers[scan]
                alloc = "device_alloc" if self.on_device(scan) else "run_alloc"
                lines.append(f"  if (!{name} && !({name} = services->{alloc}(run, 1))) return -1;")
        return [*lines, f"  *(int64_t *){places.address(step.count)} = {i};"]

    def stack(self, element: Tensor, scan: Tensor, i: str) -> list[str]:
        """Append one element to a stacked output."""
        size = self.places.size_bytes(element)
        lines = []
        if scan in self.places.pointers:
            name = self.places.pointers[scan]
            grow = "device_late_grow" if self.on_device(scan) else "late_grow"
            lines.append(f"  if ({grow}(run, &{name}, {i}, {size})) return -1;")
        target = f"((uint8_t *){self.places.address(scan)} + {i} * ({size}))"
        return [*lines, self.copy(element, target, to_host=not self.on_device(scan))]


def _error_unless(condition: str, sentence: str) -> list[str]:
    error = f"    services->set_error({c_string(sentence)});"
    return [f"  if (!({condition})) {{", error, "    return -1;", "  }"]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _shape(tensor: Tensor) -> str:
    return "[" + ", ".join(str(dim) for dim in tensor.shape) + "]"
