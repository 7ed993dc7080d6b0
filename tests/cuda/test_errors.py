"""What goes wrong on a device, in words."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import athanor
from athanor.errors import RunError

from .test_run import row_softmax, rows


def test_a_lack_of_memory_says_what_was_wanted_and_what_there_is(driver):
    artifact = athanor.compile(row_softmax(), "cuda")
    model = artifact.load()
    driver.fake_fail(b"cuMemAlloc_v2", 2)
    sentence = (
        r"taking 56000000 bytes of device memory for x, of which \d+ of 8589934592 are free, "
        r"failed: CUDA_ERROR_OUT_OF_MEMORY"
    )
    with pytest.raises(RunError, match=sentence):
        model(rows(200000))
    with pytest.raises(RunError, match="taking 320 bytes of device memory for the weights"):
        artifact.load()


def test_a_lost_device_is_named_by_every_later_call(tmp_path):
    """In a process of its own, for it is lost to all of it."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import athanor
        from athanor.errors import RunError
        from tests_cuda import emulation
        from tests_cuda.test_run import row_softmax, rows
        import athanor.compiler.image_cache as image_cache
        image_cache.device_image = emulation.emulated_image
        driver = emulation.driver()
        artifact = athanor.compile(row_softmax(), "cuda", cache=False)
        model = artifact.load()
        driver.fake_fail(b"cuLaunchKernel", 700)
        for load in (lambda: model, lambda: model.new_session()):
            try:
                load()(rows(2))
            except RunError as error:
                print(error)
    """)
    (tmp_path / "tests_cuda").symlink_to(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, later = done.stdout.splitlines()
    assert first.endswith(
        "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered); "
        "this process can't use the device any more: start it again"
    )
    assert "; this process lost the device by an earlier error (k_" in later
    assert later.endswith("CUDA_ERROR_ILLEGAL_ADDRESS): start it again")
