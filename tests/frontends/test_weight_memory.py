"""Weights are read and copied by several threads: every byte once, whatever the strides."""

import numpy as np
import pytest

from athanor.frontends.onnx import weight_memory
from athanor.frontends.onnx.weight_memory import copy_elements, read_bytes


@pytest.fixture(autouse=True)
def small_shares(monkeypatch):
    monkeypatch.setattr(weight_memory, "SHARE_BYTES", 16)
    monkeypatch.setattr(weight_memory.os, "sched_getaffinity", lambda _: {0, 1, 2})


@pytest.mark.parametrize("shape", [(), (0, 4), (1, 37), (2, 5), (7, 3, 5), (64,)])
def test_elements_of_any_strides_are_copied(shape):
    source = np.random.default_rng(0).random(shape).astype("float32")
    for view in (source, source.T.copy().T, np.repeat(source[..., None], 3, -1)[..., 1]):
        target = np.full(shape, np.nan, "float32")
        copy_elements(target, view)
        np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("count", [0, 1, 31, 100, 4097])
def test_bytes_of_a_file_are_read_from_an_offset(tmp_path, count):
    content = np.random.default_rng(1).bytes(count + 9)
    (tmp_path / "weights").write_bytes(content)
    target = bytearray(count)
    assert read_bytes(tmp_path / "weights", 9, memoryview(target))
    assert target == content[9:]


def test_a_file_that_ends_before_is_told(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(100))
    assert not read_bytes(tmp_path / "weights", 1, memoryview(bytearray(100)))
    assert not read_bytes(tmp_path / "weights", 200, memoryview(bytearray(64)))
