"""ONNX's own backend suite: every case passes, or is refused as expected_failures.txt says.

A fixed third of the cases; all of them with ATHANOR_CONFORMANCE=all, as `make conformance` does.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from .suite import cases, expected_failures, fraction, outcomes

EXPECTED = expected_failures()
NAMES = list(cases()) if os.environ.get("ATHANOR_CONFORMANCE") == "all" else fraction(3)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """The outcomes of all cases that were asked for, as they come from two processes."""
    asked = [item.name for item in request.session.items if item.name.startswith("test_case[")]
    names = [name.removeprefix("test_case[").removesuffix("]") for name in asked]
    with outcomes(names) as futures:
        yield futures


@pytest.mark.parametrize("name", NAMES)
def test_case(name, results):
    """What is listed has to fail as it is listed, so that the list stays true."""
    assert results[name].result() == EXPECTED.get(name, "ok")


def test_the_list_names_cases_and_refusals_only():
    assert set(EXPECTED) <= set(cases())
    assert {outcome.split(":")[0] for outcome in EXPECTED.values()} <= {"refused"}


def test_nearly_all_of_the_suite_is_covered():
    assert len(cases()) == 2024
    assert len(EXPECTED) <= 2024 - 1880
