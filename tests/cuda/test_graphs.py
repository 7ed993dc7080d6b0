"""Runs as CUDA graphs."""

import gc

import numpy as np
import pytest
from onnx import TensorProto, helper

import athanor
from athanor.errors import RunError

from .arrays import CudaArray, Stream, use
from .emulation import log
from .test_run import row_softmax, rows, softmax, weights
from .test_tensors import nonzero


@pytest.fixture
def cuda(driver):
    return use(driver)


def close(actual, x):
    np.testing.assert_allclose(actual, softmax(x * weights()), rtol=1e-5, atol=1e-7)


def test_a_graph_is_captured_once_and_replayed(cuda):
    before = cuda.fake_allocated()
    model = athanor.compile(row_softmax(4), "cuda").load(cuda_graph=True)
    taken = cuda.fake_allocated()
    for seed in range(4):
        close(model(rows(4, seed)), rows(4, seed))
    lines = log(cuda)
    assert lines.count("graph") == 3
    (captured,) = [line for line in lines if line.startswith("captured")]
    launches = sum(line.startswith("launch") for line in lines)
    assert launches == 2 * int(captured.split()[1])  # the first run, and the capture
    assert cuda.fake_allocated() == taken  # all at creation
    model.close()
    gc.collect()
    assert (cuda.fake_graphs(), cuda.fake_allocated()) == (0, before)


def test_tensors_of_the_caller_s_are_copied_to_the_graph_s_places(cuda):
    model = athanor.compile(row_softmax(4), "cuda").load(cuda_graph=True)
    out = CudaArray(cuda, np.zeros((4, 70), np.float32))
    for seed in range(3):
        x = rows(4, seed)
        model(CudaArray(cuda, x), outputs={"y": out})
        close(out.numpy(), x)
        close(model(CudaArray(cuda, x), outputs="device").numpy(), x)
    assert log(cuda).count("graph") == 5


def test_other_sizes_are_captured_anew(cuda):
    model = athanor.compile(row_softmax(), "cuda").load(cuda_graph=True)
    for count in (3, 3, 300, 300, 2, 2, 3):
        close(model(rows(count, count)), rows(count, count))
    assert log(cuda).count("graph") == 3
    assert cuda.fake_graphs() == 1


def test_a_graph_runs_on_the_caller_s_stream(cuda):
    stream = Stream(cuda)
    artifact = athanor.compile(row_softmax(4), "cuda")
    model = artifact.load(stream=stream, cuda_graph=True)
    x = CudaArray(cuda, rows(4), stream.cuda_stream)
    for _ in range(3):
        result = model(x, outputs="device")
    assert log(cuda)[-1] != "wait"
    close(result.numpy(), rows(4))
    # the default stream can't be captured, and is not
    on_default = model.new_session(stream=0)
    for _ in range(2):
        close(on_default(rows(4)), rows(4))
    del result
    on_default.close()
    model.close()
    stream.close()


def test_a_run_that_the_host_has_a_part_in_is_refused(cuda):
    artifact = athanor.compile(nonzero(), "cuda")
    with pytest.raises(RunError, match=r"can't run as a CUDA graph: .* (host|run)"):
        artifact.load(cuda_graph=True)
    with pytest.raises(RunError, match="is for the CPU, which has no CUDA graphs"):
        athanor.compile(row_softmax()).load(cuda_graph=True)
    before = cuda.fake_allocated()
    gc.collect()
    assert cuda.fake_allocated() <= before


def test_an_output_that_is_a_constant_is_no_part_of_a_graph(cuda):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["c"], ["z"])],
        "g",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4]), value("z", TensorProto.FLOAT, [2])],
        [helper.make_tensor("c", TensorProto.FLOAT, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    artifact = athanor.compile(model, "cuda")
    with pytest.raises(RunError, match=r"can't run as a CUDA graph: the output '.*' is the host's"):
        artifact.load(cuda_graph=True)
    y, z = artifact.load()(np.array([-1, 0, 1, 2], np.float32))
    np.testing.assert_array_equal(y, [0, 0, 1, 2])
    np.testing.assert_array_equal(z, [1, 2])


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (b"cuStreamBeginCapture_v2", "beginning a CUDA graph failed"),
        (b"cuGraphInstantiateWithFlags", "making a CUDA graph failed"),
    ],
)
def test_what_the_driver_says_of_a_graph(cuda, function, sentence):
    model = athanor.compile(row_softmax(4), "cuda").load(cuda_graph=True)
    cuda.fake_fail(function, 999)
    with pytest.raises(RunError, match=sentence):
        model(rows(4))
    cuda.fake_fail(b"", 0)
    for _ in range(2):
        close(model(rows(4)), rows(4))
