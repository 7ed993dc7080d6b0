"""What profiled runs recorded: the times of a model's kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from athanor.runtime.library import Event, library

EVENT = np.dtype(Event)
"""One execution of a step: step (-1: the whole run), start_ns, end_ns, operations, bytes."""


class StepTime(NamedTuple):
    """One step of the model, a kernel call or a copy, over all runs of a profile."""

    number: int
    kernel: str
    """Name of the kernel; `copy` for a copy."""
    value: str
    """Name of the graph's value that it computes; of a fused kernel, the last."""
    nodes: tuple[str, ...]
    """The model's nodes that it computes, operator and name; empty where that got lost."""
    calls: float
    """How often it runs in one run of the model: in a loop several times, in a branch not always;
    a mean."""
    milliseconds: float
    """Of all its calls in one run; the median over the runs."""
    operations: int
    """Arithmetic operations of all its calls in one run; a multiply-add is two."""
    bytes: int
    """Distinct memory that one call reads and writes, times the calls."""

    @property
    def gflops(self) -> float:
        """Operations in units of 1e9 a second."""
        return self.operations / self.milliseconds / 1e6 if self.milliseconds else 0.0

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes in units of 1e9 a second."""
        return self.bytes / self.milliseconds / 1e6 if self.milliseconds else 0.0


class Profile:
    """Times of a model's steps over several runs."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], runs: Sequence[np.ndarray]) -> None:
        self.runs: tuple[np.ndarray, ...] = tuple(runs)
        """The events of each run, of dtype EVENT; the first is the whole run."""
        totals = [float(run["end_ns"][0] - run["start_ns"][0]) / 1e6 for run in runs]
        self.milliseconds: float = float(np.median(totals))
        """Of one run; the median."""
        self.steps: tuple[StepTime, ...] = self._steps(steps)
        """In the order of the model; those that never ran are left out."""
        rests = [
            total - float((run["end_ns"][1:] - run["start_ns"][1:]).sum()) / 1e6
            for total, run in zip(totals, runs, strict=True)
        ]
        self.between_ms: float = float(np.median(rests))
        """What a run takes besides its steps; the median."""

    def _steps(self, steps: Sequence[Mapping[str, Any]]) -> tuple[StepTime, ...]:
        shape = (len(self.runs), len(steps))
        times, calls, operations, size_bytes = (np.zeros(shape) for _ in range(4))
        for row, run in enumerate(self.runs):
            events = run[1:]
            np.add.at(times[row], events["step"], events["end_ns"] - events["start_ns"])
            np.add.at(calls[row], events["step"], 1)
            np.add.at(operations[row], events["step"], events["operations"])
            np.add.at(size_bytes[row], events["step"], events["bytes"])
        return tuple(
            StepTime(
                number,
                step["kernel"],
                step["value"],
                tuple(step["nodes"]),
                float(calls[:, number].mean()),
                float(np.median(times[:, number])) / 1e6,
                round(float(operations[:, number].mean())),
                round(float(size_bytes[:, number].mean())),
            )
            for number, step in enumerate(steps)
            if calls[:, number].any()
        )


class EventRecorder:
    """Runs a session and keeps the events; its room grows with what a run needs."""

    def __init__(self) -> None:
        self.runs: list[np.ndarray] = []
        self._room = np.empty(1024, EVENT)
        self._run = library().athanor_session_profile

    def run(self, *arguments: Any) -> int:
        """athanor_session_profile on the arguments of athanor_session_run; the status."""
        count = ctypes.c_uint64()
        while True:
            events = self._room.ctypes.data_as(ctypes.POINTER(Event))
            status = self._run(*arguments, events, len(self._room), ctypes.byref(count))
            if status or count.value <= len(self._room):
                break
            self._room = np.empty(2 * count.value, EVENT)  # and once more
        if not status:
            self.runs.append(self._room[: count.value].copy())
        return status
