"""Artifacts for a GPU on machines without one."""

import pytest

from . import emulation


@pytest.fixture
def driver(monkeypatch):
    """The test driver; artifacts compiled for `cuda` hold code that it runs on the host.

    After the test nothing may be wrong with what the runtime asked of it.
    """
    monkeypatch.setattr("athanor.compiler.image_cache.device_image", emulation.emulated_image)
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    library = emulation.driver()
    library.fake_reset(90, 2)
    yield library
    assert library.fake_broken() == b""
    assert library.fake_depth() == 0, "a context was left current"
