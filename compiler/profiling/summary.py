"""A profile beside the machine's limits, as plain data: what all reports are made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from athanor.compiler.profiling.limits import Limits
from athanor.runtime.profile import Profile, StepTime


@dataclass(frozen=True)
class Row:
    """One step of a model."""

    step: StepTime
    rule: str | None
    """The schedule rule of its kernel; None for a copy."""
    share: float
    """Of the run's time."""
    level: str | None
    """The cache that holds its working set, or `memory`; None where limits are not known."""
    of_limit: float | None
    """The time that the roofline allows over the time that it takes."""

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        step = self.step
        return {
            "step": step.number,
            "kernel": step.kernel,
            "rule": self.rule,
            "value": step.value,
            "nodes": list(step.nodes),
            "calls": step.calls,
            "milliseconds": step.milliseconds,
            "share": self.share,
            "operations": step.operations,
            "bytes": step.bytes,
            "gflops": step.gflops,
            "gigabytes_per_second": step.gigabytes_per_second,
            "level": self.level,
            "of_limit": self.of_limit,
        }


@dataclass(frozen=True)
class Summary:
    """A profile, its model's rules and the machine's limits."""

    profile: Profile
    rows: tuple[Row, ...]
    """In the order of the model."""
    limits: Limits | None

    def slowest_first(self) -> list[Row]:
        """The rows by time."""
        return sorted(self.rows, key=lambda row: -row.step.milliseconds)

    def by_rule(self) -> list[tuple[str, float, float | None]]:
        """Rule, milliseconds and share of the limit, the slowest first.

        The last entry is what the run took besides its steps.
        """
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row.rule or row.step.kernel].append(row)
        found = [(rule, _milliseconds(rows), _of_limit(rows)) for rule, rows in groups.items()]
        rest = ("between kernels", self.profile.between_ms, None)
        return [*sorted(found, key=lambda entry: -entry[1]), rest]

    @property
    def milliseconds(self) -> float:
        """Of the steps and what is between them; shares are parts of it.

        The median of whole runs is more where something else held up a part of most runs.
        """
        return _milliseconds(self.rows) + self.profile.between_ms

    @property
    def of_limit(self) -> float | None:
        """Of all steps together."""
        return _of_limit(self.rows)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        limits = self.limits
        return {
            "runs": len(self.profile.runs),
            "milliseconds": self.profile.milliseconds,
            "of_limit": self.of_limit,
            "limits": limits
            and {
                **({"device": limits.device} if limits.device else {"threads": limits.threads}),
                "gflops": limits.gflops,
                "gigabytes_per_second": {x.name: x.gigabytes_per_second for x in limits.levels},
            },
            "steps": [row.as_data() for row in self.rows],
        }


def summarize(profile: Profile, metadata: Mapping[str, Any], limits: Limits | None) -> Summary:
    """The summary of a profile; metadata: the artifact's."""
    rules = {entry["name"]: entry["rule"] for entry in metadata["kernels"]}
    on_device = metadata.get("device", {}).get("kernels", {})
    rules |= {name: entry["rule"] for name, entry in on_device.items()}
    total = sum(step.milliseconds for step in profile.steps) + profile.between_ms
    rows = tuple(_row(step, rules, total, limits) for step in profile.steps)
    return Summary(profile, rows, limits)


def _row(step: StepTime, rules: Mapping[str, str], total: float, limits: Limits | None) -> Row:
    level = of_limit = None
    if limits is not None and step.milliseconds:
        allowed = limits.milliseconds(step.operations, step.bytes, step.calls)
        of_limit = allowed / step.milliseconds
        level = limits.level(step.bytes / max(step.calls, 1)).name
    share = step.milliseconds / total if total else 0.0
    return Row(step, rules.get(step.kernel), share, level, of_limit)


def _milliseconds(rows: Iterable[Row]) -> float:
    return sum(row.step.milliseconds for row in rows)


def _of_limit(rows: Iterable[Row]) -> float | None:
    """Time allowed over time taken, of several steps."""
    known = [row for row in rows if row.of_limit is not None]
    taken = _milliseconds(known)
    if not taken:
        return None
    return sum(row.step.milliseconds * (row.of_limit or 0.0) for row in known) / taken
