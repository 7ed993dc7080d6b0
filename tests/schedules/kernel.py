"""Compiles one scheduled prim_func and calls it on NumPy arrays."""

import ctypes
import functools
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from athanor.targets import codegen, find_target

# The three services of a kernel object, for one thread.
_SERVICES = """
#include <stdlib.h>
#include <stdint.h>
typedef struct { void *sync; int32_t num_task; } Group;
static int launch(int (*task)(int, Group *, void *), void *closure, int num_task) {
  Group group = {0, %(tasks)d};
  for (int i = 0; i < group.num_task; i++) {
    int result = task(i, &group, closure);
    if (result) return result;
  }
  return 0;
}
static void *get(int type, int id, uint64_t bytes, int code, int bits) {
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int put(int type, int id, void *p) { free(p); return 0; }
void *__TVMBackendParallelLaunch = launch;
void *__TVMBackendAllocWorkspace = get;
void *__TVMBackendFreeWorkspace = put;
"""


@functools.cache
def services(tasks):
    """The object file of the services, for parallel loops in that many tasks; and its folder."""
    folder = tempfile.TemporaryDirectory(prefix="athanor-services-")
    (Path(folder.name) / "services.c").write_text(_SERVICES % {"tasks": tasks})
    subprocess.run("cc -c -fPIC -O1 -w services.c".split(), cwd=folder.name, check=True)
    return Path(folder.name) / "services.o", folder


class Kernel:
    """A callable kernel: `kernel(*arrays, *dims)`, arrays in parameter order, outputs last."""

    def __init__(self, func, target=None, tasks=3):
        self.target = target or find_target("native")
        self.folder = tempfile.TemporaryDirectory(prefix="athanor-kernel-")
        folder = Path(self.folder.name)
        lowered = codegen.lower_kernel("kernel", func, self.target)
        self.object = codegen.build_kernels({"kernel": lowered}, self.target)
        self.object.save(folder / "kernel.o")
        link = ["cc", "-shared", "-o", "kernel.so", str(services(tasks)[0]), "kernel.o", "-lm"]
        subprocess.run(link, cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "kernel.so"))
        self.function = self.library.kernel
        self.function.restype = ctypes.c_int32

    def arguments(self, args):
        return [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int64(a)
            for a in args
        ]

    def __call__(self, *args):
        assert self.function(*self.arguments(args)) == 0

    def run_secs(self, *args, repeats=20, number=None):
        """The least time of one call, in seconds."""
        prepared = self.arguments(args)
        self.function(*prepared)
        started = time.perf_counter()
        self.function(*prepared)
        number = number or max(1, int(5e-3 / (time.perf_counter() - started)))
        best = float("inf")
        for _ in range(repeats):
            started = time.perf_counter()
            for _ in range(number):
                self.function(*prepared)
            best = min(best, (time.perf_counter() - started) / number)
        return best
