"""Tuning on a fleet: the kernels of one or many models, spread over the workers of Dask.

A worker does one round of one kernel at a time and sends its records back; they are in the database
before the next round is handed out. Dask gives the round of a worker that dies to another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.errors import CompileError
from athanor.targets import TargetSpec, find_target
from athanor.tuning.apply import TunedKernels
from athanor.tuning.build import Builder
from athanor.tuning.context import Context
from athanor.tuning.database import WORKLOAD, Database
from athanor.tuning.fleet_worker import SliceResult, describe_worker, make_slice, run_slice
from athanor.tuning.job import model_tasks
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.rounds import (
    EVERYTHING,
    GAIN_WORTH_A_JOB,
    Job,
    OnProgress,
    TuningReport,
    check_budget,
    next_gain,
)
from athanor.tuning.task_state import ROUND, TaskState
from athanor.tuning.tasks import KernelTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Future

_CONNECT_SECS = 10
_RETRIES = 2
"""How often Dask tries a round again that failed; one that its worker's death ended is not counted
among them."""


def tune_fleet(
    models: Sequence[Any],
    target: str = "native",
    *,
    scheduler: str,
    database: str | Path,
    trials: int | None = None,
    minutes: float | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    winograd: bool = True,
    threads: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> TuningReport:
    """As `tune`, for several models at once, measured by the workers of a Dask scheduler.

    scheduler: its address, tcp://HOST:PORT. target: native is this machine's; the workers must be
    alike. A kernel that several models have is tuned once. Raises CompileError.
    """
    check_budget(trials, minutes)
    spec = find_target(target)
    if spec.gpu is not None:
        raise CompileError(
            f"target {target!r}: fleets measure on processors; tune for a GPU where it is, or by "
            "--bundle"
        )
    with connect(scheduler) as client:
        context = _common_context(client, spec, threads)
        records = Database(database, create=True)
        known = TunedKernels(database, spec, any_cpu=True, threads=context.threads)
        tasks: dict[str, KernelTask] = {}
        for model in models:
            found = model_tasks(model, spec, shapes, dims, winograd=winograd, known=known)
            for key, task in found.items():
                if key in tasks:
                    tasks[key].calls += task.calls
                else:
                    tasks[key] = task
        builder = Builder(spec, spec.cores)
        job = _FleetJob(client, builder, context, records, trials, minutes, on_progress)
        job.threads, job.seed = threads, seed
        try:
            return job.run([TaskState(t, builder, records, context, seed) for t in tasks.values()])
        finally:
            job.close()
            builder.close()


@contextmanager
def connect(scheduler: str) -> Iterator[Client]:
    """A client of the scheduler. Raises CompileError."""
    try:
        import distributed
    except ImportError as error:
        raise CompileError(
            "a fleet needs Dask, which is not installed: pip install 'athanor[fleet]'"
        ) from error
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_SECS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CompileError(
            f"can't reach a Dask scheduler at {scheduler!r}: {str(error)[:200]}. Start one with "
            "`dask scheduler --host 127.0.0.1`, and workers with `dask worker tcp://HOST:PORT "
            "--nthreads 1`"
        ) from error
    try:
        yield client
    finally:
        client.close()


def _common_context(client: Client, target: TargetSpec, threads: int | None) -> Context:
    """Where all workers measure. Raises CompileError where they are not alike."""
    workers = client.run(describe_worker, target, threads)
    if not workers:
        raise CompileError(
            "the Dask scheduler has no workers: start some with `dask worker tcp://HOST:PORT "
            "--nthreads 1`"
        )
    for address, worker in workers.items():
        if worker.missing:
            raise CompileError(
                f"worker {address} lacks {', '.join(worker.missing)}, so it can't measure for "
                f"target {target.name}"
            )
    contexts = {worker.context: address for address, worker in workers.items()}
    if len(contexts) > 1:
        (first, one), (second, other), *_ = contexts.items()
        raise CompileError(
            f"the workers are not alike, and their times can't be compared: {one} is {first}, "
            f"{other} is {second}. Give a scheduler for each kind"
        )
    return next(iter(contexts))


class _FleetJob(Job):
    """A job whose rounds are done elsewhere, a kernel's at one place at a time."""

    threads: int | None = None
    seed = 0

    def __init__(
        self,
        client: Client,
        builder: Builder,
        context: Context,
        database: Database,
        trials: int | None,
        minutes: float | None,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(database, LocalMeasurer(builder.target), trials, minutes, on_progress)
        self.client, self.builder, self.context = client, builder, context
        self.running: dict[Future, tuple[int, int]] = {}
        """Rounds under way: the kernel's index and the candidates."""

    def _work(self) -> str:
        from distributed import wait

        while True:
            ended = self._ended()
            while ended is None and self._hand_out():
                ended = self._ended()
            if not self.running:
                return ended or EVERYTHING
            self._tell(f"{len(self.running)} kernels on {self._workers()} workers")
            with self.client.as_current():
                done = wait(list(self.running), return_when="FIRST_COMPLETED").done
            for future in done:
                index, _ = self.running.pop(future)
                self._take(index, future)

    def _ended(self) -> str | None:
        if self._is_spent:
            return self._spent()
        measured = all(state.is_measured for state in self.states)
        if self._unlimited and measured and self._expected_gain() < GAIN_WORTH_A_JOB:
            return f"less than {GAIN_WORTH_A_JOB:.0%} more is to be expected"
        return None

    def _workers(self) -> int:
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def _hand_out(self) -> bool:
        """Start one more round where a worker is idle and a kernel open."""
        promised = sum(count for _, count in self.running.values())
        left = self.most_trials - self.trials - promised
        if len(self.running) >= max(1, self._workers()) or left < 1:
            return False
        busy = {index for index, _ in self.running.values()}
        free = [index for index in range(len(self.states)) if index not in busy]
        new = [index for index in free if not self.states[index].is_measured]
        open_ones = [index for index in free if self.states[index].is_open]
        if new:
            index, count = new[0], 0
        elif open_ones:
            index = max(open_ones, key=lambda index: next_gain(self.states[index]))
            count = int(min(ROUND, left))
        else:
            return False
        state = self.states[index]
        work = make_slice(state, count, self.builder.target, self.threads, self.seed)
        future = self.client.submit(run_slice, work, pure=False, retries=_RETRIES)
        self.running[future] = (index, max(1, count))
        return True

    def _take(self, index: int, future: Future) -> None:
        """Record what a worker has measured."""
        old, before = self.states[index], self._seconds(best=True)
        error = future.exception()
        if error is not None:  # it has failed, or ended its worker, several times
            old.failed_rounds = math.inf  # type: ignore[assignment]
            return
        result: SliceResult = future.result()
        self.database.add_workload(old.task.func, old.task.name)
        for line in result.lines:
            if line["kind"] != WORKLOAD:
                fields = {k: v for k, v in line.items() if k not in ("kind", "format")}
                self.database.append(line["kind"], **fields)
        self.trials += result.trials
        state = TaskState(old.task, self.builder, self.database, self.context, self.seed)
        state.failure = result.failure
        state.failed_rounds = 0 if result.trials else old.failed_rounds + 1
        self.states[index] = state
        if self._seconds(best=True) < before:
            self._note()

    def close(self) -> None:
        """Give up the rounds that are under way."""
        self.client.cancel(list(self.running))
        self.measurer.close()
