"""Weights fetched into the cache before the tile that reads them."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule

SPATIAL, REDUCTION = "athanor.prefetch.tiles", "athanor.prefetch.steps"
"""Annotations of the loops over tiles that read the same weights, and of the loops over these: the
second's is the name of the weights and the number of elements that a tile reads, which the next
weights lie behind."""
LINE_BYTES = 64
MOST_LINES = 4
"""That one step fetches: more would wait for each other."""
FEWEST_TILES = 2
"""That read the same weights. Fewer take no longer than the weights' way from memory."""


@tvm.transform.module_pass(opt_level=0, name="PrefetchWeights")
class PrefetchWeights:
    """While tiles use some weights, ask for the ones that come next, a line at a time.

        for tile in range(22):                                 # SPATIAL
            for k in range(192):                               # REDUCTION: [b, 4 * 192 * 16]
                ...b[panel * 12288 + k * 64 + ...]...
    =>
        for tile in range(22):
            for k in range(192):
                prefetch(b[panel * 12288 + 12288 + (tile % 4 * 192 + k) * 16])
                ...

    Weights that do not fit the cache come from memory for the first tile that reads them: it would
    wait for every line (128 x 768 x 768, other weights in each run, 256-bit vectors: 95 GFLOP/s
    without, 100 with). After FlattenBuffer. Behind the last weights the addresses may be of
    anybody; a prefetch of those does nothing.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                mod[variable] = func.with_body(_prefetching(func.body, [], []))
        return mod


def _prefetching(stmt: tirx.Stmt, tiles: list[tirx.For], steps: list[tirx.For]) -> tirx.Stmt:
    """The statement with prefetches in its innermost loops over steps; both lists are around it."""

    def visit(loop: tirx.For) -> tirx.For:
        over_tiles, over_steps = SPATIAL in loop.annotations, REDUCTION in loop.annotations
        if not over_tiles and not over_steps:
            return loop
        around = [*tiles, loop] if over_tiles else tiles, [*steps, loop] if over_steps else steps
        body = _prefetching(loop.body, *around)
        if over_steps and not _has_steps(loop.body):
            found = _prefetches(loop, *around)
            body = tirx.SeqStmt([*found, body]) if found else body
        kept = {k: v for k, v in loop.annotations.items() if k not in (SPATIAL, REDUCTION)}
        binding = loop.thread_binding
        # Without the annotation, for the walk goes on into what is returned.
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, binding, kept)

    return tvm_ffi.structural_map(stmt, (tirx.For, visit), order="pre")


def _has_steps(stmt: tirx.Stmt) -> bool:
    found: list[tirx.For] = []
    tvm_ffi.structural_walk(
        stmt, (tirx.For, lambda loop: found.append(loop) if REDUCTION in loop.annotations else None)
    )
    return bool(found)


def _prefetches(
    loop: tirx.For, tiles: list[tirx.For], steps: list[tirx.For]
) -> list[tirx.Evaluate]:
    """What the body of the innermost loop over steps begins with."""
    name, elements = loop.annotations[REDUCTION]
    read = first_load(loop.body, str(name))
    if read is None or len(read.indices) != 1 or not _are_known([*tiles, *steps]):
        return []
    inner: list[tirx.For] = []
    tvm_ffi.structural_walk(loop.body, (tirx.For, inner.append))
    begin = {each.loop_var: each.min for each in (*inner, *steps)}
    start = tvm_ffi.structural_map(read.indices[0], (tirx.Var, lambda var: begin.get(var, var)))
    per_line = LINE_BYTES // tvm.DataType(str(read.source.dtype)).itemsize
    step, step_count = _position(steps)
    tile, tile_count = _position(tiles)
    if tile_count < FEWEST_TILES:
        return []
    lines = -(-int(elements) // per_line)
    parts = -(-lines // step_count)  # tiles that fetch one line a step, for all lines
    at_once = min(MOST_LINES, -(-parts // tile_count))
    first = (tirx.floormod(tile, -(-parts // at_once)) * step_count + step) * at_once
    found = []
    for line in range(at_once):
        place = start + int(elements) + (first + line) * per_line
        found.append(prefetch(read.source, place, level=2))
    return found


def prefetch(buffer: tirx.Buffer, place: tirx.Expr, level: int) -> tirx.Evaluate:
    """Ask for the line of an element; level 3: into all caches, 2: not into the first."""
    address = tirx.address_of(tirx.BufferLoad(buffer, [place]))
    # (address, 0: to read, level, 1: data)
    arguments = [address, *(tirx.IntImm("int32", value) for value in (0, level, 1))]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", *arguments))


def first_load(stmt: tirx.Stmt, name: str) -> ir.TensorLoad | None:
    """The first load of the buffer of that name."""
    found: list[ir.TensorLoad] = []

    def see(load: ir.TensorLoad) -> None:
        if load.source.name == name:
            found.append(load)

    tvm_ffi.structural_walk(stmt, (ir.TensorLoad, see))
    return found[0] if found else None


def _are_known(loops: list[tirx.For]) -> bool:
    """Whether every loop has a number of iterations; a band that may be short has none."""
    return all(isinstance(loop.extent, tirx.IntImm) for loop in loops)


def _position(loops: list[tirx.For]) -> tuple[tirx.Expr | int, int]:
    """The number of an iteration of nested loops of known extents, and how many there are."""
    position: tirx.Expr | int = 0
    for loop in loops:
        position = position * int(loop.extent) + loop.loop_var
    return position, math.prod(int(loop.extent) for loop in loops)
