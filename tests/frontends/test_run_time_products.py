"""Products of two values of the run, the whole way; against ONNX Runtime."""

import pytest

from .artifact import compare_node
from .execute import floats


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 300), (300, 1024)),  # one row, lines of b 4 KiB apart
        ((7, 64), (64, 130)),
        ((16, 20), (20, 33)),
        ((3, 5, 20), (3, 20, 16)),
        ((2, 3, 1, 9), (2, 3, 9, 70)),
        ((4, 9), (9, 7)),  # columns that fill no vector
        ((1, 1), (1, 1)),
        ((0, 4), (4, 40)),
        ((3, 0), (0, 40)),
    ],
    ids=str,
)
def test_few_rows(a, b):
    compare_node("MatMul", [floats(*a), floats(*b, seed=1)], rtol=1e-4, atol=1e-4)
