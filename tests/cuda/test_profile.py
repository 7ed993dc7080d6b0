"""Times of a model's steps on a device."""

import numpy as np
import pytest

import athanor
from athanor.compiler.profiling.limits import device_limits
from athanor.compiler.profiling.summary import summarize
from athanor.errors import RunError

from .emulation import log
from .test_run import row_softmax, rows, softmax, weights
from .test_tensors import nonzero


def test_kernels_are_timed_by_the_device_s_clock(driver):
    artifact = athanor.compile(row_softmax(), "cuda", profile=True)
    model = artifact.load()
    profile = model.profile({"x": rows(8)}, runs=3)
    # the test driver's kernels take a millisecond each
    launches = {
        name: len(kernel["launches"])
        for name, kernel in artifact.metadata["device"]["kernels"].items()
    }
    assert profile.steps
    for step in profile.steps:
        assert step.milliseconds == pytest.approx(launches[step.kernel], abs=1e-3)
        assert step.bytes >= 8 * 70 * 4
    total = sum(step.milliseconds for step in profile.steps)
    assert profile.milliseconds == pytest.approx(total, abs=0.25)  # and a copy's tenth
    assert profile.between_ms == pytest.approx(0, abs=0.25)


def test_the_device_is_held_back_until_all_is_queued(driver):
    model = athanor.compile(row_softmax(), "cuda", profile=True).load()
    driver.fake_reset(90, 1)
    model.profile({"x": rows(8)}, runs=1)
    lines = log(driver)
    gate = lines.index("host function")
    assert any(line.startswith("launch") for line in lines[:gate])  # the run before
    waits = [
        number for number, line in enumerate(lines) if line.startswith("wait") and number > gate
    ]
    launches = [number for number, line in enumerate(lines) if line.startswith("launch")]
    assert waits[0] > launches[-1]


def test_steps_of_the_host_are_timed_too(driver):
    model = athanor.compile(nonzero(), "cuda", profile=True).load()
    x = np.array([-1, 2, 0, 3], np.float32)
    profile = model.profile({"x": x}, runs=2)
    assert any(step.kernel == "copy" for step in profile.steps)
    assert all(step.milliseconds >= 0 for step in profile.steps)
    np.testing.assert_array_equal(model(x), np.nonzero(np.maximum(x, 0)))


def test_a_run_that_is_not_profiled_pays_nothing(driver):
    model = athanor.compile(row_softmax(), "cuda", profile=True).load()
    driver.fake_reset(90, 1)
    y = model(rows(3))
    assert not any("event" in line or "host" in line for line in log(driver))
    np.testing.assert_allclose(y, softmax(rows(3) * weights()), rtol=1e-5, atol=1e-7)
    with pytest.raises(RunError, match="was not compiled for profiling"):
        athanor.compile(row_softmax(), "cuda").load().profile({"x": rows(3)})


def test_limits_of_a_device_are_those_that_it_tells(driver):
    model = athanor.compile(row_softmax(), "cuda", profile=True).load()
    info = model.device_info
    assert (info["name"], info["capability"], info["multiprocessors"]) == ("test device", 90, 10)
    limits = device_limits(info)
    assert limits.gflops == pytest.approx(10 * 128 * 2 * 1.0)
    assert limits.levels[-1].gigabytes_per_second == pytest.approx(256)
    summary = summarize(model.profile({"x": rows(8)}, runs=2), model.metadata, limits)
    assert all(row.of_limit is not None for row in summary.rows)
    assert all(row.rule for row in summary.rows)
    with pytest.raises(RunError, match="is for the CPU"):
        _ = athanor.compile(row_softmax()).load().device_info
