"""What one does with databases: list, merge, prune, export, import, count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.errors import CompileError
from athanor.tuning.database import BEST, CHOICE, TRIAL, UNCONFIRMED, WORKLOAD, Database

Line = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What a database has of one kernel in one context."""

    workload: str
    label: str
    context: dict[str, Any]
    rule: str
    trials: int
    failed: int
    heuristic_secs: float | None
    best_secs: float | None
    decisions: dict[str, int]
    """Empty where the heuristic's are best, or nothing was compared yet."""


def entries(database: Database) -> list[Entry]:
    """One for each kernel and context, in the order of the file."""
    labels = {line["key"]: line["label"] for line in database.records(WORKLOAD)}
    trials: dict[tuple[str, str, str], list[Line]] = {}
    for line in database.records(TRIAL):
        trials.setdefault(_place(line), []).append(line)
    best = {_place(line): line for line in database.records(BEST)}
    found = []
    for place in dict.fromkeys([*trials, *best]):
        lines, result = trials.get(place, []), best.get(place)
        some = result or lines[0]
        found.append(
            Entry(
                some["workload"],
                labels.get(some["workload"], "?"),
                some["context"],
                some["rule"],
                len(lines),
                sum("error" in line for line in lines),
                result["heuristic_seconds"] if result else None,
                result["seconds"] if result else None,
                dict(zip(result["names"], result["values"], strict=True)) if result else {},
            )
        )
    return found


def merge(target: Database, sources: Iterable[Database]) -> int:
    """Append what `target` does not have; how many lines that were."""
    known = {_identity(line) for line in target.lines}
    count = 0
    for source in sources:
        for line in source.lines:
            if _identity(line) not in known:
                known.add(_identity(line))
                target.append(line["kind"], **{k: v for k, v in line.items() if k != "kind"})
                count += 1
    return count


def prune(database: Database, keep_trials: bool, fits: Callable[[Line], bool]) -> int:
    """Leave out results that newer ones replace, what does not fit, and trials unless kept.

    Under what waits for a comparison of the whole model, what holds without it is kept.

    Returns how many lines that were. No job may write meanwhile.
    """
    results = [line for line in _results(database) if fits(line)]
    held = {_place(line): line for line in results if not line.get(UNCONFIRMED)}
    newest = {_place(line): line for line in results}
    used = {id(line) for line in newest.values()}
    used |= {id(held[p]) for p, line in newest.items() if line.get(UNCONFIRMED) and p in held}
    kept: dict[str, Line] = {}
    for line in database.lines:
        if line["kind"] == WORKLOAD:
            continue
        if not fits(line):
            continue
        if line["kind"] in (BEST, CHOICE) and id(line) not in used:
            continue
        if line["kind"] == TRIAL and not keep_trials:
            continue
        kept.setdefault(_identity(line), line)
    keys = {line["workload"] for line in kept.values() if line["kind"] != CHOICE}
    workloads = {line["key"]: line for line in database.records(WORKLOAD) if line["key"] in keys}
    lines = [*workloads.values(), *kept.values()]
    removed = len(database.lines) - len(lines)
    if removed:
        database.rewrite(lines)
    return removed


def export(database: Database, path: Path) -> int:
    """Write the best of each kernel and context to one file, to be shipped; how many."""
    best = {_place(line): line for line in _results(database)}
    used = {line["workload"] for line in best.values() if line["kind"] == BEST}
    workloads = {line["key"]: line for line in database.records(WORKLOAD) if line["key"] in used}
    lines = [*workloads.values(), *best.values()]
    try:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise CompileError(f"can't write {path}: {error.strerror or error}") from error
    return len(best)


def statistics(database: Database) -> dict[str, Any]:
    """Counts of everything."""
    kinds = Counter(line["kind"] for line in database.lines)
    errors = Counter(line["error"][0] for line in database.records(TRIAL) if "error" in line)
    found = entries(database)
    return {
        "bytes": database.path.stat().st_size if database.path.exists() else 0,
        "workloads": kinds[WORKLOAD],
        "trials": kinds[TRIAL],
        "failed": dict(errors),
        "compared": sum(entry.best_secs is not None for entry in found),
        "faster": sum(bool(entry.decisions) for entry in found),
        "targets": dict(Counter(entry.context["target"] for entry in found)),
        "processors": dict(Counter(entry.context["cpu"] for entry in found)),
        "threads": dict(Counter(str(entry.context["threads"]) for entry in found)),
        "tvm": dict(Counter(entry.context["tvm"] for entry in found)),
    }


def _results(database: Database) -> list[Line]:
    """What compiling uses, in order."""
    return [line for line in database.lines if line["kind"] in (BEST, CHOICE)]


def _place(line: Line) -> tuple[str, str, str]:
    context = {key: value for key, value in line["context"].items() if key != "athanor"}
    key, rule = (line["key"], "") if line["kind"] == CHOICE else (line["workload"], line["rule"])
    return key, json.dumps(context, sort_keys=True), rule


def _identity(line: Line) -> str:
    if line["kind"] == WORKLOAD:
        return f"{WORKLOAD} {line['key']}"
    return json.dumps(line, sort_keys=True)
