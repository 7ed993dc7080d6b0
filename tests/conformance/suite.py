"""The cases of ONNX's backend suite, and what becomes of each."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx.backend.test.runner import Runner

from .backend import AthanorBackend, Refused

LISTS = {
    "cpu": Path(__file__).with_name("expected_failures.txt"),
    "cuda": Path(__file__).with_name("expected_failures_cuda.txt"),
}
"""What does not pass by device; a GPU is emulated."""

_DRAWN = ("", "_double", "_seed")
_DROPPED = ("", "_mask", "_default", "_default_mask")
RANDOM = {
    **{f"test_bernoulli{form}": {"atol": 1.0} for form in _DRAWN},
    **{f"test_bernoulli{form}_expanded": {"atol": 1.0} for form in _DRAWN},
    **{f"test_training_dropout{form}": {"atol": 100.0} for form in _DROPPED},
}
"""Cases whose results are drawn by NumPy's generator, and a tolerance that any draw is in: shapes
and types are compared. Distributions are tested in tests/frontends/test_random.py."""

INEXACT = {
    # zeros come out as 2e-7 in the reference, as 3e-15 here
    "test_dft_inverse_opset19": {"atol": 5e-7},
    # the reference rounds every step to 11 bits; 2 of 192 elements differ by two last places
    "test_attention_4d_causal_fp16": {"rtol": 2e-3},
    "test_attention_4d_causal_fp16_expanded": {"rtol": 2e-3},
}
"""Cases whose expected results are less exact than their tolerance, and one that fits."""


class SuiteRunner(Runner):
    """ONNX's runner without the models that it would download."""

    def _add_model_test(self, model_test: Any, kind: str) -> None:
        if kind != "Real":
            super()._add_model_test(model_test, kind)

    @classmethod
    def assert_similar_outputs(
        cls,
        ref_outputs: Sequence[Any],
        outputs: Sequence[Any],
        rtol: float,
        atol: float,
        model_dir: str | None = None,
    ) -> None:
        """As ONNX's, which takes a tensor in a sequence for a sequence itself."""
        theirs, ours = _leaves(ref_outputs), _leaves(outputs)
        assert [place for place, _ in ours] == [place for place, _ in theirs], "other sequences"
        pairs = [(a, b) for (_, a), (_, b) in zip(theirs, ours, strict=True)]
        assert all((a is None) == (b is None) for a, b in pairs), "an optional has another state"
        present = [(np.asarray(a), np.asarray(b)) for a, b in pairs if a is not None]
        super().assert_similar_outputs(
            [a for a, _ in present], [b for _, b in present], rtol, atol, model_dir
        )


def _leaves(values: Sequence[Any], place: tuple[int, ...] = ()) -> list[tuple[Any, Any]]:
    """The tensors and Nones in nested lists, each with its place; an empty list is a leaf too."""
    found: list[tuple[Any, Any]] = []
    for index, value in enumerate(values):
        here = (*place, index)
        if isinstance(value, (list, tuple)):
            found += _leaves(value, here) or [((*here, "empty"), None)]
        else:
            found.append((here, value))
    return found


@cache
def cases(device: str = "cpu") -> dict[str, Callable[[], None]]:
    """All cases by name; calling one raises what is wrong with it. device: a key of LISTS."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        runner = SuiteRunner(AthanorBackend, __name__, RANDOM | INEXACT)
        classes = runner.test_cases.values()
    found = {}
    for cls in classes:
        for method in dir(cls):
            if method.startswith("test_") and method.endswith(f"_{device}"):
                found[method.removesuffix(f"_{device}")] = getattr(cls(method), method)
    return found


def fraction(divisor: int) -> list[str]:
    """A fixed part of the cases, one in `divisor`."""
    return [name for name in cases() if zlib.crc32(name.encode()) % divisor == 0]


def outcome(name: str, device: str = "cpu") -> str:
    """ "ok", or what went wrong: "refused: ...", "wrong: ...", "error: ...", "crash: ..."."""
    try:
        cases(device)[name]()
    except Refused as error:
        return f"refused: {_line(error)}"
    except RuntimeError as error:
        return _line(error)
    except AssertionError as error:
        return f"wrong: {_line(error)}"
    except Exception as error:
        return f"error: {type(error).__name__}: {_line(error)}"
    return "ok"


def _line(error: Exception) -> str:
    """One line, without the names of nodes and values, which only repeat the case's."""
    return re.sub(r" '\S*'", "", " ".join(str(error).split()))[:200]


@contextmanager
def outcomes(
    names: Iterable[str], jobs: int = 2, device: str = "cpu"
) -> Iterator[dict[str, Future[str]]]:
    """The outcome of each case to come; a worker process for each of `jobs` threads."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield {name: pool.submit(outcome, name, device) for name in names}
    finally:
        pool.shutdown(cancel_futures=True)


def expected_failures(device: str = "cpu") -> dict[str, str]:
    """The committed list: case -> outcome."""
    lines = LISTS[device].read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines if line and not line.startswith("#"))
