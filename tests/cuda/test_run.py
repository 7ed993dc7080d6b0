"""The whole way to a GPU, with the test driver in the place of NVIDIA's."""

import gc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import athanor
from athanor.errors import RunError

from .emulation import log


def row_softmax(rows="n"):
    """softmax(x * weight) of float32[rows, 70]."""
    weight = onnx.numpy_helper.from_array(weights(), "weight")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "weight"], ["scaled"]),
            helper.make_node("Softmax", ["scaled"], ["y"], axis=-1),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [rows, 70])],
        [value("y", TensorProto.FLOAT, [rows, 70])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def weights():
    return np.linspace(-2, 2, 70, dtype=np.float32)


def softmax(x):
    grown = np.exp(x - x.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 70)).astype(np.float32)


def test_a_small_model_of_any_number_of_rows(driver):
    model = athanor.compile(row_softmax(), "cuda").load()
    for count in (5, 1, 300, 5):
        x = rows(count)
        (y,) = model.run({"x": x}).values()
        np.testing.assert_allclose(y, softmax(x * weights()), rtol=1e-5, atol=1e-7)


def test_sessions_share_weights_and_give_all_memory_back(driver):
    before = driver.fake_allocated()
    artifact = athanor.compile(row_softmax(), "cuda")
    model = artifact.load()
    other = model.new_session()
    assert log(driver).count("module") == 1
    x = rows(3)
    np.testing.assert_array_equal(*(m.run({"x": x})["y"] for m in (model, other)))
    model.close()
    other.run({"x": x})
    other.close()
    del model, other, artifact
    gc.collect()
    assert driver.fake_allocated() == before
    assert driver.fake_contexts() == 0


def test_a_model_of_fixed_shapes_takes_its_memory_at_once(driver):
    model = athanor.compile(row_softmax(4), "cuda").load()
    x = rows(4)
    model.run({"x": x})
    taken = driver.fake_allocated()
    model.run({"x": x})
    assert driver.fake_allocated() == taken


def test_launches_are_on_the_stream_that_copies_are_on(driver):
    model = athanor.compile(row_softmax(), "cuda").load()
    driver.fake_reset(90, 1)
    model.run({"x": rows(2)})
    lines = [line for line in log(driver) if " on " in line]
    assert lines[0].startswith("copy HD 560") and lines[-1].startswith("copy DH 560")
    assert len({line.split(" on ")[1] for line in lines}) == 1
    assert sum(line.startswith("launch") for line in lines) >= 2
    assert log(driver)[-1] == "wait"


def test_no_image_fits_an_old_device(driver):
    artifact = athanor.compile(row_softmax(), "cuda -arch=sm_90")
    driver.fake_reset(80, 1)
    with pytest.raises(
        RunError, match=r"capability 8\.0, and .* is for sm_90, compute_90: compile"
    ):
        artifact.load()


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        (b"cuMemAlloc_v2", 2, r"CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"),
        (b"cuModuleLoadData", 209, "loading the image for sm_90 failed: CUDA_ERROR_NO_BINARY"),
        (b"cuDevicePrimaryCtxRetain", 999, "starting the device failed"),
    ],
)
def test_what_the_driver_says_while_loading(driver, function, error, sentence):
    artifact = athanor.compile(row_softmax(), "cuda")
    before = driver.fake_allocated()
    driver.fake_fail(function, error)
    with pytest.raises(RunError, match=sentence):
        artifact.load()
    assert driver.fake_allocated() == before


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (b"cuLaunchKernel", r"running .* failed: k_\w+_kernel failed: CUDA_ERROR_ILLEGAL_ADDRESS"),
        (b"cuMemcpyAsync", "copying between host and device failed"),
        (b"cuStreamSynchronize", "running the model on the device failed: CUDA_ERROR_ILLEGAL_ADD"),
    ],
)
def test_what_the_driver_says_during_a_run(driver, function, sentence):
    model = athanor.compile(row_softmax(), "cuda").load()
    driver.fake_fail(function, 700)
    with pytest.raises(RunError, match=sentence):
        model.run({"x": rows(2)})
    driver.fake_fail(b"", 0)
    model.run({"x": rows(2)})


def test_a_model_for_the_cpu_never_looks_for_the_driver(driver):
    driver.fake_fail(b"cuInit", 999)
    x = rows(2)
    (y,) = athanor.compile(row_softmax()).load().run({"x": x}).values()
    np.testing.assert_allclose(y, softmax(x * weights()), rtol=1e-5, atol=1e-7)
    assert log(driver) == []


def test_the_metadata_tell_images_and_launches(driver):
    metadata = athanor.compile(row_softmax(), "cuda -arch=sm_90a,sm_80").metadata
    images = [image["architecture"] for image in metadata["device"]["images"]]
    assert images == ["sm_80", "sm_90a", "compute_90"]
    assert metadata["target"]["name"] == "cuda -arch=sm_90a,sm_80"
    for kernel in metadata["device"]["kernels"].values():
        assert kernel["launches"] and kernel["rule"].startswith("CUDA")
