"""tune(): choices about a model's graph, and decisions for its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from athanor.compiler.feeds import index_limits
from athanor.errors import CompileError, RunError
from athanor.frontends.onnx.importer import ImportedModel, import_model
from athanor.frontends.onnx.model_file import SourceModel, read_model
from athanor.frontends.onnx.type_check import blaming
from athanor.targets import TargetSpec, target_for_precision
from athanor.targets.detect import cpu_features
from athanor.tuning.apply import TunedKernels
from athanor.tuning.build import Builder
from athanor.tuning.choose import ChoiceReport, GraphChoices
from athanor.tuning.confirm import WholeModel
from athanor.tuning.context import make_context
from athanor.tuning.database import Database
from athanor.tuning.estimate import FIRST_GAIN
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import Measurer
from athanor.tuning.model_tasks import ModelTasks, Variant
from athanor.tuning.rounds import Job, OnProgress, TuningReport, check_budget
from athanor.tuning.second_look import SecondLook
from athanor.tuning.task_state import ROUND
from athanor.tuning.tasks import KernelTask, plan_calls, tasks_of

SHARE_OF_CHOICES = 0.6
"""Of a job's budget at most, for choices about the graph; kernels get what is left."""
SHARE_OF_PLANNING = 0.2
"""Of a job's time at most, for planning alternatives."""


def tune(
    model: str | Path | bytes | onnx.ModelProto,
    target: str = "native",
    *,
    database: str | Path,
    trials: int | None = None,
    minutes: float | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    winograd: bool = True,
    choices: bool = True,
    threads: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    measurer: Measurer | None = None,
    on_progress: OnProgress | None = None,
) -> TuningReport:
    """Find faster decisions for the kernels of a model, and record them in a database.

    model, target, shapes, operators, winograd: as in `athanor.compile`. database: a folder, made
    where there is none; what it holds of the same kernels is taken over, so an interrupted job
    goes on. trials: candidates to measure at most. minutes: time to take at most. With neither,
    until the gain to expect falls under 1%. dims: sizes of symbolic dimensions while measuring; 1
    where none is given. choices: try other methods and layouts of operators too, not only other
    schedules of their kernels. threads: that kernels run with; every core by default. seed: of the
    search. precision: as in `athanor.compile`, of targets that are GPUs. measurer: where candidates
    run; by default in processes of this machine. on_progress: called with a TuningReport after
    every step.

    Where this machine measures, and the target is its processor, the untuned and the tuned model
    run in turn at the end; records that don't make the model faster are withdrawn.

    An interrupt (Ctrl-C) ends the job with its report. Raises CompileError where the model can't
    be compiled, an option is wrong, or the database can't be read or written.
    """
    check_budget(trials, minutes)
    spec = tuning_target(target, precision)
    if measurer is None:
        _check_runs_here(spec)
    records = Database(database, create=True)
    source = read_model(model)
    with blaming(source):
        imported = _import(source, shapes, dims, operators)
    own = LocalMeasurer(spec, threads) if measurer is None else None
    builder = Builder(spec, spec.cores)
    try:
        used = measurer or own
        assert used is not None
        context = make_context(spec, used.threads, used.cpu)
        tasks = ModelTasks(
            imported,
            spec,
            winograd,
            dims or {},
            builder,
            records,
            context,
            seed,
            precision,
            confirms=own is not None and spec.gpu is None,
        )
        with blaming(source):
            graph = GraphChoices(tasks)
        job = _ModelJob(tasks, graph, used, trials, minutes, on_progress)
        job.with_choices = choices
        if own is not None and tasks.confirms:
            threads = own.threads
            job.whole = WholeModel(
                imported,
                spec,
                winograd,
                dims or {},
                index_limits(source.skeleton, source.weights.values()),
                threads,
                lambda: TunedKernels(database, spec, threads=threads, confirming=True),
            )
        return job.run(job.states)
    finally:
        builder.close()
        if own is not None:
            own.close()


def model_tasks(
    model: str | Path | bytes | onnx.ModelProto,
    target: TargetSpec,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    operators: Mapping[tuple[str, str, int], Any] | None = None,
    winograd: bool = True,
    precision: str = "fp32",
    known: TunedKernels | None = None,
) -> dict[str, KernelTask]:
    """The kernels of a model that can be tuned, by their key; arguments as in `tune`.

    known: whose choices about the graph are taken over, as a compilation does.
    """
    source = read_model(model)
    choices = known.choices() if known else None
    with blaming(source):
        imported = _import(source, shapes, dims, operators)
        calls = plan_calls(imported, target, winograd, precision, dims or {}, choices)
    return tasks_of(calls)


def tuning_target(name: str, precision: str) -> TargetSpec:
    """The target to tune for. Raises CompileError."""
    spec = target_for_precision(name, precision)
    if spec.gpu is None and precision != "fp32":
        raise CompileError(
            f"precision={precision!r}: kernels of processors are tuned in 'fp32' alone; leave it "
            "out, and compile without the database"
        )
    return spec


def _import(
    source: SourceModel,
    shapes: Mapping[str, Sequence[int | str]] | None,
    dims: Mapping[str, int] | None,
    operators: Mapping[tuple[str, str, int], Any] | None,
) -> ImportedModel:
    imported = import_model(source, shapes, operators)
    unknown = sorted(set(dims or {}) - set(imported.symbols))
    if unknown:
        raise CompileError(
            f"dims: the model has no symbolic dimension {unknown[0]!r}; it has "
            f"{list(imported.symbols)}"
        )
    return imported


def _check_runs_here(target: TargetSpec) -> None:
    missing = sorted(set(target.cpu_features) - cpu_features())
    if missing:
        raise CompileError(
            f"target {target.name}: this machine lacks {', '.join(missing)}, so it can't measure; "
            "measure on a device (--tracker, --bundle) or tune for native"
        )


