"""Running a model on arrays."""

import gc
import subprocess
import sys
import threading

import artifacts
import numpy as np
import pytest

import athanor
from athanor import RunError
from athanor.runtime.model import TensorSpec


def test_inputs_and_outputs_are_described(model):
    f32, i32 = np.dtype(np.float32), np.dtype(np.int32)
    assert model.inputs == (
        TensorSpec("x", f32, ("batch", 4)),
        TensorSpec("again", f32, ("batch", 4)),
        TensorSpec("command", i32, (1,)),
    )
    assert [spec.name for spec in model.outputs] == ["sum", "rows", "positive", "tasks", "scaled"]
    assert model.outputs[0].shape == ("batch", 4)
    assert model.outputs[2].shape == (None,)
    assert model.metadata == artifacts.METADATA


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_results(artifact, threads):
    with athanor.load(artifact, threads=threads) as model:
        for batch in (1, 3, 0, 64, 1, 1000):
            inputs = artifacts.feed(batch, seed=batch)
            results = model.run(inputs)
            artifacts.check(results, inputs)
            assert list(results) == [spec.name for spec in model.outputs]
            if threads:
                assert results["tasks"].tolist() == [threads, 1]


def test_call_takes_inputs_in_order(model):
    inputs = artifacts.feed(2)
    results = model(*inputs.values())
    assert isinstance(results, tuple)
    artifacts.check(dict(zip([spec.name for spec in model.outputs], results, strict=True)), inputs)
    with pytest.raises(RunError, match="1 inputs given, expected 3: x, again, command"):
        model(inputs["x"])


