"""Sequences and optionals, the whole way, against the onnx reference."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import athanor
from athanor.errors import CompileError, RunError

from .execute import floats, same
from .test_control_flow import model_of


def check(model, *runs):
    compiled = athanor.compile(model).load(threads=1)
    for feeds in runs:
        expected = ReferenceEvaluator(model).run(None, feeds)
        for ours, theirs in zip(compiled.run(feeds).values(), expected, strict=True):
            same(ours, np.asarray(theirs))


def test_construct_insert_erase_concat():
    model = model_of(
        """g (float[2, 3] x, float[1, 3] y) 
        => (float[n, 3] z, int64 l, float[3, 2] w, float[1, 3] a)
        {
          s = SequenceConstruct(x, y)
          t = SequenceInsert(s, x, minus)
          u = SequenceErase(t, zero)
          v = SequenceInsert(u, y)
          z = ConcatFromSequence <axis = 0> (v)
          l = SequenceLength(v)
          a = SequenceAt(v, minus)
          e = SequenceErase(v)
          parts = SplitToSequence <axis = 1, keepdims = 0> (x)
          w = ConcatFromSequence <axis = 0, new_axis = 1> (parts)
        }""",
        zero=np.array(0),
        minus=np.array(-1),
    )
    check(model, {"x": floats(2, 3), "y": floats(1, 3, seed=1)})


@pytest.mark.parametrize("split", [np.array(2), np.array([1, 4, 2]), np.array(7)])
def test_split(split):
    model = model_of(
        """g (float[7, 2] x) => (float[k, 2] y, int64 l) {
          s = SplitToSequence <axis = 0> (x, split)
          l = SequenceLength(s)
          y = SequenceAt(s, zero)
        }""",
        zero=np.array(0),
        split=split,
    )
    check(model, {"x": floats(7, 2)})


def test_positions_of_the_run():
    model = model_of(
        """g (float[3] x, float[3] y, float[3] z, int64 i, int64 j, int64 k)
          => (float[3] a, float[9] b, float[6] c) {
          s = SequenceConstruct(x, y)
          a = SequenceAt(s, i)
          t = SequenceInsert(s, z, j)
          b = ConcatFromSequence <axis = 0> (t)
          u = SequenceErase(t, k)
          c = ConcatFromSequence <axis = 0> (u)
        }"""
    )
    x, y, z = (floats(3, seed=seed) for seed in range(3))
    compiled = athanor.compile(model).load(threads=1)
    for i, j, k in [(0, 0, 0), (1, 1, 1), (-1, 2, 2), (-2, -1, -1), (0, -2, -3)]:
        positions = {"i": np.array(i), "j": np.array(j), "k": np.array(k)}
        results = compiled.run({"x": x, "y": y, "z": z, **positions})
        same(results["a"], [x, y][i])
        longer = [x, y]
        longer.insert(j, z)
        same(results["b"], np.concatenate(longer))
        del longer[k]
        same(results["c"], np.concatenate(longer))
    for wrong in ({"i": 2}, {"i": -3}, {"j": 3}, {"j": -3}, {"k": 3}, {"k": -4}):
        positions = {name: np.array(wrong.get(name, 0)) for name in "ijk"}
        with pytest.raises(RunError, match="a position outside of a sequence of length"):
            compiled.run({"x": x, "y": y, "z": z, **positions})


def test_optional():
    model = model_of(
        """g (float[3] x) => (float[3] y, bool full, bool none) {
          o = Optional(x)
          full = OptionalHasElement(o)
          none = OptionalHasElement()
          h = OptionalGetElement(o)
          y = Neg(h)
        }"""
    )
    results = athanor.compile(model).load(threads=1).run({"x": floats(3)})
    same(results["y"], -floats(3))
    assert (results["full"], results["none"]) == (True, False)


def test_a_sequence_as_an_output():
    model = model_of(
        """g (float[3] x, float[n, 2] y) => (seq(float[]) s, seq(int64[]) e, optional(float[]) o) {
          s = SequenceConstruct(x, y, x)
          e = SequenceEmpty <dtype = 7> ()
          o = Optional <type = float> ()
        }"""
    )
    x, y = floats(3), floats(4, 2)
    results = athanor.compile(model).load(threads=1).run({"x": x, "y": y})
    for ours, theirs in zip(results["s"], [x, y, x], strict=True):
        same(ours, theirs)
    assert results["e"] == []
    assert results["o"] is None


def test_a_position_past_the_end_is_refused():
    model = model_of(
        "g (float[3] x) => (float[3] y) {s = SequenceConstruct(x, x) y = SequenceAt(s, two)}",
        two=np.array(2),
    )
    with pytest.raises(CompileError, match="position 2 of a sequence of length 2"):
        athanor.compile(model)
