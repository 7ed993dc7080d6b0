"""A model under tuning: its tasks for any choices about the graph, and each kernel's state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from athanor.compiler.choices import ChoicePoint, Choices
from athanor.frontends.onnx.importer import ImportedModel
from athanor.targets import TargetSpec
from athanor.tuning.build import Builder
from athanor.tuning.context import Context
from athanor.tuning.database import Database
from athanor.tuning.task_state import TaskState
from athanor.tuning.tasks import Call, KernelTask, plan_calls, tasks_of


@dataclass(frozen=True)
class Variant:
    """The model's kernels for some choices."""

    tasks: dict[str, KernelTask]
    calls: list[Call]
    points: dict[str, ChoicePoint]


def variant_of(calls: Sequence[Call], points: dict[str, ChoicePoint]) -> Variant:
    """The same kernels called otherwise."""
    counts = Counter(call.task.key for call in calls)
    tasks = {key: replace(task, calls=counts[key]) for key, task in tasks_of(calls).items()}
    return Variant(tasks, list(calls), points)


class ModelTasks:
    """Plans variants, and keeps one state for each kernel that any of them has."""

    def __init__(
        self,
        imported: ImportedModel,
        target: TargetSpec,
        winograd: bool,
        dims: Mapping[str, int],
        builder: Builder,
        database: Database,
        context: Context,
        seed: int,
        precision: str = "fp32",
        confirms: bool = False,
    ) -> None:
        """confirms: the job compares the whole model at its end."""
        self.imported, self.target, self.winograd, self.dims = imported, target, winograd, dims
        self.precision = precision
        self.builder, self.database, self.context = builder, database, context
        self.seed, self.confirms = seed, confirms
        self.states: dict[str, TaskState] = {}

    def variant(self, values: Mapping[str, int]) -> Variant:
        """The kernels of the model with these choices."""
        choices = Choices(values)
        calls = plan_calls(
            self.imported, self.target, self.winograd, self.precision, self.dims, choices
        )
        return Variant(tasks_of(calls), calls, choices.points)

    def state(self, task: KernelTask) -> TaskState:
        """What is known of a kernel."""
        if task.key not in self.states:
            self.states[task.key] = TaskState(
                replace(task),
                self.builder,
                self.database,
                self.context,
                self.seed,
                self.confirms,
            )
        return self.states[task.key]

    def seconds(self, variant: Variant, best: bool) -> float:
        """One run of a variant, of the kernels that are measured."""
        total = 0.0
        for task in variant.tasks.values():
            progress = self.state(task).progress
            secs = progress.best_secs if best else progress.heuristic_secs
            total += secs * task.calls if math.isfinite(secs) else 0.0
        return total
