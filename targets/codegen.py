"""Scheduled prim_funcs -> object code.

A kernel becomes a plain C function: data pointers in parameter order, then scalar parameters, then
the symbolic dimensions as int64_t, returning 0 or an error code. TVM's packed calling convention
is left out on purpose: its argument checks cost more than small kernels compute, and the loader
has checked the inputs by then. What is left to resolve in such an object is one pointer,
`__TVMBackendParallelLaunch`, and two for scratch memory where a kernel has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule, PrimType
from tvm.tirx.buffer import buffer_data_pointer_type, is_buffer_var

from athanor.targets.bf16_dots import JoinPairs, LowerDots, MarkRounding
from athanor.targets.lower_math import LowerMath, LowerPower
from athanor.targets.masked_loads import vectorize_loops
from athanor.targets.overlap_rests import OverlapRests
from athanor.targets.partition_loops import PartitionLoops
from athanor.targets.prefetch_ahead import PrefetchAhead
from athanor.targets.prefetch_weights import PrefetchWeights
from athanor.targets.shorten_reductions import ShortenReductions
from athanor.targets.stream_stores import StreamStores
from athanor.targets.target import TargetSpec


@dataclass(frozen=True)
class KernelObject:
    """Machine code of some kernels, before linking."""

    module: tvm.runtime.Module

    def save(self, path: Path) -> Path:
        """Write the object file."""
        self.module.write_to_file(str(path), "o")
        return path

    def llvm_ir(self) -> str:
        """The optimized LLVM IR."""
        return self.module.inspect_source("ll")

    def assembly(self) -> str:
        """The machine's assembly."""
        return self.module.inspect_source("s")


def symbolic_parameters(func: tirx.PrimFunc) -> list[tirx.Var]:
    """The dimensions that a kernel takes behind its buffers, in order of first use."""
    found: list[tirx.Var] = []
    for param in func.params:
        if not is_buffer_var(param):
            continue
        for dim in param.shape:
            for var in tirx.analysis.undefined_vars(dim):
                if not any(var.same_as(seen) for seen in found):
                    found.append(var)
    explicit = [param for param in func.params if not is_buffer_var(param)]
    return [var for var in found if not any(var.same_as(param) for param in explicit)]


def lower_kernel(name: str, func: tirx.PrimFunc, target: TargetSpec) -> tirx.PrimFunc:
    """A scheduled prim_func -> the function that LLVM's code generator takes."""
    mod = IRModule({name: func.with_attr("global_symbol", name)})
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": False}):
        mod = _lowering(target)(mod)
    lowered = mod[name]
    pointers, scalars, declarations = [], [], []
    for param in lowered.params:
        if is_buffer_var(param):
            pointer = tirx.Var(f"{param.name}_ptr", buffer_data_pointer_type(param))
            declarations.append(tirx.DeclBuffer(param, data=pointer))
            pointers.append(pointer)
        else:
            scalars.append(param)
    parameters = [*pointers, *scalars, *symbolic_parameters(func)]
    success = tirx.Return(tirx.IntImm("int32", 0))
    body = tirx.SeqStmt([*declarations, lowered.body, success])
    # Scratch memory is asked for on a device, which packed functions read from their arguments.
    for key, value in (("device_type", int(tvm.cpu().dlpack_device_type())), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    plain = tirx.PrimFunc(parameters, body, PrimType("int32"), lowered.attrs)
    return plain.with_attr("calling_conv", 0)


def build_kernels(kernels: dict[str, tirx.PrimFunc], target: TargetSpec) -> KernelObject:
    """Lowered kernels -> one object. Blocks, but holds no lock of Python's while LLVM works."""
    mod = IRModule(dict(kernels))
    t = tirx.transform
    # Storage of narrow floats is rewritten behind plain pointers only, so not in lower_kernel.
    storage = [t.FP8StorageLegalize(), t.BF16StorageLegalize()]
    finish = [
        KeepOnStack(),
        LowerDots(),
        LowerMath(target.avx512, target.pair_lanes),
        *storage,
        t.LowerTVMBuiltin(),
        t.LowerIntrin(),
    ]
    mod = tvm.transform.Sequential(finish)(mod)
    build = tvm.get_global_func("target.build.llvm")
    return KernelObject(build(mod, target.tvm))


_STACK_BYTES = 4096
"""Largest scratch buffer that stays on the stack. TVM's own limit of 1 KiB is less than a register
tile of 32 512-bit accumulators: on the heap, LLVM can't keep them in registers, and every
multiply-add becomes a load and a store."""


@tvm.transform.module_pass(opt_level=0, name="KeepOnStack")
class KeepOnStack:
    """Mark scratch buffers of at most _STACK_BYTES, so that LowerTVMBuiltin leaves them alone."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""

        def mark(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
            size_bytes = tvm.DataType(str(alloc.buffer.dtype)).itemsize
            for dim in alloc.buffer.shape:
                if not isinstance(dim, tirx.IntImm):
                    return alloc
                size_bytes *= int(dim)
            if not 0 < size_bytes <= _STACK_BYTES:
                return alloc
            flag = {"disable_lower_builtin": tirx.IntImm("bool", 1)}
            return tirx.AllocBuffer(alloc.buffer, annotations={**alloc.annotations, **flag})

        for variable, func in mod.functions_items():
            body = tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, mark), order="post")
            mod[variable] = func.with_body(body)
        return mod


def _lowering(target: TargetSpec) -> tvm.transform.Sequential:
    s, t = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            t.BindTarget(target.lowering),
            # Blocks -> loops over flat memory
            ShortenReductions(),
            OverlapRests(),
            s.CanonicalizeLoop(),
            s.LowerInitBlock(),
            s.PlanAndUpdateBufferAllocationLocation(),
            s.ConvertBlocksToOpaque(),
            s.CompactBufferAllocation(),
            s.LowerMatchBuffer(),
            s.StmtSimplify(),
            s.LowerOpaqueBlock(),
            t.FlattenBuffer(),
            PrefetchWeights(),
            PrefetchAhead(),
            LowerPower(),
            *([MarkRounding()] if target.bf16_dots else []),
            t.BF16ComputeLegalize(),
            t.FP8ComputeLegalize(),
            PartitionLoops(),
            vectorize_loops(target),
            JoinPairs(),
            t.StorageRewrite(),
            t.UnrollLoop(),
            s.RenormalizeSplitPattern(),
            t.StmtSimplify(),
            t.RemoveNoOp(),
            s.RewriteUnsafeSelect(),
            s.HoistIfThenElse(),
            *([StreamStores(target)] if target.streams else []),
            t.CommonSubexprElim(),
        ]
    )
