"""A failure that is none of the model's is a CompilerDefect with its cause, from everywhere."""

import onnx
import pytest

import athanor
from athanor.compiler import driver

MODEL = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 18]>
    g (float[2] x) => (float[2] y) { y = Neg(x) }""")


def test_a_defect(monkeypatch):
    def fail(*_):
        raise IndexError("Index 3 out of bounds 3\nStack trace: many lines")

    monkeypatch.setattr(driver, "plan_memory", fail)
    with pytest.raises(athanor.CompilerDefect) as caught:
        athanor.compile(MODEL)
    assert isinstance(caught.value.__cause__, IndexError)
    assert str(caught.value) == (
        f"athanor {athanor.__version__} has a defect that this model shows; please report it with "
        "the model: IndexError: Index 3 out of bounds 3"
    )


def test_an_interruption_is_none(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "plan_memory", interrupt)
    with pytest.raises(KeyboardInterrupt):
        athanor.compile(MODEL)


def test_an_interrupt_inside_a_pass_is_no_defect(monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("athanor.compiler.passes.fuse_attention._Rewriter.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        athanor.compile(MODEL, cache=False)
