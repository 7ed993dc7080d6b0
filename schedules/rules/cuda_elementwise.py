"""GPU schedule of prim_funcs that compute every element on its own."""

from __future__ import annotations

from tvm import s_tir, sym, tirx
from tvm.tirx.buffer import is_buffer_var

from athanor.schedules import access, blocks
from athanor.schedules.decisions import decide
from athanor.schedules.device_elements import element_kernel
from athanor.schedules.device_threads import LOAD_BYTES, bits
from athanor.schedules.linear import along, flat_address
from athanor.schedules.row_stages import RowFunction, Stage, product
from athanor.targets.target import TargetSpec

_THREADS = (64, 128, 256, 512, 1024)
_MULTIPROCESSORS = 132
"""Of a large GPU: fewer blocks than that leave some without work."""


class CUDAElementwise:
    """Neighbouring threads at neighbouring vectors of the contiguous axis.

        for all axes, vectors of the last one in blockIdx.x, threadIdx.x:
            one vector: loads of 16 bytes of what runs along it, one load of what stays

    Neighbouring axes that every access walks as one are one, so that `relu(x + y)` of any rank
    needs no division, and a bias over channels one.

    Matches: every block is spatial, in a loop nest of its own, and writes a result.
    Declines (None): reductions, opaque blocks, an axis of length zero, chains that can't be
    inlined.
    """

    def apply(self, func: tirx.PrimFunc, target: TargetSpec) -> s_tir.Schedule | None:
        """See the class."""
        assert target.gpu is not None, f"{target.name} has no device"
        sch = blocks.open_schedule(func)
        leaves = blocks.leaf_blocks(sch)
        if not leaves or not all(blocks.is_spatial(sch, block) for block in leaves):
            return None
        if any(0 in blocks.extents(sch, block) for block in leaves):
            return None
        left = blocks.inline_spatial(sch, leaves)
        parameters = [param for param in func.params if is_buffer_var(param)]
        if not all(_writes_result(sch, block, parameters) for block in left):
            return None
        functions = [_function(sch, block, parameters) for block in left]
        plans = [_plan(sch, function) for function in functions]
        return s_tir.Schedule(element_kernel(func, functions, plans))


def _writes_result(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, parameters: list[tirx.Buffer]
) -> bool:
    buffer = sch.get(block).writes[0].source
    return any(buffer.same_as(param) for param in parameters)


def _function(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, parameters: list[tirx.Buffer]
) -> RowFunction:
    """A block as rows: the axes that every access walks as one with the last one are a row."""
    stmt = sch.get(block)
    if sch.get_loops(block):
        groups = access.collapse(access.block_axes(sch, block))
    else:
        groups = [[]]
    variables = [iterator.var for iterator in stmt.iter_vars]
    extents = [iterator.dom.extent.astype("int64") for iterator in stmt.iter_vars]
    inner = groups[-1]
    outer = [index for group in groups[:-1] for index in group]
    length = product([extents[index] for index in inner])
    stage = Stage(
        buffers=[stmt.body.buffer],
        indices=list(stmt.body.indices),
        values=[stmt.body.value],
        starts=[],
        rows=[variables[index] for index in outer],
        elements=[variables[index] for index in inner],
        extents=[extents[index] for index in inner],
    )
    rows = [extents[index] for index in outer]
    return RowFunction(parameters, rows, 0, sym.Analyzer().simplify(length), [stage])


def _plan(sch: s_tir.Schedule, function: RowFunction) -> tuple[int, int]:
    """(threads of a block, elements of one thread)."""
    vector = _vector(function)
    count = blocks.constant(product(function.rows) * function.length)
    preferred = 256
    while count is not None and preferred > 64 and count // vector < _MULTIPROCESSORS * preferred:
        preferred //= 2
    return decide(sch, "threads", _THREADS, preferred), vector


def _vector(function: RowFunction) -> int:
    """One store of 16 bytes, or of fewer where loads are wider or rows divide no better."""
    stage = function.stages[0]
    buffers = [stage.buffers[0], *(load.source for load in stage.loads())]
    address = flat_address(list(stage.buffers[0].shape), stage.indices)
    number = tirx.Var("number", "int64")
    _, step = along(address, stage.elements, stage.extents, number)
    if step is None or blocks.constant(step) != 1:
        return 1
    vector = min(8, LOAD_BYTES * 8 // max(bits(str(buffer.dtype)) for buffer in buffers))
    analyzer = sym.Analyzer()
    while blocks.constant(analyzer.simplify(tirx.floormod(function.length, vector))) != 0:
        vector //= 2
    return vector