class _ModelJob(Job):
    """Choices about the graph and rounds for kernels, each where it promises most.

    Kernels that an open choice may replace wait for it.
    """

    with_choices = True
    whole: WholeModel | None = None
    """What is compared at the end, where the job runs on the machine that it tunes for."""

    def __init__(
        self,
        model: ModelTasks,
        graph: GraphChoices,
        measurer: Measurer,
        trials: int | None,
        minutes: float | None,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(model.database, measurer, trials, minutes, on_progress)
        self.model, self.graph, self.second = model, graph, SecondLook(graph)
        self._counted = graph.base
        """The last variant whose kernels were all measured: a time without some would be short."""
        self._use(graph.base)

    def _use(self, variant: Variant) -> None:
        self.variant = variant
        self.states = [self.model.state(task) for task in variant.tasks.values()]
        for state, task in zip(self.states, variant.tasks.values(), strict=True):
            state.task.calls = task.calls
        self._count_measured()

    def _count_measured(self) -> None:
        if all(state.is_measured for state in self.states):
            self._counted = self.variant

    def _measure_heuristics(self) -> bool:
        is_whole = super()._measure_heuristics()
        self._count_measured()
        return is_whole

    def _work(self) -> str:
        ended = self._tune()
        if self.whole is None or not self._unconfirmed():
            return ended
        try:
            said = self._withdraw_lost(self.whole)
            is_faster = not self._unconfirmed() or self.whole.is_faster()
        except RunError as error:  # what was measured of the kernels is all there is to go by
            is_faster, said = True, f"; the whole model can't be compared: {error}"
        if is_faster:
            self.graph.confirm()
            for state in self.states:
                state.confirm()
            return f"{ended}{said}"
        self._withdraw(None)
        return f"{ended}; as a whole the tuned model was not faster, so it stays as it was"

    def _unconfirmed(self) -> dict[str, list[str]]:
        """The nodes of what waits for a comparison: choices and kernels of the model by key."""
        found = {key: self.graph.nodes(key) for key in self.graph.unconfirmed}
        for call in self.variant.calls:
            if self.model.state(call.task).is_unconfirmed:
                found.setdefault(call.task.key, []).extend(call.nodes)
        return found

    def _withdraw_lost(self, whole: WholeModel) -> str:
        """Take back gains that kernels don't keep inside of the model; what to say of it."""
        self._tell("compare kernels in the model")
        gains = self._unconfirmed()
        lost = whole.lost({key: nodes for key, nodes in gains.items() if nodes})
        if lost:
            self._withdraw(lost)
        self._tell("compare the whole model")
        return f"; {len(lost)} of {len(gains)} gains were none in the model" if lost else ""

    def _withdraw(self, keys: set[str] | None) -> None:
        """Take back those gains, by default all; what was known before holds again."""
        self.graph.withdraw(keys)
        for key, state in self.model.states.items():
            if keys is None or key in keys:
                state.withdraw()
        self._use(self.model.variant(self.graph.values()))
        self._note()

    def _tune(self) -> str:
        if not self._measure_heuristics():
            return self._spent()
        self._note()
        if self.graph.usual is not self.graph.base:
            self._use(self.graph.usual)
            if not self._measure_heuristics():
                return self._spent()
            self._note()
        if self.with_choices:
            self._tell("plan alternatives")
            self.graph.plan(self.most_secs * SHARE_OF_PLANNING)
        return super()._work()

    def _next(self) -> tuple[float, str, Callable[[], None]] | None:
        if self._is_choosing_over():
            self.graph.open.clear()
        waiting = self.graph.waiting()
        found = self._next_round([s for s in self.states if s.task.key not in waiting])
        for key in self.graph.open:
            worth = FIRST_GAIN * self.graph.seconds(key) / self.graph.candidates(key)
            if found is None or worth > found[0]:
                found = worth, f"alternatives of {key}", lambda key=key: self._choose(key)
        again = self.second.next()
        if again is not None and (found is None or again[0] > found[0]):
            worth, key, value = again
            found = worth, f"alternative {value} of {key}", lambda: self._look_again(key, value)
        return found

    def _look_again(self, key: str, value: int) -> None:
        count = min(ROUND, self._left())
        if self.second.tune(key, value, self.measurer, count, self._count):
            self._use(self.model.variant(self.graph.values()))
            self._measure_heuristics()

    def _choose(self, key: str) -> None:
        made = len(self.graph.values())
        self.graph.measure(key, self.measurer, self._count, self._left)
        if not self.graph.open and made != len(self.graph.values()):
            self._use(self.model.variant(self.graph.values()))
            self._measure_heuristics()
        elif self.graph.open:
            self._use(self.graph.current())

    def _left(self) -> int:
        """Kernels that may still be measured."""
        return 0 if self._is_spent else int(min(2**31, self.most_trials - self.trials))

    def _is_choosing_over(self) -> bool:
        trials, secs = self.most_trials, self.most_secs
        return self.trials >= trials * SHARE_OF_CHOICES or self._elapsed >= secs * SHARE_OF_CHOICES

    def _expected_secs(self) -> float:
        choices = sum(FIRST_GAIN * self.graph.seconds(key) for key in self.graph.open)
        return super()._expected_secs() + choices

    def _seconds(self, best: bool) -> float:
        """The model's time: tuned, or as it is untuned.

        Kernels that come with another choice count once all of them are measured.
        """
        return self.model.seconds(self._counted if best else self.graph.base, best)

    def _choices(self) -> tuple[ChoiceReport, ...]:
        return tuple(self.graph.reports)
