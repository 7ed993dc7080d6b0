"""Results of bench/run.py as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OURS = "athanor"


def ratio(row: Mapping[str, Any]) -> float:
    """Our time over that of the fastest peer."""
    times = row["milliseconds"]
    return times[OURS] / min(ms for name, ms in times.items() if name != OURS)


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def markdown(results: Mapping[str, Any]) -> str:
    """The page: what was measured on, a summary, and a table for each kind of model."""
    rows, peers = results["rows"], results["peers"]
    machine, versions = results["machine"], results["versions"]
    written = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        "# Measured speed",
        "",
        f"Written by `{results['command']}` at commit {results['commit']}, on "
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}. {written}, "
        f"Python {results['python']}; target `{results['target']}`. {results['precision']}, "
        "batch 1 where nothing else is said, nothing tuned; medians of "
        f"{results['rounds']} interleaved rounds in one process. Core to core: how long a cache "
        "line took from one core to the other just before (core_distance.py): where it is far, "
        "the threads share no cache.",
        "",
        f"| kind | threads | models | geometric mean of {OURS} / best | worst |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind in _unique(rows, "kind"):
        for threads in _unique(rows, "threads"):
            ratios = [ratio(r) for r in rows if (r["kind"], r["threads"]) == (kind, threads)]
            if ratios:
                mean, worst = geometric_mean(ratios), max(ratios)
                line = f"| {kind} | {threads} | {len(ratios)} | {mean:.2f} | {worst:.2f} |"
                lines.append(line)
    for kind in _unique(rows, "kind"):
        lines += ["", f"## {kind.capitalize()}", "", *_table(rows, kind, peers)]
    if results["refused"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in results["refused"].items()]
    return "\n".join([*lines, ""])


def _table(rows: Sequence[Mapping[str, Any]], kind: str, peers: Sequence[str]) -> Iterable[str]:
    names = " | ".join(f"{name} ms" for name in (OURS, *peers))
    yield (
        f"| model | threads | {names} | {OURS} / best | speed-up of threads "
        "| core to core, ns | difference |"
    )
    yield "|---|--:|" + "--:|" * (len(peers) + 5)
    alone = {r["model"]: r["milliseconds"][OURS] for r in rows if r["threads"] == 1}
    for row in rows:
        if row["kind"] != kind:
            continue
        times = [row["milliseconds"].get(name) for name in (OURS, *peers)]
        figures = " | ".join("-" if ms is None else f"{ms:.3g}" for ms in times)
        ns = row.get("core_to_core_ns")
        distance = "" if ns is None else f"{ns:.0f}"
        faster = ""
        if row["threads"] > 1 and row["model"] in alone:
            faster = f"{alone[row['model']] / row['milliseconds'][OURS]:.2f}"
        yield (
            f"| {row['model']} | {row['threads']} | {figures} | {ratio(row):.2f} | {faster} | "
            f"{distance} | {row['difference']:.0e} |"
        )


def _unique(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
