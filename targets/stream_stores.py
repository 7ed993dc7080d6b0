"""Results larger than the caches, stored past them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule
from tvm.sym import Analyzer

from athanor.targets.llvm_text import vector_type
from athanor.targets.math_functions import FUNCTIONS
from athanor.targets.target import TargetSpec

STREAM = re.compile(r"athanor_stream_float32x(\d+)")
"""Name of the function that `stream_function` writes, as kernels call it."""
LINE_BYTES = 64
CACHES = 2
"""Times the last cache that a result must have: of a smaller one, some is there when it is read."""


@functools.cache
def stream_function(lanes: int) -> str:
    """`int athanor_stream_float32xN(dst, value)`: a store that no cache line is read for.

    The caller's memory may lie at any float; elsewhere than at whole vectors it is a plain store.
    """
    kind = vector_type("float", lanes)
    return "\n".join(
        [
            f"define i32 @athanor_stream_float32x{lanes}(ptr %dst, {kind} %value) alwaysinline {{",
            "  %place = ptrtoint ptr %dst to i64",
            f"  %over = and i64 %place, {_aligned(lanes) - 1}",
            "  %aligned = icmp eq i64 %over, 0",
            "  br i1 %aligned, label %past, label %plain",
            "past:",
            f"  store {kind} %value, ptr %dst, align {_aligned(lanes)}, !nontemporal !0",
            "  ret i32 0",
            "plain:",
            f"  store {kind} %value, ptr %dst, align 4",
            "  ret i32 0",
            "}",
            "!0 = !{i32 1}\n",
        ]
    )


@tvm.transform.module_pass(opt_level=0, name="StreamStores")
class StreamStores:
    """Store vectors of results that no cache will keep with non-temporal stores.

        y[64 * i:64 * i + 16] = v   =>   athanor_stream_float32x16(address_of(y[64 * i]), v)

    A store reads the line first, which memory then has to deliver for nothing (105 MB on a Zen 4:
    batch norm 7.0 -> 5.4 ms, RMS norm 6.8 -> 5.1, depthwise 3x3 12.4 -> 10.4). Behind enough
    arithmetic that reading costs nothing, and the caches take stores sooner than memory does
    (sigmoid 6.3 -> 7.9 ms, GELU 9.0 -> 10.8): not in kernels with transcendental functions.
    Only vectors of parameters that the kernel never reads, at whole lines.
    A locked instruction waits for them: at the end of a task of another thread (parallel.c,
    pool.c), and of the run, whose `atomic_store` of `busy` is sequentially consistent (run.c).
    """

    def __init__(self, target: TargetSpec) -> None:
        """target: its last cache is what results are compared with."""
        self.least_bytes = CACHES * target.l3_bytes

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                large = {view for view, size in _results(func) if size >= self.least_bytes}
                if large and not _has_functions(func.body):
                    mod[variable] = func.with_body(_streaming(func.body, large))
        return mod


def _streaming(body: tirx.Stmt, results: set[int]) -> tirx.Stmt:
    analyzer = Analyzer()

    def store(stmt: tirx.BufferStore) -> tirx.Stmt:
        index, kind = stmt.indices[-1], tvm.DataType(str(stmt.value.ty.dtype))
        if stmt.buffer.__hash__() not in results or not isinstance(index, tirx.Ramp):
            return stmt
        if str(kind).split("x")[0] != "float32" or kind.lanes & (kind.lanes - 1):
            return stmt
        if len(stmt.indices) > 1 or not analyzer.can_prove_equal(index.stride, 1):
            return stmt
        if not analyzer.can_prove_equal(tirx.floormod(index.base, _aligned(kind.lanes) // 4), 0):
            return stmt
        address = tirx.address_of(tirx.BufferLoad(stmt.buffer, [index.base]))
        name = f"athanor_stream_{kind}"
        return tirx.Evaluate(tirx.call_extern("int32", name, address, stmt.value))

    return tvm_ffi.structural_map(body, (tirx.BufferStore, store), order="post")


def _has_functions(body: tirx.Stmt) -> bool:
    found: list[str] = []
    visit = (ir.Call, lambda call: found.append(getattr(call.op, "name", "")))
    tvm_ffi.structural_walk(body, visit)
    return any(name in FUNCTIONS for name in found)


def _aligned(lanes: int) -> int:
    return min(LINE_BYTES, 4 * lanes)


def _results(func: tirx.PrimFunc) -> Iterator[tuple[int, int]]:
    """Views of parameters that are stored to and never read: identity and bytes."""
    params = {param.__hash__() for param in func.params}
    views: dict[int, int] = {}
    sizes: dict[int, int] = {}

    def declare(view: tirx.DeclBuffer) -> None:
        named: list[int] = []
        tvm_ffi.structural_walk(view.data, (tirx.Var, lambda var: named.append(var.__hash__())))
        root = next((views.get(each, each) for each in named), 0)
        shape = view.buffer.shape
        if root in params and all(isinstance(dim, tirx.IntImm) for dim in shape):
            views[view.buffer.__hash__()] = root
            itemsize = tvm.DataType(str(view.buffer.dtype)).itemsize
            sizes[view.buffer.__hash__()] = itemsize * math.prod(int(dim) for dim in shape)

    read: set[int] = set()

    def load(value: ir.TensorLoad) -> None:
        source = hash(value.source)
        read.add(views.get(source, source))

    tvm_ffi.structural_walk(func.body, (tirx.DeclBuffer, declare))
    tvm_ffi.structural_walk(func.body, (ir.TensorLoad, load))
    yield from ((view, sizes[view]) for view, root in views.items() if root not in read)
