"""Candidates whose kernels are written in C."""

import subprocess
from dataclasses import replace

from athanor.tuning.measure import CONSTANT, INPUT, OUTPUT, Argument, Candidate

ARGUMENTS = (
    Argument("float32", (3, 50), INPUT),
    Argument("float32", (50,), CONSTANT),
    Argument("float32", (3, 50), OUTPUT),
)
KERNEL = """
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern int (*__TVMBackendParallelLaunch)(int (*)(int, void *, void *), void *, int);
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void *);
%s
int kernel(%s) {
  %s
  return 0;
}
"""
PARAMETERS = "float *x, float *w, float *y, int64_t rows"
LOOP = "for (int64_t i = 0; i < rows * 50; i++) { %s }"
GOOD = "y[i] = x[i] * w[i % 50];"


def compile_kernel(folder, body, parameters=PARAMETERS, before=""):
    """The object code of a kernel."""
    (folder / "k.c").write_text(KERNEL % (before, parameters, body))
    subprocess.run("cc -c -fPIC -O1 -w k.c -o k.o".split(), cwd=folder, check=True)
    return (folder / "k.o").read_bytes()


def make_candidate(folder, body, before="", **changes):
    """A candidate that runs `body` for each element i of (3, 50)."""
    code = compile_kernel(folder, LOOP % body, before=before)
    return replace(Candidate("w", (), code, "kernel", ARGUMENTS, (3,)), **changes)
