"""Sequences and optionals through Python and C, with an artifact made by hand."""

import subprocess

import artifacts
import numpy as np
import pytest

import athanor
from athanor.errors import RunError
from athanor.runtime.spec import TensorSpec

FLOAT = np.dtype("float32")


def value(name, kind, shape):
    return {"name": name, "kind": kind, "dtype": "float32", "shape": shape}


VALUES = [
    value("s", "sequence", None),
    value("o", "optional", [None]),
    value("p", "optional sequence", [None, 2]),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    elf = artifacts.compile_elf(folder, source=artifacts.HERE / "sequence.c")
    metadata = {"inputs": VALUES, "outputs": VALUES}
    return artifacts.write(elf, folder / "m.so", weights=(), metadata=metadata)


@pytest.fixture
def model(path):
    with athanor.load(path, threads=1) as opened:
        yield opened


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def check(ours, theirs):
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_array_equal(ours, theirs)


def test_specs_are_of_values(model):
    assert model.inputs == model.outputs
    assert model.inputs == (
        TensorSpec("s", FLOAT, None, "sequence"),
        TensorSpec("o", FLOAT, (None,), "optional"),
        TensorSpec("p", FLOAT, (None, 2), "optional sequence"),
    )


@pytest.mark.parametrize("s", [[], [numbers(2, 3, 1), numbers(), numbers(0, 5), numbers(4)]])
@pytest.mark.parametrize("o", [None, numbers(3), numbers(0)])
@pytest.mark.parametrize("p", [None, [], (numbers(1, 2), numbers(0, 2), numbers(3, 2))])
def test_values_come_back_as_they_were(model, s, o, p):
    results = model.run({"s": s, "o": o, "p": p})
    assert isinstance(results["s"], list)
    for ours, theirs in zip(results["s"], s, strict=True):
        check(ours, theirs)
    if o is None:
        assert results["o"] is None
    else:
        check(results["o"], o)
    if p is None:
        assert results["p"] is None
    else:
        for ours, theirs in zip(results["p"], p, strict=True):
            check(ours, theirs)


def test_a_view_is_copied(model):
    x = numbers(4, 3)
    results = model.run({"s": [x.T, x[::2]], "o": x[:, 1], "p": None})
    check(results["s"][0], x.T)
    check(results["s"][1], x[::2])
    check(results["o"], x[:, 1])


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("s", numbers(2), "input 's' is of class ndarray, expected a list of arrays of float32"),
        ("s", [numbers(1), [1.0]], r"input 's\[1\]' is of class list, expected an array"),
        ("s", [numbers(1, 1, 1, 1)], r"input 's\[0\]' has shape .*, expected at most 3 dim"),
        ("o", numbers(1, 1), r"input 'o' has shape \(1, 1\), expected \(any,\)"),
        ("o", np.zeros(2), "input 'o' has type float64, expected float32"),
        ("p", [numbers(2, 3)], r"input 'p\[0\]' has shape \(2, 3\), expected \(any, 2\)"),
    ],
)
def test_wrong_values(model, name, wrong, sentence):
    with pytest.raises(RunError, match=sentence):
        model.run({"s": [], "o": None, "p": None, name: wrong})


@pytest.fixture(scope="module")
def text_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    elf = artifacts.compile_elf(folder, source=artifacts.HERE / "text.c")
    return artifacts.write(elf, folder / "m.so", weights=())


def test_strings(text_path):
    with athanor.load(text_path, threads=1) as model:
        assert model.outputs[1] == TensorSpec("twice", np.dtype(object), ("n",))
        for x in (["a"], ["b", "日本", "c" * 1000], np.array(["U", "V"])):
            x = np.array(x, object)
            results = model.run({"x": x})
            np.testing.assert_array_equal(results["same"], x)
            np.testing.assert_array_equal(results["twice"], x + x)
        with pytest.raises(RunError, match="an empty string"):
            model.run({"x": np.array(["a", ""], object)})


def test_bytes_that_are_no_utf8_come_back(text_path):
    with athanor.load(text_path, threads=1) as model:
        (text,) = model.run({"x": np.array([b"\xff\x80"], object)})["same"]
        assert text.encode("utf-8", "surrogateescape") == b"\xff\x80"
        assert model.run({"x": np.array([text], object)})["same"][0] == text


@pytest.mark.parametrize("flags", [(), ("-fsanitize=address,undefined", "-fno-sanitize-recover")])
@pytest.mark.parametrize("name", ["sequence", "text"])
def test_from_c(name, flags, path, text_path, tmp_path):
    driver = tmp_path / "driver"
    sources = sorted((artifacts.RUNTIME / "src").glob("*.c"))
    artifacts.compile_c(
        "-std=c11", "-g", "-Wall", "-Wextra", "-Werror", f"-I{artifacts.RUNTIME / 'include'}",
        *flags, artifacts.HERE / f"{name}_driver.c", *sources, "-o", driver, "-lpthread", "-ldl",
        "-lm",
    )  # fmt: skip
    subprocess.run([driver, text_path if name == "text" else path], check=True)
