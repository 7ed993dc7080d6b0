"""The measuring program on kernels for a GPU that are not what they should be."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tvm.ir import IRModule

from athanor.targets import find_target
from athanor.targets.device_kernel import DeviceKernel, Launch
from athanor.tuning.device_object import launcher_object
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import (
    CRASH,
    DEVICE_LOST,
    INPUT,
    OUTPUT,
    TIMEOUT,
    WRONG_RESULT,
    Argument,
    Candidate,
    Reference,
)

from .emulation import emulated_image

TARGET = find_target("cuda -arch=sm_90")
GOOD = "y[threadIdx.x] = 2 * x[threadIdx.x];"
ARGUMENTS = (Argument("float32", (32,), INPUT), Argument("float32", (32,), OUTPUT))


def launcher(body):
    """The object of a kernel of 32 threads, y = f(x)."""
    source = (
        'extern "C" __global__ void __launch_bounds__(32) k_kernel(float *__restrict__ x, '
        f"float *__restrict__ y) {{\n  {body}\n}}\n"
    )
    launch = Launch("k_kernel", (0, 1), ("handle", "handle"), (1, 1, 1, 32, 1, 1), 0)
    kernel = DeviceKernel(IRModule({}), (launch,), (), 2, ())
    return launcher_object("candidate", kernel, [emulated_image(source, "sm_90")], TARGET)


@pytest.fixture
def measurer(driver, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(driver._name).parent))
    measurer = LocalMeasurer(TARGET)
    assert measurer.cpu == "test device"
    yield measurer
    measurer.close()


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (
            "y[threadIdx.x] = 2.001f * x[threadIdx.x];",
            WRONG_RESULT,
            r"buffer 1 \(output\): element",
        ),
        ("if (threadIdx.x) " + GOOD, WRONG_RESULT, "element 0 is"),
        (GOOD + " x[3] += 1;", CRASH, r"wrote into buffer 0 \(input\), which it may only read"),
        (GOOD + " y[32] = 1;", CRASH, "wrote outside of buffer 1"),
        (GOOD + " y[-1] = 1;", CRASH, "wrote outside of buffer 1"),
        (GOOD + " *(volatile int *)8 = 1;", CRASH, "SIGSEGV"),
        (GOOD + " *(float *)((char *)y + 2) = 1;", CRASH, "the kernel failed: CUDA_ERROR_ILLEGAL"),
        (GOOD + ' while (x[0] < 2) asm volatile("");', TIMEOUT, "not done after"),
    ],
)
def test_a_bad_kernel_costs_itself_alone(measurer, body, kind, sentence):
    good, bad = launcher(GOOD), launcher(body)
    candidates = [
        Candidate("w", (number,), code, "candidate", ARGUMENTS, reference=Reference(good))
        for number, code in enumerate((bad, good))
    ]
    first, second = measurer.measure(candidates, repeats=3, timeout_secs=1.5, interleaved=True)
    assert first.error is not None and first.error.kind == kind
    assert re.search(sentence, first.error.sentence), first.error.sentence
    assert second.error is None and second.seconds == (1e-3, 1e-3, 1e-3)


def test_a_device_that_does_not_start_says_nothing_of_the_candidate(measurer, monkeypatch):
    monkeypatch.setenv("ATHANOR_FAKE_FAILURE", "cuDevicePrimaryCtxRetain")
    good = launcher(GOOD)
    candidate = Candidate("w", (), good, "candidate", ARGUMENTS, reference=Reference(good))
    for result in measurer.measure([candidate, replace(candidate, reference=None)]):
        assert result.error is not None and result.error.kind == DEVICE_LOST
        assert "starting the device failed" in result.error.sentence
    monkeypatch.delenv("ATHANOR_FAKE_FAILURE")
    (result,) = measurer.measure([candidate], repeats=3)
    assert result.error is None


def test_other_memory_is_touched_between_calls(measurer):
    candidate = Candidate("w", (), launcher(GOOD), "candidate", ARGUMENTS, evict_bytes=1 << 20)
    (result,) = measurer.measure([candidate], repeats=4)
    assert result.error is None and result.seconds == (1e-3,) * 4