def test_results_belong_to_the_caller(model):
    first = model.run(artifacts.feed(3, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    model.run(artifacts.feed(3, seed=2))
    model.close()
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        array[...] = 0  # writable


def test_inputs_are_read_in_place_or_copied(model):
    inputs = artifacts.feed(6)
    x = inputs["x"]
    read_only = x.copy()
    read_only.flags.writeable = False
    misaligned = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not misaligned.flags.aligned
    for form in (np.asfortranarray(x), np.repeat(x, 2, 0)[::2], x[::-1].copy()[::-1], read_only,
                 misaligned, x.view(np.ma.MaskedArray)):  # fmt: skip
        artifacts.check(model.run({**inputs, "x": form}), inputs)


class OnlyDLPack:
    """An array of another framework."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_goes_in(model):
    inputs = artifacts.feed(5)
    artifacts.check(model.run({k: OnlyDLPack(v) for k, v in inputs.items()}), inputs)
    with pytest.raises(RunError, match="input 'x' has type float64, expected float32"):
        model.run({**inputs, "x": OnlyDLPack(inputs["x"].astype(np.float64))})


def test_dlpack_that_fails_names_the_input(model):
    class Elsewhere(OnlyDLPack):
        def __dlpack__(self, **options):
            raise BufferError("the tensor is on another device")

    inputs = artifacts.feed(5)
    with pytest.raises(RunError, match="input 'x' can't be read through DLPack: the tensor is on"):
        model.run({**inputs, "x": Elsewhere(inputs["x"])})


X = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": X.astype(np.float64)}, "input 'x' has type float64, expected float32"),
        ({"x": X.astype(">f4")}, "input 'x' has type >f4, expected float32"),
        ({"x": X.astype(np.int32)}, "input 'x' has type int32, expected float32"),
        ({"x": X.astype("S4")}, r"input 'x' has type \|S4, expected float32"),
        ({"x": X.tolist()}, "input 'x' is of class list, expected an array of float32"),
        ({"x": None}, "input 'x' is of class NoneType, expected an array of float32"),
        ({"x": 1.0}, "input 'x' is of class float, expected an array of float32"),
        ({"x": np.float32(1)}, r"input 'x' has shape \(\), expected \(batch, 4\)"),
        ({"x": X[0]}, r"input 'x' has shape \(4,\), expected \(batch, 4\)"),
        ({"x": X[None]}, r"input 'x' has shape \(1, 2, 4\), expected \(batch, 4\)"),
        ({"x": X[:, :3]}, r"input 'x' has shape \(2, 3\), expected \(batch, 4\)"),
        ({"x": X[:, :0]}, r"input 'x' has shape \(2, 0\), expected \(batch, 4\)"),
        ({"command": np.zeros(2, np.int32)}, r"input 'command' has shape \(2,\), expected \(1,\)"),
        (
            {"again": np.zeros((3, 4), np.float32)},
            r"'again' has shape \(3, 4\), expected \(batch, 4\) with batch = 2 as in input 'x'",
        ),
    ],
)
def test_wrong_inputs(model, change, sentence):
    inputs = {"x": X, "again": X, "command": np.zeros(1, np.int32)}
    before = model.run(inputs)
    with pytest.raises(RunError, match=sentence):
        model.run({**inputs, **change})
    np.testing.assert_array_equal(model.run(inputs)["sum"], before["sum"])


def test_missing_and_unknown_inputs(model):
    inputs = artifacts.feed(2)
    x = inputs.pop("x")
    sentence = "inputs don't fit: missing 'x'; expected 'x', 'again', 'command'"
    with pytest.raises(RunError, match=sentence):
        model.run(inputs)
    with pytest.raises(RunError, match="missing 'x'; unknown 'y'; expected 'x'"):
        model.run({**inputs, "y": x})
    with pytest.raises(RunError, match="don't fit: unknown 'y', 'z'; expected 'x'"):
        model.run({**inputs, "x": x, "y": x, "z": x})


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (1, r"running .*m\.so failed: division by zero in node 'layer1/div'"),
        (2, r"running .*m\.so failed: a kernel returned -1"),
        (3, r"running .*m\.so failed: the last task failed"),
        (4, r"running .*m\.so did not make output 'positive'"),
        (5, r"failed: a kernel freed scratch memory out of order"),
    ],
)
def test_errors_of_kernels(artifact, threads, command, sentence):
    with athanor.load(artifact, threads=threads) as model:
        with pytest.raises(RunError, match=sentence):
            model.run(artifacts.feed(2, command))
        inputs = artifacts.feed(2)
        artifacts.check(model.run(inputs), inputs)


def test_a_closed_model_raises(artifact):
    model = athanor.load(artifact, threads=1)
    other = model.new_session()
    model.close()
    model.close()
    for method, arguments in ((model.run, [artifacts.feed(1)]), (model.new_session, [])):
        with pytest.raises(RunError, match="the model is closed"):
            method(*arguments)
    with pytest.raises(RunError, match="the model is closed"):
        _ = model.metadata
    inputs = artifacts.feed(2)
    artifacts.check(other.run(inputs), inputs)  # has what it needs of the file
    del model, method
    gc.collect()
    artifacts.check(other.run(inputs), inputs)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", 5000])
def test_wrong_thread_counts(artifact, threads):
    with pytest.raises(RunError, match="threads is"):
        athanor.load(artifact, threads=threads)


def test_sessions_run_at_the_same_time(artifact):
    """Sessions of one model, another model, and one session that two threads share."""
    first = athanor.load(artifact, threads=2)
    second = first.new_session()
    third = athanor.load(artifact, threads=3)
    failures = []

    def work(model, seed):
        try:
            for i in range(200):
                inputs = artifacts.feed(1 + (seed + i) % 40, seed=seed + i)
                artifacts.check(model.run(inputs), inputs)
        except AssertionError as error:
            failures.append(error)

    models = [first, second, third, third]
    threads = [threading.Thread(target=work, args=(m, 100 * i)) for i, m in enumerate(models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


POOL = """
import sys, time; sys.path.insert(0, {folder!r})
import artifacts, athanor
from pathlib import Path

def workers():
    names = [p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")]
    return names.count("athanor")

assert workers() == 0
one = athanor.load({path!r}, threads=1)
one.run(artifacts.feed(3))
assert workers() == 0
two, five, four = (athanor.load({path!r}, threads=n) for n in (2, 5, 4))
assert workers() == 4, workers()          # of the largest, shared
for model in (two, five, four):
    model.run(artifacts.feed(3))
assert workers() == 4
time.sleep(0.05)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.1  # idle workers sleep
two.close(), five.close()
assert workers() == 4
four.close()
assert workers() == 0                     # nobody needs them
"""


def test_one_pool_serves_all_models_and_one_thread_needs_none(artifact):
    program = POOL.format(folder=str(artifacts.HERE), path=str(artifact))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
