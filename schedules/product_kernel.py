"""A kernel around `athanor::product` and its kin: tiles, what follows the product, split depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import Expr

from athanor.schedules import blocks
from athanor.schedules.blocks import constant
from athanor.schedules.compute.matmul import unflatten
from athanor.schedules.device_loops import bound, int64, kernel, loop
from athanor.schedules.product_tiles import Tile, choose_tile
from athanor.schedules.tiled_product import Block, ProductCall, TiledProduct, product, substitute
from athanor.targets.gpu import GPUSpec

_BAND = 8
"""Rows of tiles that neighbouring blocks share: they read the same columns from the L2 cache."""
_VECTOR = 4
"""Neighbouring results of a thread: 16 bytes of the sums."""
_THREADS = 256
"""Of the launch that adds up the parts of the depth."""


@dataclass(frozen=True)
class _Epilogue:
    """What becomes of the sums."""

    store: tirx.BufferStore
    iterators: tuple[tirx.Var, ...]
    """Of the store's block, in the order batch, rows, column."""
    sums: tirx.Buffer
    """The buffer that stands for them in the store's value."""

    def stored(self, places: Sequence[Expr], sums: Expr) -> tirx.Stmt:
        """The store of one element."""
        values = dict(zip(self.iterators, places, strict=True))

        def load(read: ir.TensorLoad) -> Expr:
            return sums.astype(str(self.sums.dtype)) if read.source.same_as(self.sums) else read

        value = tvm_ffi.structural_map(self.store.value, (ir.TensorLoad, load), order="post")
        indices = [substitute(index, values) for index in self.store.indices]
        return tirx.BufferStore(self.store.buffer, substitute(value, values), indices)


def product_kernel(
    sch: s_tir.Schedule, block: Block, found: TiledProduct, number: str, gpu: GPUSpec
) -> s_tir.Schedule | None:
    """The kernel of a function whose sums one block computes; None: it holds more than that."""
    epilogue = _epilogue(sch, block)
    if epilogue is None:
        return None
    sizes = [constant(extent) for extent in found.extents]
    if 0 in sizes:
        return None
    tile = choose_tile(sch, gpu, number, tuple(sizes), found.depth_major)  # pyright: ignore
    made = _Kernel(found, tile, epilogue)
    func = sch.mod["main"]
    return s_tir.Schedule(kernel(func, made.nests(), made.buffers))


def _epilogue(sch: s_tir.Schedule, block: Block) -> _Epilogue | None:
    """The one block behind `block`, everything else being inlined into it."""
    stmt = sch.get(block)
    own = _Epilogue(
        tirx.BufferStore(
            stmt.body.buffer,
            tirx.BufferLoad(stmt.body.buffer, stmt.body.indices),
            stmt.body.indices,
        ),
        tuple(iterator.var for iterator in stmt.iter_vars[: len(stmt.body.indices)]),
        stmt.body.buffer,
    )
    leaves = blocks.leaf_blocks(sch) or []
    if len(leaves) == 1:
        return own
    last = blocks.inline_epilogue(sch, block) or _joined_readers(sch, block)
    if last is None or len(blocks.leaf_blocks(sch) or []) != 2:
        return None
    end = sch.get(last)
    iterators = tuple(iterator.var for iterator in end.iter_vars)
    reads = [load for load in blocks.loads(end.body.value) if load.source.same_as(own.sums)]
    plain = all(
        len(load.indices) == len(iterators)
        and all(index.same_as(var) for index, var in zip(load.indices, iterators, strict=True))
        for load in reads
    )
    if not reads or not plain or len(iterators) != len(own.iterators):
        return None
    return _Epilogue(end.body, iterators, own.sums)


def _joined_readers(sch: s_tir.Schedule, block: Block) -> Block | None:
    """The one block that all readers of the sums become part of, as x * tanh(x) has two."""
    if sch.get_producers(block):
        return None
    leaves = blocks.leaf_blocks(sch) or []
    left = blocks.inline_spatial(sch, [b for b in leaves if not blocks.same(sch, b, block)])
    return left[0] if len(left) == 1 and blocks.is_spatial(sch, left[0]) else None


