"""Differences of two results, at the edges."""

import numpy as np
import pytest

from athanor.compiler.commands.compare import compare, named_arrays


def f32(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("actual", "expected", "absolute", "relative"),
    [
        (f32(1, 2), f32(1, 2), 0, 0),
        (f32(1, 2.5), f32(1, 2), 0.5, 0.25),
        (f32(0.5, 0), f32(0, 0), 0.5, 0.5),
        (f32(np.nan, 1), f32(np.nan, 1), 0, 0),
        (f32(np.nan, 1), f32(0, 1), np.inf, np.inf),
        (f32(1, 1), f32(np.nan, 1), np.inf, np.inf),
        (f32(np.inf, 1), f32(np.inf, 1), 0, 0),
        (f32(np.inf, 1), f32(-np.inf, 1), np.inf, np.inf),
        (f32(3e38, 1), f32(np.inf, 1), np.inf, np.inf),
        (f32(1, 1), f32(1), np.inf, np.inf),
        (f32(1), np.array([1.0]), np.inf, np.inf),
        (f32(), f32(), 0, 0),
        (np.uint8([1]), np.uint8([3]), 2, 2 / 3),
        (np.bool_([True]), np.bool_([False]), 1, 1),
        (np.float32(2), np.float32(4), 2, 0.5),
    ],
)
def test_difference(actual, expected, absolute, relative):
    row = compare("y", np.asarray(actual), np.asarray(expected))
    assert row.absolute == absolute
    assert row.relative == pytest.approx(relative)


def test_arg_max():
    row = compare("y", np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[::-1])
    assert (row.rows, row.rows_agreeing) == (3, 1)
    assert compare("y", np.ones((3, 1)), np.ones((3, 1))).rows == 0
    assert compare("y", np.ones((0, 4)), np.ones((0, 4))).rows == 0


def test_arrays_of_sequences_are_numbered():
    x = np.zeros(2)
    arrays = named_arrays({"s": [x, x], "none": None, "y": x, "empty": []})
    assert list(arrays) == ["s[0]", "s[1]", "y"]


def test_strings_are_the_same_or_not():
    words, others = np.array(["a", "b"], object), np.array(["a", "c"], object)
    assert compare("words", words, words.copy()).relative == 0
    assert compare("words", words, others).relative == np.inf
