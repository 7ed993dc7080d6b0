"""Scheduled prim_funcs -> CUDA source, and what the host does to launch it.

A prim_func becomes one launch for each of its nests, in order, on one stream. What it computes in
between is scratch memory that the caller provides behind its other pointers; sizes, grids and
scalar arguments are expressions of its symbolic dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Expr, IRModule
from tvm.tirx.buffer import is_buffer_var

from athanor.targets.codegen import symbolic_parameters
from athanor.targets.cuda_headers import with_headers
from athanor.targets.device_kernel import DeviceKernel, Launch, Scratch
from athanor.targets.gpu import GPUSpec
from athanor.targets.lower_math import LowerPower
from athanor.targets.nan_maxima import HandNaNOn
from athanor.targets.narrow_types import WrapNarrowIntegers

_AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"


def lower_device_kernel(name: str, func: tirx.PrimFunc, gpu: GPUSpec) -> DeviceKernel:
    """A scheduled prim_func, its nests bound to blocks and threads -> device functions."""
    mod = IRModule({name: func.with_attr("global_symbol", name)})
    with gpu.tvm:
        mod = _lowering(gpu)(mod)
    host = mod[name]
    functions = {
        gv.name_hint: function for gv, function in mod.functions_items() if gv.name_hint != name
    }
    buffers = [param for param in host.params if is_buffer_var(param)]
    scalars = [param for param in func.params if not is_buffer_var(param)]
    reader = _HostReader(functions, buffers)
    reader.read(host.body)
    return DeviceKernel(
        functions=IRModule(functions),
        launches=tuple(reader.launches),
        scratch=tuple(reader.scratch),
        num_buffers=len(buffers),
        dims=(*scalars, *symbolic_parameters(func)),
    )


class _HostReader:
    """Reads the straight line that SplitHostDevice leaves on the host."""

    def __init__(self, functions: dict[str, tirx.PrimFunc], buffers: list[Expr]) -> None:
        self.functions = functions
        self.pointers: list[tuple[Expr, int]] = [(b, number) for number, b in enumerate(buffers)]
        self.bound: dict[tirx.Var, Expr] = {}
        self.launches: list[Launch] = []
        self.scratch: list[Scratch] = []

    def read(self, stmt: tirx.Stmt) -> None:
        match stmt:
            case tirx.SeqStmt():
                for part in stmt.seq:
                    self.read(part)
            case tirx.Bind():
                self.bound[stmt.var] = self.resolved(stmt.value)
            case tirx.AllocBuffer():
                self.pointers.append((stmt.buffer, len(self.pointers)))
                # All of whose accesses are vectors, a buffer's elements have become these.
                kind = tvm.DataType(str(stmt.buffer.dtype))
                elements: int | Expr = max(1, kind.lanes)
                for dim in stmt.buffer.shape:
                    elements = elements * self.resolved(dim)
                scalar = str(stmt.buffer.dtype).partition("x")[0]
                self.scratch.append(Scratch(scalar, _plain(elements)))
            case tirx.DeclBuffer():
                self.pointers.append((stmt.buffer, self.pointer(stmt.data)))
            case tirx.Evaluate() if isinstance(stmt.value, tvm.ir.Call):
                self.launch(stmt.value)
            case tirx.Evaluate():
                pass
            case _:
                raise AssertionError(f"{type(stmt).__name__} is left on the host:\n{stmt}")

    def launch(self, call: tvm.ir.Call) -> None:
        assert call.op.name == "tirx.call_ffi_kernel", f"{call.op.name} is left on the host"
        name, *rest = call.args
        axes = [str(axis) for axis in call.attrs.launch_params]
        function = self.functions[str(name.value)]
        width = len(function.params)
        extents: dict[str, int | Expr] = dict.fromkeys(_AXES, 1)
        sizes = [_plain(self.resolved(size)) for size in rest[width:]]
        extents.update(zip(axes, sizes, strict=True))
        shared = extents.pop(_DYNAMIC_SHARED, 0)
        assert isinstance(shared, int), "the shared memory of a kernel has a constant size"
        arguments, types = [], []
        for argument, param in zip(rest[:width], function.params, strict=True):
            pointer = isinstance(argument, tvm.ir.Call) and self.find(argument) is not None
            arguments.append(self.pointer(argument) if pointer else self.resolved(argument))
            types.append("handle" if pointer else str(param.ty.dtype))
        self.launches.append(
            Launch(
                str(name.value),
                tuple(arguments),
                tuple(types),
                tuple(extents[axis] for axis in _AXES),
                shared,
            )
        )

    def pointer(self, data: Expr) -> int:
        number = self.find(data)
        assert number is not None, f"{data} is the memory of no buffer"
        return number

    def find(self, data: Expr) -> int | None:
        """The number of the buffer whose `.data` this is."""
        for argument in getattr(data, "args", ()):
            for buffer, number in self.pointers:
                if buffer.same_as(argument):
                    return number
        return None

    def resolved(self, expr: Expr) -> Expr:
        """The expression in terms of dimensions alone."""
        return tvm_ffi.structural_map(
            expr, (tirx.Var, lambda var: self.bound.get(var, var)), order="post"
        )


def _plain(size: int | Expr) -> int | Expr:
    return int(size) if isinstance(size, (int, tirx.IntImm)) else size


def cuda_source(kernels: Iterable[DeviceKernel], gpu: GPUSpec) -> str:
    """CUDA C++ of all kernels, one translation unit."""
    t = tirx.transform
    mod = IRModule({})
    for kernel in kernels:
        mod.update(kernel.functions)
    storage = [t.FP8StorageLegalize(), t.BF16StorageLegalize()]
    finish = [*storage, t.LowerWarpMemory(), t.StmtSimplify(), t.LowerIntrin()]
    finish.append(WrapNarrowIntegers())
    mod = tvm.transform.Sequential(finish)(mod)
    # TVM compiles what it generates through this function; the images are made elsewhere.
    tvm.register_global_func("tvm_callback_cuda_compile", lambda *_: b"", override=True)
    build = tvm.get_global_func("target.build.cuda")
    source = build(mod, gpu.tvm).inspect_source("cuda")
    # TVM's sums of a block ask which threads are together just then, behind a condition that may
    # have parted them. All of a warp are there: those blocks are whole warps.
    return with_headers(source.replace("__activemask()", "0xffffffffu"))


def _lowering(gpu: GPUSpec) -> tvm.transform.Sequential:
    s, t = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            t.BindTarget(gpu.tvm),
            # Blocks -> loops over flat memory
            s.CanonicalizeLoop(),
            s.LowerCrossThreadReduction(),
            s.LowerInitBlock(),
            s.PlanAndUpdateBufferAllocationLocation(),
            s.ConvertBlocksToOpaque(),
            s.LiftThreadBinding(),
            s.ManifestSharedMemoryLocalStage(),
            s.CompactBufferAllocation(),
            s.UnifyThreadBinding(),
            s.LowerMatchBuffer(),
            s.StmtSimplify(),
            s.InjectPermutedLayout(),
            s.InjectSoftwarePipeline(),
            s.TransformMmaBufferLayout(),
            s.LowerOpaqueBlock(),
            t.FlattenBuffer(),
            LowerPower(),
            HandNaNOn(),
            t.BF16ComputeLegalize(),
            t.FP8ComputeLegalize(),
            t.NarrowDataType(32),
            t.VectorizeLoop(True),
            s.InjectVirtualThread(),
            s.InjectDoubleBuffer(),
            t.StorageRewrite(),
            t.UnrollLoop(),
            s.RenormalizeSplitPattern(),
            t.StmtSimplify(),
            t.RemoveNoOp(),
            s.RewriteUnsafeSelect(),
            # No CommonSubexprElim: of an index in a variable, the code generator does not know that
            # it is aligned, and loads no vector. nvcc finds what is common itself.
            t.VerifyMemory(),
            t.AnnotateEntryFunc(),
            # Threads that work together
            s.ThreadSync("shared"),
            s.ThreadSync("shared.dyn"),
            s.ThreadSync("warp"),
            s.InferFragment(),
            s.LowerThreadAllreduce(),
            s.MergeSharedMemoryAllocations(),
            t.SplitHostDevice(),
        ]
    )
