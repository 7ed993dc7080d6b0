"""The local measurer: times, checked outputs, and candidates that crash, hang or are wrong."""

from dataclasses import replace

import pytest

from athanor.targets import find_target
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import BUILD, CRASH, TIMEOUT, WRONG_RESULT, Reference

from .c_kernels import GOOD, make_candidate


@pytest.fixture(scope="module")
def measurer():
    made = LocalMeasurer(find_target("native"), threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    return lambda body, **changes: make_candidate(folder, body, **changes)


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
        "exit(3);",
        "return 7;",
    ]
    bad = [candidate(body, reference=reference) for body in bodies]
    broken = replace(good, object_code=b"no object")
    results = list(measurer.measure([*bad, broken, good], repeats=3, timeout_secs=0.5))
    kinds = [r.error and r.error.kind for r in results]
    expected = [CRASH, TIMEOUT, WRONG_RESULT, WRONG_RESULT, CRASH, CRASH, BUILD, None]
    assert kinds == expected
    assert "SIGSEGV" in results[0].error.sentence
    assert "exit code 3" in results[4].error.sentence
    assert "returned 7" in results[5].error.sentence
    assert results[0].median == float("inf")


def test_a_kernel_that_asks_for_the_unknown_spoils_no_other(measurer, candidate):
    good = candidate(GOOD)
    odd = candidate("y[i] = unknown(i);", before="float unknown(int64_t);")
    results = list(measurer.measure([good, odd, good], repeats=3))
    assert [r.error and r.error.kind for r in results] == [None, BUILD, None]
    assert "unknown" in results[1].error.sentence


def test_a_reference_that_fails_is_told(measurer, candidate):
    bad = candidate("abort();")
    (result,) = measurer.measure([candidate(GOOD, reference=Reference(bad.object_code))])
    assert result.error.kind == CRASH
    assert "the reference failed: the kernel was ended by SIGABRT" in result.error.sentence


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


def test_measuring_can_be_left_halfway(measurer, candidate):
    good = candidate(GOOD)
    results = measurer.measure([good, candidate("sleep(60);")], timeout_secs=60)
    assert next(results).error is None
    results.close()  # ends the program, and the kernel with it


def test_nothing_to_measure(measurer):
    assert list(measurer.measure([])) == []
