"""Calls like the one before go through C: the same results, errors and ownership."""

import gc
import sys
import threading

import numpy as np
import onnx
import pytest

import athanor
from athanor.runtime.fast_call import FastCall

pytestmark = pytest.mark.skipif(FastCall is None, reason="the extension was not built")


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """y = x + x of any shape (n, 3), and z = x[0] as a scalar of it."""
    path = tmp_path_factory.mktemp("twice") / "twice.so"
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]>
        g (float[n, 3] x) => (float[n, 3] y, float z)
        <int64[1] zero = {0}> {
          y = Add (x, x)
          r = ReduceSum <keepdims = 0> (x)
          z = Identity (r)
        }""")
    athanor.compile(model).save(path)
    return path


@pytest.fixture
def model(twice):
    with athanor.load(twice, threads=1) as opened:
        yield opened


def made_fast(model, x):
    for _ in range(2):
        model.run({"x": x})
    assert model._fast is not None
    return model


def right(results, x):
    assert list(results) == ["y", "z"]
    np.testing.assert_array_equal(results["y"], 2 * x)
    assert results["y"].dtype == np.float32
    assert results["z"].shape == ()
    np.testing.assert_allclose(results["z"], x.sum(), rtol=1e-6)


def test_results(model):
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.random((7, 3), np.float32)
        right(model.run({"x": x}), x)
        y, z = model(x)
        right({"y": y, "z": z}, x)


def test_memory_is_used_again_once_nobody_has_it(model):
    x = np.ones((1000, 3), np.float32)
    made_fast(model, x)
    first = model.run({"x": x})["y"]
    address = first.ctypes.data
    kept = first[::7][1:]  # a view of a view
    del first
    others = [model.run({"x": x * (i + 2)})["y"] for i in range(6)]
    np.testing.assert_array_equal(kept, 2)
    for i, other in enumerate(others):
        np.testing.assert_array_equal(other, 2 * (i + 2))
    assert len({address, *(other.ctypes.data for other in others)}) == 7
    del kept, other, others
    gc.collect()
    seen = {model.run({"x": x})["y"].ctypes.data for _ in range(10)}
    assert len(seen) <= 2


def test_results_outlive_the_model(twice):
    x = np.ones((1000, 3), np.float32)
    with athanor.load(twice) as model:
        result = made_fast(model, x).run({"x": x})["y"]
    del model
    gc.collect()
    np.testing.assert_array_equal(result, 2)


def test_inputs_are_not_kept(model):
    x = np.ones((4, 3), np.float32)
    made_fast(model, x)
    feeds = {"x": x}
    before = sys.getrefcount(x)
    for _ in range(100):
        model.run(feeds)
    assert sys.getrefcount(x) == before


def test_other_shapes(model):
    for rows in (4, 4, 4, 5, 4, 4, 0, 0, 0, 4, 4, 4):
        if rows:
            x = np.full((rows, 3), rows, np.float32)
            right(model.run({"x": x}), x)
        else:
            with pytest.raises(athanor.RunError, match="'n' is 0"):
                model.run({"x": np.zeros((0, 3), np.float32)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.ones((4, 3))}, "has type float64, expected float32"),
        ({"x": np.ones((4, 3), ">f4")}, "has type >f4"),
        ({"x": np.ones((4, 4), np.float32)}, "'x'"),
        ({"x": np.ones(3, np.float32)}, "'x'"),
        ({"x": [[1.0, 2.0, 3.0]]}, "of class list"),
        ({}, "missing 'x'"),
        ({"y": np.ones((4, 3), np.float32)}, "missing 'x'; unknown 'y'"),
        ({"x": np.ones((4, 3), np.float32), "y": 1}, "unknown 'y'"),
    ],
    ids=str,
)
def test_errors_are_those_of_the_first_call(twice, model, inputs, message):
    with athanor.load(twice) as new, pytest.raises(athanor.RunError) as first:
        new.run(inputs)
    made_fast(model, np.ones((4, 3), np.float32))
    with pytest.raises(athanor.RunError, match=message) as fast:
        model.run(inputs)
    assert str(fast.value) == str(first.value)


def test_arrays_of_other_kinds(model):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    made_fast(model, np.ones((4, 3), np.float32))
    frozen = x[:, :3].copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"_" + x[:, :3].tobytes(), np.uint8)[1:].view(np.float32)
    for value in (x[:, :3], x[:, ::2], np.asfortranarray(x[:, :3]), frozen):
        right(model.run({"x": value}), value)
    right(model.run({"x": unaligned.reshape(4, 3)}), x[:, :3])


def test_closed(model):
    x = np.ones((4, 3), np.float32)
    fast = made_fast(model, x)._fast
    model.close()
    assert fast.run({"x": x}) is None
    with pytest.raises(athanor.RunError, match="closed"):
        model.run({"x": x})


def test_threads_share_a_model(model):
    """Runs wait for each other; a close in between is an error in the others, no crash."""
    faults = []

    def work(number):
        x = np.full((200, 3), number, np.float32)
        try:
            for _ in range(300):
                np.testing.assert_array_equal(model.run({"x": x})["y"], 2 * x)
        except athanor.RunError as error:
            assert "closed" in str(error)
        except AssertionError as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    threads[0].join()
    model.close()
    for thread in threads:
        thread.join()
    assert not faults


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int64", "bool"])
def test_types(dtype):
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])],
        "g",
        [value("x", kind, [2, 3])],
        [value("y", kind, [3, 2])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = athanor.compile(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)).load(
        threads=1
    )
    x = np.array([[1, 0, 3], [0, 5, 6]]).astype(dtype)
    for _ in range(4):
        y = model.run({"x": x})["y"]
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, x.T)
    assert model._fast is not None


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), (0, 0, (1,), (), b"", 0, 0, 0, 0)])
def test_made_wrongly(arguments):
    with pytest.raises((TypeError, ValueError)):
        FastCall(*arguments)
