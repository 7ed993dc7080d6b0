"""A run as a Chrome trace, for chrome://tracing and https://ui.perfetto.dev."""

from __future__ import annotations

from typing import Any

import numpy as np

from athanor.compiler.profiling.summary import Summary


def chrome_trace(summary: Summary) -> dict[str, Any]:
    """The run whose time is nearest to the median, as JSON of the Trace Event Format."""
    runs = summary.profile.runs
    lengths = np.array([run["end_ns"][0] - run["start_ns"][0] for run in runs]) / 1e6
    run = runs[int(np.abs(lengths - summary.profile.milliseconds).argmin())]
    rows = {row.step.number: row for row in summary.rows}
    begin = int(run["start_ns"][0])
    events = []
    for event in run:
        row = rows.get(int(event["step"]))
        entry: dict[str, Any] = {
            "name": "run" if row is None else row.step.kernel.removeprefix("k_"),
            "ph": "X",  # a complete event: its start and its length, in microseconds
            "ts": (int(event["start_ns"]) - begin) / 1e3,
            "dur": int(event["end_ns"] - event["start_ns"]) / 1e3,
            "pid": 1,
            "tid": 1,
        }
        if row is not None:
            entry["args"] = {
                "nodes": list(row.step.nodes),
                "value": row.step.value,
                "rule": row.rule,
                "operations": int(event["operations"]),
                "bytes": int(event["bytes"]),
            }
        events.append(entry)
    return {"traceEvents": events, "displayTimeUnit": "ms"}
