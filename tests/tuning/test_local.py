"""The local measurer: times, checked outputs, and candidates that crash, hang or are wrong."""

import subprocess
from dataclasses import replace

import pytest

from athanor.targets import find_target
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import (
    BUILD,
    CONSTANT,
    CRASH,
    INPUT,
    OUTPUT,
    TIMEOUT,
    WRONG_RESULT,
    Argument,
    Candidate,
    Reference,
)

ARGUMENTS = (
    Argument("float32", (3, 50), INPUT),
    Argument("float32", (50,), CONSTANT),
    Argument("float32", (3, 50), OUTPUT),
)
KERNEL = """
#include <stdint.h>
#include <unistd.h>
int kernel(float *x, float *w, float *y, int64_t rows) {
  for (int64_t i = 0; i < rows * 50; i++) { %s }
  return 0;
}
"""
GOOD = "y[i] = x[i] * w[i % 50];"


@pytest.fixture(scope="module")
def measurer():
    made = LocalMeasurer(find_target("native"), threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")

    def make(body, **changes):
        (folder / "k.c").write_text(KERNEL % body)
        subprocess.run("cc -c -fPIC -O1 -w k.c -o k.o".split(), cwd=folder, check=True)
        code = (folder / "k.o").read_bytes()
        return replace(Candidate("w", (), code, "kernel", ARGUMENTS, (3,)), **changes)

    return make


def test_times_and_equal_outputs(measurer, candidate):
    first = candidate(GOOD)
    second = candidate("y[i] = w[i % 50] * x[i];", reference=Reference(first.object_code))
    one, two = measurer.measure([first, second], repeats=5)
    assert one.error is None and two.error is None
    assert len(one.seconds) == len(two.seconds) == 5
    assert all(0 < s < 1 for s in one.seconds)


def test_failures_cost_their_own_process(measurer, candidate):
    good = candidate(GOOD)
    reference = Reference(good.object_code)
    bodies = [
        "*(volatile int *)0 = 1;",
        "sleep(9);",
        "y[i] = 1;",
        "if (i) y[i] = x[i] * w[i % 50];",
    ]
    bad = [candidate(body, reference=reference) for body in bodies]
    broken = replace(good, object_code=b"no object")
    results = list(measurer.measure([*bad, broken, good], repeats=3, timeout_secs=1))
    kinds = [r.error and r.error.kind for r in results]
    assert kinds == [CRASH, TIMEOUT, WRONG_RESULT, WRONG_RESULT, BUILD, None]
    assert "SIGSEGV" in results[0].error.sentence
    assert results[0].median == float("inf")


def test_interleaved_measurements_come_in_order(measurer, candidate):
    good = candidate(GOOD)
    bad = candidate("y[i] = 0;", reference=Reference(good.object_code))
    slow = candidate("y[i] = x[i] * w[i % 50]; if (!i) usleep(3000);", evict_bytes=1 << 20)
    first, wrong, last = measurer.measure([good, bad, slow], repeats=4, interleaved=True)
    assert len(first.seconds) == len(last.seconds) == 4
    assert wrong.error.kind == WRONG_RESULT
    assert last.median > 3e-3 > first.median


def test_a_slow_candidate_is_not_repeated(measurer, candidate):
    slow = candidate("y[i] = x[i] * w[i % 50]; if (!i) usleep(3000);")
    (result,) = measurer.measure([slow], repeats=20, limit_secs=1e-3)
    assert len(result.seconds) == 1
