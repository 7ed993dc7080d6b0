"""Tensors of other libraries on the GPU, in and out, through DLPack."""

import copy
import ctypes
import gc
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper

import athanor
from athanor.errors import RunError
from athanor.runtime import dlpack

from .arrays import Consumer, CudaArray, Stream, use
from .emulation import log
from .test_run import row_softmax, rows, softmax, weights


@pytest.fixture
def cuda(driver):
    return use(driver)


@pytest.fixture
def model(driver):
    return athanor.compile(row_softmax(), "cuda").load()


def close(actual, x):
    np.testing.assert_allclose(actual, softmax(x * weights()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("is_old", [False, True])
def test_inputs_on_the_device_are_read_in_place(cuda, model, is_old):
    x = rows(5)
    array = CudaArray(cuda, x, is_old=is_old)
    cuda.fake_reset(90, 1)
    close(model(array), x)
    copies = [line for line in log(cuda) if line.startswith("copy")]
    assert [line.split()[1] for line in copies] == ["DH"]  # the result alone
    gc.collect()
    assert array.given_back == 1


def test_the_session_s_stream_waits_for_the_producer(cuda, model):
    x = rows(3)
    stream = Stream(cuda)
    array = CudaArray(cuda, x, stream.cuda_stream)  # queued there, and not run
    close(model(array), x)
    assert any(line.startswith("event awaited") for line in log(cuda))
    stream.close()


def test_results_stay_on_the_device_and_outlive_the_model(cuda):
    before = cuda.fake_allocated()
    model = athanor.compile(row_softmax(), "cuda").load()
    x, z = rows(4), rows(2, 1)
    (first,) = model.run({"x": x}, outputs="device").values()
    second = model(z, outputs="device")
    assert (first.shape, first.dtype, first.device) == ((4, 70), np.float32, 0)
    assert first.__dlpack_device__() == (2, 0)
    model.close()
    del model
    gc.collect()
    assert cuda.fake_contexts() == 1
    close(first.numpy(), x)
    close(Consumer(cuda, second).numpy(), z)
    held = Consumer(cuda, first, max_version=(1, 1))
    del first, second
    gc.collect()
    close(held.numpy(), x)  # the capsule holds it
    del held
    gc.collect()
    assert cuda.fake_allocated() == before
    assert (cuda.fake_contexts(), cuda.fake_events()) == (0, 0)


def test_a_deleter_is_called_by_another_thread(cuda, model):
    before = cuda.fake_allocated()
    capsule = model(rows(2), outputs="device").__dlpack__(stream=1, max_version=(1, 0))
    managed = dlpack._Versioned.from_address(dlpack._pointer_of(capsule, b"dltensor_versioned"))
    # a consumer takes it: renames the capsule, and calls the deleter when it is done
    name = ctypes.c_char_p(b"used_dltensor_versioned")
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
    assert rename(capsule, name) == 0
    delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)
    thread = threading.Thread(target=delete, args=(ctypes.addressof(managed),))
    thread.start()
    thread.join()
    model.close()
    gc.collect()
    assert cuda.fake_allocated() <= before


def test_memory_of_dropped_results_is_used_again(cuda, model):
    x = rows(4)
    first = model(x, outputs="device")
    address = Consumer(cuda, first).imported.address
    second = model(x, outputs="device")
    assert Consumer(cuda, second).imported.address != address
    del first
    gc.collect()
    cuda.fake_reset(90, 1)
    third = model(x, outputs="device")
    assert Consumer(cuda, third).imported.address == address
    # It was on the default stream, which may still be reading.
    assert any(line.startswith("event awaited") for line in log(cuda))
    close(third.numpy(), x)
    close(second.numpy(), x)


def test_memory_used_on_a_stream_that_may_go_is_given_back(cuda, model):
    stream = Stream(cuda)
    taken = cuda.fake_allocated()
    result = model(rows(4), outputs="device")
    assert cuda.fake_allocated() > taken
    warm = cuda.fake_allocated()
    Consumer(cuda, result, stream.cuda_stream)
    stream.close()
    del result
    gc.collect()
    assert cuda.fake_allocated() == warm - 4 * 70 * 4


def test_the_caller_s_stream_runs_on_and_consumers_wait_for_it(cuda):
    stream, other = Stream(cuda), Stream(cuda)
    artifact = athanor.compile(row_softmax(), "cuda")
    model = artifact.load().new_session(stream=stream)
    x = rows(4)
    array = CudaArray(cuda, x, stream.cuda_stream)
    cuda.fake_reset(90, 1)
    result = model(array, outputs="device")
    assert "wait" not in log(cuda)
    unsafe = Consumer(cuda, result, -1)
    unsafe.stream = other.cuda_stream
    assert np.isnan(unsafe.numpy()).all()  # nothing has run
    close(Consumer(cuda, result, other.cuda_stream).numpy(), x)
    again = model(array, outputs="device")
    close(again.numpy(), x)
    with pytest.raises(BufferError, match="stream 0"):
        again.__dlpack__(stream=0)
    np.testing.assert_array_equal(np.from_dlpack(again.__class__.numpy(again)), again.numpy())
    del result, again, unsafe
    model.close()
    stream.close()
    other.close()


def test_outputs_are_written_to_tensors_of_the_caller_s(cuda, model):
    x = rows(4)
    out = CudaArray(cuda, np.zeros_like(x))
    results = model.run({"x": x}, outputs={"y": out})
    assert results["y"] is out
    close(out.numpy(), x)
    host = np.zeros_like(x)
    assert model(x, outputs={"y": host}) is host
    close(host, x)
    cuda.fake_reset(90, 1)
    model(CudaArray(cuda, x), outputs={"y": out})
    kinds = [line.split()[1] for line in log(cuda) if line.startswith("copy")]
    assert kinds == ["HD"]  # the test's own


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"device": 1}, "input 'x' is on CUDA device 1, the session on device 0"),
        ({"strides": [1, 4]}, "input 'x' is not dense and row-major: copy it first"),
        ({"dtype": np.float64}, "input 'x' has type float64, expected float32"),
        ({"columns": 69}, r"input 'x' has shape \(4, 69\), expected \(n, 70\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(cuda, model, change, sentence):
    options = dict(change)
    x = rows(4)[:, : options.pop("columns", 70)].astype(options.pop("dtype", np.float32))
    array = CudaArray(cuda, x, **options)
    with pytest.raises(RunError, match=sentence):
        model(array)
    close(model(rows(3)), rows(3))


@pytest.mark.parametrize(
    ("buffer", "sentence"),
    [
        (np.zeros((3, 70), np.float32), r"output 'y' has shape \(3, 70\), expected \(4, 70\)"),
        (np.zeros((4, 70)), "output 'y' has type float64, expected float32"),
        (np.zeros((70, 4), np.float32).T, "output 'y' can't be written: the array must be dense"),
        ([0.0], "output 'y' is of class list, expected an array"),
    ],
)
def test_buffers_that_do_not_fit_are_refused_by_name(driver, model, buffer, sentence):
    with pytest.raises(RunError, match=sentence):
        model(rows(4), outputs={"y": buffer})


def test_buffers_that_are_no_outputs(driver, model):
    with pytest.raises(RunError, match="outputs don't fit: unknown 'z'; expected 'y'"):
        model(rows(4), outputs={"z": rows(4)})
    with pytest.raises(RunError, match="outputs is 'gpu', expected 'host', 'device' or a mapping"):
        model(rows(4), outputs="gpu")


def test_streams_by_their_objects():
    class CuPy:
        ptr = 80

    class Core:
        def __cuda_stream__(self):
            return (0, 96)

    class Torch:
        cuda_stream = 0  # torch's number of the default stream

    numbers = [dlpack.stream_number(s) for s in (None, 1, 64, CuPy(), Core(), Torch())]
    assert numbers == [None, 1, 64, 80, 96, 1]
    with pytest.raises(RunError, match="stream is 'default', expected the address of a CUstream"):
        dlpack.stream_number("default")


def nonzero():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["positive"]),
            helper.make_node("NonZero", ["positive"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.INT64, [1, None])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_results_whose_size_the_run_tells_stay_on_the_device(cuda):
    model = athanor.compile(nonzero(), "cuda").load()
    for x in ([-1, 2, 0, 3], [0, 0], [1, 1, 1]):
        x = np.array(x, np.float32)
        result = model(x, outputs="device")
        np.testing.assert_array_equal(result.numpy(), np.nonzero(np.maximum(x, 0)))


def test_a_model_for_the_cpu_has_no_results_on_a_device(driver):
    model = athanor.compile(row_softmax()).load()
    with pytest.raises(RunError, match="is for the CPU: its results are on the host"):
        model(rows(2), outputs="device")
    out = np.zeros((2, 70), np.float32)
    assert model(rows(2), outputs={"y": out}) is out
    close(out, rows(2))


def test_a_lack_of_memory_says_how_much_was_wanted(cuda, model):
    model(rows(4), outputs="device")
    cuda.fake_fail(b"cuMemAlloc_v2", 2)
    with pytest.raises(RunError, match="taking 560000 bytes of device memory for y, of which "):
        model(rows(2000), outputs="device")
    cuda.fake_fail(b"", 0)
    close(model(rows(2000), outputs="device").numpy(), rows(2000))


def test_who_can_t_take_a_tensor_loses_neither_memory_nor_exception(cuda, model):
    """NumPy asks for a capsule, sees a GPU, and drops it with an exception under way."""
    before = cuda.fake_allocated()
    for _ in range(3):
        with pytest.raises((BufferError, RuntimeError)):
            np.from_dlpack(NoHost(model(rows(4), outputs="device")))
    gc.collect()
    model.close()
    gc.collect()
    assert cuda.fake_allocated() <= before


class NoHost:
    """A tensor that always is where it is, as other libraries' are."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(max_version=options.get("max_version"))


def test_one_owner(cuda, model):
    result = model(rows(2), outputs="device")
    for owner in (result, model):
        with pytest.raises(TypeError, match="can't be copied"):
            copy.copy(owner)


def test_a_stream_of_each_thread_is_refused(cuda, model):
    with pytest.raises(RunError, match="stream 2 is another one on each thread"):
        model.new_session(stream=2)