class _Kernel:
    """Builds the nests."""

    def __init__(self, found: TiledProduct, tile: Tile, epilogue: _Epilogue) -> None:
        self.found, self.tile, self.epilogue = found, tile, epilogue
        self.rows, self.columns = int64(found.num_rows), int64(found.column[1])
        # Swizzled tiles begin at multiples of 1024 bytes.
        self.shared = tirx.decl_buffer(
            (tile.shared_bytes // 4,), "float32", "tile", scope="shared.dyn", data_alignment=1024
        )
        self.buffers = [self.shared]
        self.parts: tirx.Buffer | None = None
        if tile.split > 1:
            shape = (tile.split, int64(found.num_batches), self.rows, self.columns)
            self.parts = tirx.decl_buffer(shape, "float32", "parts")
            self.buffers.append(self.parts)
        known = constant(self.columns)
        self.vector = _VECTOR if known is not None and known % _VECTOR == 0 else 1

    def nests(self) -> list[tirx.Stmt]:
        """One launch, or two where the depth is split."""
        tiles = self.tiles()
        return [tiles] if self.parts is None else [tiles, self.reduction()]

    def tiles(self) -> tirx.Stmt:
        """Each block's tile."""
        tile, split = self.tile, self.tile.split
        tall, wide = _ceil(self.rows, tile.rows), _ceil(self.columns, tile.columns)
        block, thread = tirx.Var("block", "int64"), tirx.Var("thread", "int64")
        inside = block % (tall * wide)
        outer = block // (tall * wide)
        part, batch = (outer % split, outer // split) if split > 1 else (int64(0), outer)
        # Bands of rows, column by column.
        band = inside // (_BAND * wide)
        height = tirx.min(tall - band * _BAND, int64(_BAND))
        row = (band * _BAND + inside % (_BAND * wide) % height) * tile.rows
        column = inside % (_BAND * wide) // height * tile.columns
        batch_places = (
            unflatten(batch, [extent for _, extent in self.found.batch]) if self.found.batch else []
        )
        depth = int64(self.found.depth)
        run = _ceil(depth, tile.depth * split) * tile.depth
        call = self.found.call(
            ProductCall(
                tile.template,
                tirx.buffer_data(self.shared),
                {
                    var: place
                    for (var, _), place in zip(self.found.batch, batch_places, strict=True)
                },
                row,
                tirx.min(self.rows - row, int64(tile.rows)).astype("int32"),
                column,
                tirx.min(self.columns - column, int64(tile.columns)).astype("int32"),
                (part * run).astype("int32"),
                tirx.min(depth, part * run + run).astype("int32"),
            )
        )
        body = tirx.SeqStmt(
            [tirx.Evaluate(call), self.vectors(thread, batch, batch_places, part, row, column)]
        )
        body = bound(thread, tile.threads, "threadIdx.x", body)
        return bound(block, int64(self.found.num_batches) * split * tall * wide, "blockIdx.x", body)

    def vectors(
        self, thread: Expr, batch: Expr, places: list[Expr], part: Expr, row: Expr, column: Expr
    ) -> tirx.Stmt:
        """Every thread's vectors of the sums, from shared memory to where they go."""
        tile, vector = self.tile, self.vector
        turn, lane = tirx.Var("turn", "int64"), tirx.Var("lane", "int64")
        at = (turn * tile.threads + thread) * vector
        inner_row, inner_column = at // tile.columns, at % tile.columns
        this_row, first = row + inner_row, column + inner_column
        sums = tirx.BufferLoad(self.shared, [inner_row * tile.width + inner_column + lane])
        if self.parts is not None:
            indices = [part, batch, this_row, first + lane]
            store: tirx.Stmt = tirx.BufferStore(self.parts, sums, indices)
        else:
            store = self.epilogue.stored([*places, *self.row_places(this_row), first + lane], sums)
        store = _vectorized(lane, vector, store)
        inside = tirx.all(this_row < self.rows, first < self.columns)
        turns = tile.rows * tile.columns // (tile.threads * vector)
        return loop(turn, turns, tirx.IfThenElse(inside, store, None))

    def reduction(self) -> tirx.Stmt:
        """The sums of the parts, and what follows them."""
        assert self.parts is not None
        block, thread = tirx.Var("block", "int64"), tirx.Var("thread", "int64")
        lane, vector = tirx.Var("lane", "int64"), self.vector
        total = product([self.found.num_batches, self.rows, self.columns])
        at = (block * _THREADS + thread) * vector
        column, outer = at % self.columns, at // self.columns
        row, batch = outer % self.rows, outer // self.rows
        sums: Expr = tirx.const(0.0, "float32")
        for part in range(self.tile.split):
            sums = sums + tirx.BufferLoad(self.parts, [int64(part), batch, row, column + lane])
        batch_places = (
            unflatten(batch, [extent for _, extent in self.found.batch]) if self.found.batch else []
        )
        own = tirx.decl_buffer((vector,), "float32", "sums", scope="local")
        self.buffers.append(own)
        add = tirx.BufferStore(own, sums, [lane])
        last = tirx.Var("lane", "int64")
        store = self.epilogue.stored(
            [*batch_places, *self.row_places(row), column + last], tirx.BufferLoad(own, [last])
        )
        both = tirx.SeqStmt([_vectorized(lane, vector, add), _vectorized(last, vector, store)])
        body = bound(thread, _THREADS, "threadIdx.x", tirx.IfThenElse(at < total, both, None))
        return bound(block, _ceil(total, _THREADS * vector), "blockIdx.x", body)

    def row_places(self, row: Expr) -> list[Expr]:
        return unflatten(row, [extent for _, extent in self.found.rows]) if self.found.rows else []


def _vectorized(lane: tirx.Var, vector: int, body: tirx.Stmt) -> tirx.Stmt:
    if vector == 1:
        return tvm_ffi.structural_map(
            body, (tirx.Var, lambda var: int64(0) if var.same_as(lane) else var), order="post"
        )
    return loop(lane, vector, body, tirx.ForKind.VECTORIZED)


def _ceil(extent: Expr, step: int) -> Expr:
    known = constant(extent)
    return int64(-(-known // step)) if known is not None else tirx.floordiv(extent + step - 1, step)
