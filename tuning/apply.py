"""What a database knows of the kernels of a compilation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tvm import tirx

from athanor.compiler.choices import Choices
from athanor.schedules.decisions import DecisionError, Decisions
from athanor.targets import TargetSpec
from athanor.tuning.context import make_context, misfit
from athanor.tuning.database import (
    BEST,
    CHOICE,
    TRIAL,
    UNCONFIRMED,
    Database,
    DatabaseWarning,
    decisions_of,
)
from athanor.tuning.workload import workload_key


class TunedKernels:
    """The best decisions of a database for one target."""

    def __init__(
        self,
        folder: str | Path,
        target: TargetSpec,
        any_cpu: bool = False,
        threads: int | None = None,
        confirming: bool = False,
    ) -> None:
        """any_cpu: records of every processor fit, for a target that is not this machine.

        threads: that the model will run with; the target's cores by default. confirming: for the
        comparison that records wait for, so that is not said of them, and those of another number
        of threads are left out.
        """
        self.database = Database(folder, without=(TRIAL,))
        self._target, self._any_cpu = target, any_cpu
        self._threads = threads or target.cores
        self._confirming = confirming
        self._misfits: dict[str, int] = {}
        self._best = self._fitting(BEST, "workload")
        self._choices = self._fitting(CHOICE, "key")
        for reason, count in self._misfits.items():
            self._skip(f"{count} records are left out: {reason}")

    def _fitting(self, kind: str, name: str) -> dict[str, dict[str, Any]]:
        """The last record of each key that fits, of the nearest number of threads."""
        context = make_context(self._target, self._target.cores)
        found: dict[str, dict[str, Any]] = {}
        for record in self.database.records(kind):
            reason = misfit(record["context"], context, self._any_cpu)
            if reason is not None:
                self._misfits[reason] = self._misfits.get(reason, 0) + 1
                continue
            if self._confirming and self._distance(record):
                continue
            known = found.get(record[name])
            if known is None or self._distance(record) <= self._distance(known):
                found[record[name]] = record
        return found

    def decisions(self, func: tirx.PrimFunc) -> Decisions | None:
        """Decisions that were faster than the heuristic's, or None."""
        record = self._best.get(workload_key(func))
        if record is None or not record["values"]:
            return None
        if not self.database.is_same(record["workload"], func):
            return None
        self._report_unconfirmed([record])
        return decisions_of(record)

    def choices(self) -> Choices:
        """What was faster for operators of the graph."""
        return Choices({key: int(record["value"]) for key, record in self._choices.items()})

    def report_choices(self, made: Choices) -> None:
        """Say which of `choices` did not fit the graph."""
        for sentence in made.misfits:
            self._skip(f"a choice no longer fits, and is left out: {sentence}")
        self._report_unconfirmed(self._choices[k] for k in made.points if k in self._choices)

    def _report_unconfirmed(self, used: Iterable[dict[str, Any]]) -> None:
        """Say once that a job has yet to compare the whole model with what is used here."""
        if self._confirming or not any(record.get(UNCONFIRMED) for record in used):
            return
        self._confirming = True
        self._warn(
            "some of what is used was found by a job that was stopped before it compared the whole "
            "model; the same `athanor tune` goes on and does"
        )

    def check_names(self, func: tirx.PrimFunc, names: list[str]) -> None:
        """Raise DecisionError where the rule asked for something else when the record was made."""
        recorded = list(self._best[workload_key(func)]["names"])
        if names != recorded:
            raise DecisionError(f"the rule asks for {names}, the record has {recorded}")

    def report_misfit(self, func: tirx.PrimFunc, error: Exception) -> None:
        """Say that a kernel's record could not be replayed."""
        record = self._best[workload_key(func)]
        self._skip(
            f"the record of {record['rule']} for {record['workload']} no longer fits, the kernel "
            f"is scheduled untuned: {str(error).strip()[:300]}"
        )

    def _skip(self, what: str) -> None:
        self._warn(f"{what}; `athanor tune` makes new ones")

    def _warn(self, what: str) -> None:
        warnings.warn(f"database {self.database.path}: {what}", DatabaseWarning, stacklevel=5)

    def _distance(self, record: dict[str, Any]) -> int:
        return abs(int(record["context"]["threads"]) - self._threads)
