"""A kernel's object -> an artifact that measures it: the C program around it, and the link.

The artifact's one model takes the kernel's inputs and `control`, and gives the kernel's outputs and
`seconds`. It runs on the same runtime as every model, so threads, scratch memory and caches are as
in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from athanor.compiler.link import compile_host, link_shared
from athanor.runtime.dtypes import dlpack_type, named_dtype
from athanor.runtime.footer import append_payload
from athanor.targets import TargetSpec
from athanor.tuning.measure import INPUT, OUTPUT, Argument
from athanor.tuning.protocol import CONTROL_FIELDS, MAX_REPEATS

_PROGRAM = r"""
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "athanor_abi.h"

static const AthanorServices *services;
static void *workspace_alloc(int type, int id, uint64_t size_bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return services->workspace_alloc(size_bytes);
}
static int workspace_free(int type, int id, void *pointer) {
  (void)type, (void)id;
  return services->workspace_free(pointer);
}
#define HIDDEN __attribute__((visibility("hidden")))
HIDDEN void *__TVMBackendParallelLaunch;
HIDDEN void *__TVMBackendAllocWorkspace = (void *)workspace_alloc;
HIDDEN void *__TVMBackendFreeWorkspace = (void *)workspace_free;

static int init(const AthanorServices *given) {
  services = given;
  __TVMBackendParallelLaunch = (void *)given->parallel_launch;
  return 0;
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Each thread writes its part of a buffer, as the kernel before has. */
typedef struct { char *data; uint64_t size_bytes; } Range;
static int touch_part(int task_id, AthanorGroup *group, void *closure) {
  const Range *range = closure;
  const uint64_t part = (range->size_bytes / 64 / (uint64_t)group->num_task + 1) * 64;
  const uint64_t begin = part * (uint64_t)task_id;
  const uint64_t end = begin + part < range->size_bytes ? begin + part : range->size_bytes;
  for (uint64_t i = begin; i < end; i += 64) {
    volatile char *line = range->data + i;
    *line = *line;
  }
  return 0;
}
static void touch(void *data, uint64_t size_bytes) {
  Range range = {data, size_bytes};
  services->parallel_launch(touch_part, &range, 0);
}

extern int %(symbol)s(%(types)s);
%(shapes)s
static const AthanorTensorInfo inputs[] = {%(inputs)s};
static const AthanorTensorInfo outputs[] = {%(outputs)s};
static const char *const symbols[] = {0};

static int plan(const int64_t *values, uint64_t *arena_bytes, int64_t *shapes) {
  (void)values;
  *arena_bytes = 0;
%(plan)s
  return 0;
}

static int run(AthanorRun *run) {
  const int64_t *control = run->inputs[0];
  const int64_t warmups = control[0], repeats = control[1], limit_ns = control[3];
  const int64_t budget_ns = control[4];
  const uint64_t evict_bytes = (uint64_t)control[2];
  double *seconds = run->outputs[0];
  for (int i = 0; i < %(max_repeats)d; i++) seconds[i] = -1;
%(clear)s
  char *other = evict_bytes ? services->run_alloc(run, evict_bytes) : 0;
  if (evict_bytes && !other) return -1;
  if (other) memset(other, 0, evict_bytes);
  const int64_t started = now_ns();
  int result = 0;
  for (int64_t i = -warmups; i < repeats && i < %(max_repeats)d; i++) {
    if (i >= 3 && now_ns() - started > budget_ns) break;
    if (other) touch(other, evict_bytes);
%(touch)s
    const int64_t begin = now_ns();
    result = %(symbol)s(%(call)s);
    const int64_t taken = now_ns() - begin;
    if (result) break;
    if (i >= 0) seconds[i] = (double)taken * 1e-9;
    if (i >= 0 && taken > limit_ns) break;
  }
  services->run_free(run, other);
  return result;
}

__attribute__((visibility("default")))
const AthanorDescriptor athanor_descriptor = {
  ATHANOR_ABI_VERSION, sizeof(AthanorDescriptor),
  %(num_inputs)d, %(num_outputs)d, 0, %(rank)d,
  inputs, outputs, symbols, 0, init, plan, run,
};
"""


def compile_harness(
    symbol: str,
    arguments: Sequence[Argument],
    dims: Sequence[int],
    folder: Path,
    target: TargetSpec,
) -> Path:
    """The object file of the measuring program for all kernels of that name and signature."""
    folder.mkdir(parents=True, exist_ok=True)
    return compile_host(_source(symbol, arguments, dims), folder, target)


def link_harness(kernel: Path, harness: Path, target: TargetSpec, output: Path) -> Path:
    """The artifact `output`, for tuning/worker.py. Raises CompileError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    code = link_shared([harness, kernel], output.parent, target)
    append_payload(code, [], {}, target.triple, target.cpu_features, output)
    return output


def _source(symbol: str, arguments: Sequence[Argument], dims: Sequence[int]) -> str:
    ins = [a for a in arguments if a.role != OUTPUT]
    outs = [a for a in arguments if a.role == OUTPUT]
    assert list(arguments) == [*ins, *outs], "outputs are a kernel's last buffers"
    control = Argument("int64", (len(CONTROL_FIELDS),), INPUT)
    seconds = Argument("float64", (MAX_REPEATS,), OUTPUT)
    all_ins, all_outs = [control, *ins], [seconds, *outs]
    rank = max(len(a.shape) for a in all_outs)
    places = [f"run->inputs[{i + 1}]" for i in range(len(ins))]
    results = [f"run->outputs[{i + 1}]" for i in range(len(outs))]
    return _PROGRAM % {
        "symbol": symbol,
        "types": ", ".join(["void *"] * len(arguments) + ["int64_t"] * len(dims)) or "void",
        "shapes": "\n".join([*_shapes("input", all_ins), *_shapes("output", all_outs)]),
        "inputs": _infos("input", all_ins),
        "outputs": _infos("output", all_outs),
        "plan": "\n".join(
            f"  shapes[{row * rank + axis}] = INT64_C({size});"
            for row, argument in enumerate(all_outs)
            for axis, size in enumerate(argument.shape)
        ),
        "max_repeats": MAX_REPEATS,
        # what a kernel leaves out is not what the one before has written
        "clear": "\n".join(
            f"  memset({place}, 0x5a, {_size_bytes(a)}u);"
            for place, a in zip(results, outs, strict=True)
        ),
        "touch": "\n".join(
            f"    touch({place}, {_size_bytes(a)}u);"
            for place, a in zip(places, ins, strict=True)
            if a.role == INPUT
        ),
        "call": ", ".join(
            [f"(void *){place}" for place in (*places, *results)]
            + [f"INT64_C({dim})" for dim in dims]
        ),
        "num_inputs": len(all_ins),
        "num_outputs": len(all_outs),
        "rank": rank,
    }


def _shapes(kind: str, arguments: Sequence[Argument]) -> list[str]:
    return [
        f"static const int64_t {kind}{i}_shape[] = "
        f"{{{', '.join(f'INT64_C({size})' for size in a.shape) or '0'}}};"
        for i, a in enumerate(arguments)
    ]


def _infos(kind: str, arguments: Sequence[Argument]) -> str:
    rows = []
    for i, argument in enumerate(arguments):
        code, bits = dlpack_type(named_dtype(argument.dtype))
        rows.append(f'{{"{kind}{i}", {code}, {bits}, 1, {len(argument.shape)}, {kind}{i}_shape}}')
    return ", ".join(rows)


def _size_bytes(argument: Argument) -> int:
    return math.prod(argument.shape) * named_dtype(argument.dtype).itemsize
