"""ONNX's backend suite for a GPU, emulated: a small fixed part of what `update.py` runs.

What runs on the host alone is refused, which makes the list longer than the CPU's.
"""

import pytest

from .suite import expected_failures, fraction, outcome

EXPECTED = expected_failures("cuda")


@pytest.mark.parametrize("name", fraction(300))
def test_case(name):
    """As listed, or ok."""
    assert outcome(name, "cuda") == EXPECTED.get(name, "ok")


def test_what_the_cpu_refuses_is_refused_and_else_only_what_has_no_kernel():
    more = {case: text for case, text in EXPECTED.items() if case not in expected_failures("cpu")}
    assert set(expected_failures("cpu")) <= set(EXPECTED)
    assert all("no kernel of this model can run on a GPU" in text for text in more.values())
