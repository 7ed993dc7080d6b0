"""What a measuring program prints: a head, then one line of JSON a candidate, in order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from athanor.tuning.measure import CRASH, DEVICE_LOST, TIMEOUT, WRONG_RESULT, Failure, Measurement

_VERSION = 1


class ResultsError(Exception):
    """These are not the results that were asked for; the message says what they are."""


@dataclass(frozen=True)
class Head:
    """The first line: what was measured, and where."""

    bundle: str
    threads: int
    cores: int
    cpu: str
    """The processor's name."""
    machine: str
    """Its family: x86_64."""


def read_head(line: str) -> Head:
    """Raises ResultsError where it is none, or of another version."""
    try:
        fields = json.loads(line)
        version = fields.pop("athanor_measure")
        if version != _VERSION:
            raise ResultsError(f"these results have version {version}, expected {_VERSION}")
        return Head(**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultsError(
            f"expected the results of a measuring program, got {line[:80]!r}"
        ) from None


def read_measurements(lines: Iterable[str]) -> Iterator[Measurement]:
    """One for each whole line; stops before a line that was cut off. Raises ResultsError."""
    for number, line in enumerate(lines):
        if not line.endswith("\n"):
            return
        try:
            fields = json.loads(line)
            if fields["candidate"] != number:
                raise ResultsError(f"expected the line of candidate {number}, got {line[:80]!r}")
            yield _measurement(fields)
        except (ValueError, KeyError, TypeError):
            raise ResultsError(f"expected the line of a candidate, got {line[:80]!r}") from None


def _measurement(fields: dict[str, Any]) -> Measurement:
    if "error" not in fields:
        return Measurement(tuple(map(float, fields["seconds"])))
    if fields["error"] not in (CRASH, TIMEOUT, WRONG_RESULT, DEVICE_LOST):
        raise KeyError(fields["error"])
    return Measurement((), Failure(fields["error"], fields["sentence"]))
