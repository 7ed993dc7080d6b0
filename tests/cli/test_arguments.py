"""Texts of the command line: what they mean, and the sentence for those that mean nothing."""

from pathlib import Path

import pytest

from athanor.compiler.commands import arguments


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["x:1,3,224,224"], {"x": [1, 3, 224, 224]}),
        (["ids:batch,128", "mask:batch, 128"], {"ids": ["batch", 128], "mask": ["batch", 128]}),
        (["input:0:7"], {"input:0": [7]}),
        (["x:"], {"x": []}),
        (["x:0"], {"x": [0]}),
    ],
)
def test_shapes(texts, expected):
    assert arguments.shapes(texts) == expected


@pytest.mark.parametrize("text", ["x", ":1,2", "x:1,,2", "x:-1", "x:1.5", "x:a-b", "x:1,", "x:²"])
def test_shapes_that_can_not_be_read(text):
    with pytest.raises(arguments.ArgumentError, match=r"--shape .*: expected INPUT:DIM,DIM"):
        arguments.shapes([text])


def test_shape_given_twice():
    with pytest.raises(arguments.ArgumentError, match="shape of 'x' is given twice"):
        arguments.shapes(["x:1", "x:2"])


def test_dims():
    assert arguments.dims(["batch=4", "n=0"]) == {"batch": 4, "n": 0}


@pytest.mark.parametrize("text", ["batch", "=4", "batch=", "batch=x", "batch=-1"])
def test_dims_that_can_not_be_read(text):
    with pytest.raises(arguments.ArgumentError, match=r"--dim .*: expected NAME=SIZE"):
        arguments.dims([text])


def test_input_files():
    assert arguments.input_files(["x=a=b.npy"]) == {"x": Path("a=b.npy")}


@pytest.mark.parametrize("text", ["x", "x=", "=x.npy"])
def test_input_files_that_can_not_be_read(text):
    with pytest.raises(arguments.ArgumentError, match=r"--input .*: expected NAME=FILE"):
        arguments.input_files([text])
