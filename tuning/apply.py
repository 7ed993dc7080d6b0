"""What a database knows of the kernels of a compilation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tvm import tirx

from athanor.schedules.decisions import DecisionError, Decisions
from athanor.targets import TargetSpec
from athanor.tuning.context import make_context, misfit
from athanor.tuning.database import BEST, Database, DatabaseWarning, decisions_of
from athanor.tuning.workload import workload_key


class TunedKernels:
    """The best decisions of a database for one target."""

    def __init__(self, folder: str | Path, target: TargetSpec, any_cpu: bool = False) -> None:
        """any_cpu: records of every processor fit, for a target that is not this machine."""
        self.database = Database(folder)
        self._best: dict[str, dict[str, Any]] = {}
        context = make_context(target, target.cores)
        misfits: dict[str, int] = {}
        for record in self.database.records(BEST):
            reason = misfit(record["context"], context, any_cpu)
            if reason is not None:
                misfits[reason] = misfits.get(reason, 0) + 1
                continue
            known = self._best.get(record["workload"])
            if known is None or _distance(record, target) <= _distance(known, target):
                self._best[record["workload"]] = record
        for reason, count in misfits.items():
            self._skip(f"{count} records are left out: {reason}")

    def decisions(self, func: tirx.PrimFunc) -> Decisions | None:
        """Decisions that were faster than the heuristic's, or None."""
        record = self._best.get(workload_key(func))
        if record is None or not record["values"]:
            return None
        return decisions_of(record) if self.database.is_same(record["workload"], func) else None

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
        warnings.warn(
            f"database {self.database.path}: {what}; `athanor tune` makes new ones",
            DatabaseWarning,
            stacklevel=4,
        )


def _distance(record: dict[str, Any], target: TargetSpec) -> int:
    return abs(int(record["context"]["threads"]) - target.cores)
