"""Kernels that do nothing but multiply-adds, or nothing but reading or copying memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax, tirx
from tvm.script import tirx as T

from athanor.compiler.compile_module import compile_module
from athanor.runtime.profile import Profile
from athanor.targets import TargetSpec

_ACCUMULATORS = 12
"""Vectors in flight: more than latency times pipes of any target, fewer than its registers."""
_ROUNDS = 300_000
"""Of multiply-adds: about a millisecond, so that threads have time to wake, and other processes
leave some runs alone."""
_STREAM_BYTES = 1 << 26
"""That a thread moves at least, for the same reasons."""
_RUNS = 30


@dataclass(frozen=True)
class Stream:
    """A working set for each thread."""

    name: str
    bytes_per_thread: int


def rates(target: TargetSpec, threads: int, streams: Sequence[Stream]) -> tuple[float, list[float]]:
    """Multiply-adds as GFLOP/s, and GB/s of each stream: the best of some runs."""
    lanes = target.lanes()
    builder = relax.BlockBuilder()
    one = relax.Var("one", relax.TensorType([lanes], "float32"))
    # whole groups of vectors, in two halves for copying
    group = 2 * _ACCUMULATORS * lanes
    counts = [max(1, stream.bytes_per_thread // 4 // group) * group for stream in streams]
    sources = [
        relax.Var(stream.name, relax.TensorType([threads, count], "float32"))
        for stream, count in zip(streams, counts, strict=True)
    ]
    results = []
    with builder.function("main", [one, *sources]):
        with builder.dataflow():
            shape = (threads, _ACCUMULATORS, lanes)
            results.append(_emit(builder, multiply_add(threads, lanes), [one], shape))
            for source, count in zip(sources, counts, strict=True):
                reads = read(threads, count, lanes, _repetitions(count))
                results.append(_emit(builder, reads, [source], shape))
                copies = copy(threads, count, lanes, _repetitions(count))
                copied = _emit(builder, copies, [source], (threads, count))
                # the copy stays an intermediate, whose memory the session keeps from run to run
                results.append(_emit(builder, first(threads, count), [copied], (threads, 1)))
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    artifact = compile_module(builder.get(), "native", profile=True)
    with artifact.load(threads=threads) as model:
        shapes = [(lanes,), *((threads, count) for count in counts)]
        inputs = {
            spec.name: np.full(shape, 0.5, spec.dtype)
            for spec, shape in zip(model.inputs, shapes, strict=True)
        }
        profile = model.profile(inputs, _RUNS)
    best = _best_ms(profile)
    order = sorted(best)
    operations = 2 * threads * _ACCUMULATORS * lanes * _ROUNDS
    bandwidths = []
    for index, count in enumerate(counts):
        moved = 4 * threads * count * _repetitions(count)
        read_ms, copy_ms, _ = (best[number] for number in order[1 + 3 * index : 4 + 3 * index])
        bandwidths.append(moved / min(read_ms, copy_ms) / 1e6)
    return operations / best[order[0]] / 1e6, bandwidths


def _repetitions(count: int) -> int:
    return max(1, _STREAM_BYTES // (4 * count))


def _emit(
    builder: relax.BlockBuilder, func: tirx.PrimFunc, args: list[relax.Expr], shape: Sequence[int]
) -> relax.Var:
    name = builder.add_func(func, "kernel")
    return builder.emit(relax.call_tir(name, args, relax.TensorType(list(shape), "float32")))


def _best_ms(profile: Profile) -> dict[int, float]:
    """The shortest time of each step."""
    best: dict[int, float] = {}
    for run in profile.runs:
        for event in run[1:]:
            taken = float(event["end_ns"] - event["start_ns"]) / 1e6
            best[int(event["step"])] = min(taken, best.get(int(event["step"]), taken))
    return best


def multiply_add(threads: int, lanes: int) -> tirx.PrimFunc:
    """Each thread: _ROUNDS of `acc = acc * one + one` on vectors that stay in registers."""
    vectors, rounds = _ACCUMULATORS, _ROUNDS

    @T.prim_func(s_tir=True, private=True)
    def kernel(
        one: T.Buffer((lanes,), "float32"), out: T.Buffer((threads, vectors, lanes), "float32")
    ) -> None:
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for t in T.parallel(threads):
            with T.sblock("multiply_add"):
                v_t = T.axis.spatial(threads, t)
                acc = T.sblock_alloc_buffer((vectors, lanes), "float32", scope="local")
                for a in T.unroll(vectors):
                    for i in T.vectorized(lanes):
                        acc[a, i] = one[i]
                for _ in range(rounds):
                    for a in T.unroll(vectors):
                        for i in T.vectorized(lanes):
                            acc[a, i] = acc[a, i] * one[i] + one[i]
                for a in T.unroll(vectors):
                    for i in T.vectorized(lanes):
                        out[v_t, a, i] = acc[a, i]

    return kernel


def read(threads: int, count: int, lanes: int, repetitions: int) -> tirx.PrimFunc:
    """Each thread adds up its row, vector by vector, again and again."""
    vectors = _ACCUMULATORS
    groups = count // (vectors * lanes)

    @T.prim_func(s_tir=True, private=True)
    def kernel(
        source: T.Buffer((threads, count), "float32"),
        out: T.Buffer((threads, vectors, lanes), "float32"),
    ) -> None:
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for t in T.parallel(threads):
            with T.sblock("read"):
                v_t = T.axis.spatial(threads, t)
                acc = T.sblock_alloc_buffer((vectors, lanes), "float32", scope="local")
                for a in T.unroll(vectors):
                    for i in T.vectorized(lanes):
                        acc[a, i] = T.float32(0)
                for _ in range(repetitions):
                    for g in range(groups):
                        for a in T.unroll(vectors):
                            for i in T.vectorized(lanes):
                                acc[a, i] = acc[a, i] + source[v_t, (g * vectors + a) * lanes + i]
                for a in T.unroll(vectors):
                    for i in T.vectorized(lanes):
                        out[v_t, a, i] = acc[a, i]

    return kernel


def copy(threads: int, count: int, lanes: int, repetitions: int) -> tirx.PrimFunc:
    """Each thread copies the first half of its row to the first half of another."""
    half = count // 2
    groups = half // (_ACCUMULATORS * lanes)
    vectors = _ACCUMULATORS

    @T.prim_func(s_tir=True, private=True)
    def kernel(
        source: T.Buffer((threads, count), "float32"), out: T.Buffer((threads, count), "float32")
    ) -> None:
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for t in T.parallel(threads):
            with T.sblock("copy"):
                v_t = T.axis.spatial(threads, t)
                for r in range(repetitions):
                    for g in range(groups):
                        for a in T.unroll(vectors):
                            for i in T.vectorized(lanes):
                                # to two places in turn, or all rounds but one could go
                                out[v_t, r % 2 * lanes + (g * vectors + a) * lanes + i] = source[
                                    v_t, (g * vectors + a) * lanes + i
                                ]

    return kernel


def first(threads: int, count: int) -> tirx.PrimFunc:
    """The first element of each row."""

    @T.prim_func(s_tir=True, private=True)
    def kernel(
        source: T.Buffer((threads, count), "float32"), out: T.Buffer((threads, 1), "float32")
    ) -> None:
        T.func_attr({"tirx.is_scheduled": True})
        for t in range(threads):
            with T.sblock("first"):
                v_t = T.axis.spatial(threads, t)
                out[v_t, 0] = source[v_t, 0]

    return kernel
