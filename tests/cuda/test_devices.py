"""Tensors on the device, streams of the caller's, several devices."""

import ctypes

import numpy as np
import pytest

import athanor
from athanor.errors import RunError
from athanor.runtime.library import DataType, Tensor, check, library

from .emulation import log
from .test_run import row_softmax, rows, softmax, weights

CPU, CUDA = 1, 2


@pytest.fixture
def memory(driver):
    """Device memory of the caller's: allocate bytes, and copy in and out."""
    return Memory(driver)


class Memory:
    def __init__(self, driver):
        self.driver = driver
        driver.cuMemAlloc_v2.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        copy = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        driver.cuMemcpyAsync.argtypes = copy

    def new(self, array):
        """The array's bytes on the device."""
        pointer = ctypes.c_void_p()
        self.driver.cuCtxPushCurrent_v2(None)
        assert self.driver.cuMemAlloc_v2(ctypes.byref(pointer), array.nbytes) == 0
        self.driver.cuMemcpyAsync(pointer, array.ctypes.data, array.nbytes, None)
        self.driver.cuStreamSynchronize(None)
        self.driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return pointer.value

    def read(self, pointer, like):
        array = np.empty_like(like)
        self.driver.cuMemcpyAsync(array.ctypes.data, pointer, array.nbytes, None)
        self.driver.cuStreamSynchronize(None)
        return array


def tensor(data, shape, device=CUDA, index=0):
    dims = (ctypes.c_int64 * len(shape))(*shape)
    row = Tensor(data, device, index, len(shape), DataType(2, 32, 1))
    row.shape = ctypes.cast(dims, ctypes.POINTER(ctypes.c_int64))
    row.keep = dims
    return row


def run(model, x, y):
    """athanor_session_run on DLTensors."""
    session = model._alive()[1]
    check(library().athanor_session_run(session, ctypes.byref(x), 1, ctypes.byref(y), 1))


def test_tensors_on_the_device_are_used_in_place(driver, memory):
    model = athanor.compile(row_softmax(), "cuda").load()
    array = rows(4)
    x = tensor(memory.new(array), array.shape)
    y = tensor(memory.new(array), array.shape)
    driver.fake_reset(90, 1)
    run(model, x, y)
    assert not [line for line in log(driver) if line.startswith("copy")]
    expected = softmax(array * weights())
    np.testing.assert_allclose(memory.read(y.data, array), expected, rtol=1e-5, atol=1e-7)


def test_an_output_without_memory_is_made_where_it_is_asked_for(driver, memory):
    model = athanor.compile(row_softmax(), "cuda").load()
    array = rows(4)
    x = tensor(memory.new(array), array.shape)
    expected = softmax(array * weights())
    y = tensor(None, array.shape, CUDA)
    run(model, x, y)
    assert (y.device_type, y.device_id) == (CUDA, 0)
    np.testing.assert_allclose(memory.read(y.data, array), expected, rtol=1e-5, atol=1e-7)
    y = tensor(None, array.shape, CPU)
    run(model, x, y)
    assert y.device_type == CPU
    made = np.ctypeslib.as_array(ctypes.cast(y.data, ctypes.POINTER(ctypes.c_float)), array.shape)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-7)


def test_the_caller_s_stream_is_used_and_not_waited_for(driver, memory):
    stream = ctypes.c_void_p()
    driver.cuStreamCreate(ctypes.byref(stream), 0)
    model = athanor.compile(row_softmax(), "cuda").load()
    other = model.new_session(stream=stream.value)
    array = rows(4)
    x, y = (tensor(memory.new(array), array.shape) for _ in range(2))
    driver.fake_reset(90, 1)
    run(other, x, y)
    lines = log(driver)
    assert "wait" not in lines and all(line.endswith(f" on {stream.value:#x}") for line in lines)
    np.testing.assert_array_equal(memory.read(y.data, array), array)  # not run yet
    driver.cuStreamSynchronize(stream)
    expected = softmax(array * weights())
    np.testing.assert_allclose(memory.read(y.data, array), expected, rtol=1e-5, atol=1e-7)
    other.close()
    driver.cuStreamDestroy_v2(stream)


def test_devices_by_number(driver, memory, tmp_path):
    path = athanor.compile(row_softmax(), "cuda").save(tmp_path / "m.so")
    model = athanor.load(path, device=1)
    array = rows(2)
    expected = softmax(array * weights())
    np.testing.assert_allclose(model.run({"x": array})["y"], expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(RunError, match="device 2 asked for, there are 2"):
        athanor.load(path, device=2)
    x, y = (tensor(memory.new(array), array.shape, CUDA, 0) for _ in range(2))
    with pytest.raises(RunError, match="input 'x' is on CUDA device 0, the session on device 1"):
        run(model, x, y)


def test_a_model_for_the_cpu_refuses_tensors_on_a_device(driver, memory):
    model = athanor.compile(row_softmax()).load()
    array = rows(2)
    x = tensor(memory.new(array), array.shape)
    with pytest.raises(RunError, match=r"input 'x' is on device type 2, expected the CPU \(1\)"):
        run(model, x, tensor(None, array.shape, CPU))
