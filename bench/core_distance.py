"""How long a cache line takes from one core to another.

30 ns where two cores share an L3 cache, five times that where they don't. On a virtual machine this
changes while it runs, with the places that the host gives its cores, and two threads of a model of
small kernels, which hand each other every tensor, may then be slower than one.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

HANDOVERS = 4000
SOURCE = """
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
static _Alignas(128) atomic_int turn;
static void *answer(void *count) {
  for (int i = 0; i < *(int *)count; i++) {
    while (atomic_load(&turn) != 2 * i + 1) {}
    atomic_store(&turn, 2 * i + 2);
  }
  return 0;
}
double handover_ns(int count) {
  pthread_t other;
  struct timespec begin, end;
  atomic_store(&turn, 0);
  if (pthread_create(&other, 0, answer, &count)) return -1;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (int i = 0; i < count; i++) {
    atomic_store(&turn, 2 * i + 1);
    while (atomic_load(&turn) != 2 * i + 2) {}
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  pthread_join(other, 0);
  return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / count / 2;
}
"""


def handover_ns() -> float:
    """Nanoseconds for one cache line, right now; wants two cores that are free."""
    return _library().handover_ns(HANDOVERS)


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "distance.c", Path(folder) / "distance.so"
        source.write_text(SOURCE, encoding="utf-8")
        subprocess.run(
            ["cc", "-O2", "-std=c11", "-shared", "-fPIC", "-pthread", source, "-o", made],
            check=True,
        )
        library = ctypes.CDLL(str(made))
    library.handover_ns.restype = ctypes.c_double
    return library
