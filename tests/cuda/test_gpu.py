"""The same tests on a real GPU, wherever there is one: pytest -m gpu tests/cuda.

Without TVM on the machine that has the GPU: bench/cuda_pack.py and cuda_suite.py.
"""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import athanor
from athanor.targets import cuda_images

from .test_operators import *  # noqa: F403
from .test_run import row_softmax, rows, softmax, weights

_ASK = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
"""


@functools.cache
def why_not():
    """Why no test can run here; None where they can. Asked elsewhere: here lives a test driver."""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no NVIDIA GPU: {done.stderr.strip().splitlines()[-1]}"
    return None if cuda_images.compiler_name() else "a GPU, but neither NVRTC nor nvcc"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture
def driver():
    """NVIDIA's, in the place of the test driver."""
    if "athanor-driver" in Path("/proc/self/maps").read_text():
        pytest.skip("this process has the test driver, which others asked for: use -m gpu")


def close(actual, x):
    np.testing.assert_allclose(actual, softmax(x * weights()), rtol=1e-5, atol=1e-7)


def test_graphs_replay(driver):
    model = athanor.compile(row_softmax(), "cuda").load(cuda_graph=True)
    for count in (3, 3, 3, 300, 300, 3):
        close(model(rows(count, count)), rows(count, count))


def test_profiles_have_plausible_times(driver):
    model = athanor.compile(row_softmax(), "cuda", profile=True).load()
    profile = model.profile({"x": rows(1000)}, runs=5)
    assert all(0 < step.milliseconds < 10 for step in profile.steps)
    assert profile.milliseconds >= sum(step.milliseconds for step in profile.steps) * 0.9


def test_torch_and_results_share_memory(driver):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch without CUDA")
    stream = torch.cuda.Stream()
    model = athanor.compile(row_softmax(), "cuda").load()
    on_stream = model.new_session(stream=stream)
    for count in (1, 70, 5000):
        x = torch.from_numpy(rows(count, count)).cuda()
        close(torch.from_dlpack(model(x, outputs="device")).cpu().numpy(), rows(count, count))
        with torch.cuda.stream(stream):
            doubled = torch.from_dlpack(on_stream(x, outputs="device")) * 2
        torch.cuda.synchronize()
        close(doubled.cpu().numpy() / 2, rows(count, count))
        out = torch.empty_like(x)
        assert model(x, outputs={"y": out}) is out
        close(out.cpu().numpy(), rows(count, count))
