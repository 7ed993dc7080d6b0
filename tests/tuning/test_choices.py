"""Choices about the graph: measured, recorded, applied, and the same results by every one."""

import shutil
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import athanor
from athanor.compiler.choices import Choices
from athanor.compiler.driver import build_artifact, plan_program
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.targets import find_target
from athanor.tuning import job
from athanor.tuning.database import CHOICE, Database, DatabaseWarning
from athanor.tuning.job import tune
from athanor.tuning.measure import Measurement
from athanor.tuning.workload import workload_key

from .models import MadeUpTimes, matmul

NATIVE = find_target("native")


def convolution(channels=17, outputs=19, kernel=3, groups=1, names=("c",)):
    """Convolutions in a row, of one shape where there are several."""
    rng = np.random.default_rng(0)
    values = ["x", *(f"{name}_out" for name in names[:-1]), "y"]
    nodes, weights = [], []
    for name, source, result in zip(names, values, values[1:], strict=False):
        shape = (outputs, channels // groups, kernel, kernel)
        weight = (rng.standard_normal(shape) / kernel).astype("float32")
        weights.append(numpy_helper.from_array(weight, f"{name}_w"))
        options = dict(pads=[kernel // 2] * 4, group=groups, name=name)
        nodes.append(helper.make_node("Conv", [source, f"{name}_w"], [result], **options))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", 1, [1, channels, 9, 11])],
        [info("y", 1, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def attention(queries=37, keys=300, size=24, heads=2, masked=False):
    """Heads of their own; the mask is added to the scores."""
    inputs = f"float[1,{heads},{queries},{size}] q, float[1,{heads},{keys},{size}] k"
    inputs += f", float[1,{heads},{keys},{size}] x"
    body = "t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, t) "
    if masked:
        inputs += f", float[1,1,{queries},{keys}] mask"
        body += "m = Add (s, mask) p = Softmax (m)"
    else:
        body += "p = Softmax (s)"
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net ({inputs}) => '
        f"(float[1,{heads},{queries},{size}] y) {{ {body} y = MatMul (p, x) }}"
    )


def points(model, values=None):
    choices = Choices(values)
    imported = import_model(read_model(model), None, None)
    program, _ = plan_program(imported, NATIVE, choices=choices)
    return choices, program


class _Chosen:
    """What `build_artifact` takes of a database that has choices alone."""

    def __init__(self, values):
        self.values = values

    def choices(self):
        return Choices(self.values)

    def report_choices(self, made):
        assert made.misfits == []

    def decisions(self, _func):
        return None


MODELS = {
    "odd channels": convolution(),
    "5x5": convolution(channels=16, outputs=16, kernel=5),
    "groups": convolution(channels=24, outputs=36, groups=3),
    "few channels": convolution(channels=3, outputs=8),
    "matmul": matmul(rows=9, columns=40, depth=33),
    "one row": matmul(rows=1, columns=5, depth=70),
    "few columns": matmul(rows=37, columns=3, depth=16),
    "columns of half a vector": matmul(rows=9, columns=22, depth=5),
    "attention": attention(),
    "attention with a mask": attention(queries=70, keys=131, masked=True),
    "attention with many keys": attention(queries=40, keys=1100, heads=1, size=16),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_alternative_computes_the_same(name):
    model = MODELS[name]
    met, _ = points(model)
    ((key, point),) = met.points.items()
    assert point.preferred in point.candidates and len(point.candidates) > 1
    rng = np.random.default_rng(1)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    x = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    (wanted,) = ReferenceEvaluator(model).run(None, x)
    imported = import_model(read_model(model), None, None)
    some = [c for c in point.candidates if c != point.preferred]
    for value in some[:: max(1, len(some) // 5)]:
        made = build_artifact(imported, NATIVE, tuned=_Chosen({key: value}))
        result = made.load(threads=1).run(x)["y"]
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-4 * scale, err_msg=str(value))


def test_blocks_of_keys_that_the_run_counts():
    model = attention()
    for value in model.graph.input:
        if value.name in "kx":
            value.type.tensor_type.shape.dim[2].dim_param = "keys"
    met, _ = points(model)
    ((key, point),) = met.points.items()
    imported, rng = import_model(read_model(model), None, None), np.random.default_rng(2)
    for value in point.candidates:
        made = build_artifact(imported, NATIVE, tuned=_Chosen({key: value})).load(threads=1)
        for keys in (1, value - 1, value, value + 1, 2 * value + 7):
            shapes = {"q": (1, 2, 37, 24), "k": (1, 2, keys, 24), "x": (1, 2, keys, 24)}
            x = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            (wanted,) = ReferenceEvaluator(model).run(None, x)
            np.testing.assert_allclose(made.run(x)["y"], wanted, atol=2e-5, err_msg=f"{value}")


class Prefers(MadeUpTimes):
    """Every kernel takes 1 ms, and those of some workloads a tenth."""

    def __init__(self):
        super().__init__()
        self.fast = set()

    def measure(self, candidates, **_options):
        for candidate in candidates:
            yield Measurement((1e-4 if candidate.workload in self.fast else 1e-3,) * 3)


@pytest.mark.parametrize("model", [convolution(), attention()], ids=["convolution", "attention"])
def test_the_fastest_alternative_is_recorded_and_applied(tmp_path, model):
    met, program = points(model)
    ((key, point),) = met.points.items()
    goal = next(c for c in point.candidates if c != point.preferred)
    fast = {workload_key(f) for f in points(model, {key: goal})[1].kernels.values()}
    times = Prefers()
    times.fast = fast - {workload_key(f) for f in program.kernels.values()}
    report = tune(model, database=tmp_path, trials=25, measurer=times)
    (choice,) = report.choices
    assert (choice.value, choice.preferred) == (goal, point.preferred)
    (record,) = Database(tmp_path).records(CHOICE)
    assert record["key"] == key and record["value"] == goal
    assert report.best_secs < report.heuristic_secs
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatabaseWarning)
        made = athanor.compile(model, database=tmp_path)
    plain = athanor.compile(model)
    names = [{k["name"] for k in a.metadata["kernels"]} for a in (made, plain)]
    symbols = [{k["symbol"] for k in a.metadata["kernels"]} for a in (made, plain)]
    assert symbols[0] != symbols[1], names
    # a second job takes the choice over
    again = tune(model, database=tmp_path, trials=2, measurer=times)
    assert again.choices == () and len(Database(tmp_path).records(CHOICE)) == 1


class SlowUntilTuned(MadeUpTimes):
    """One kernel takes a fifth more than the usual one by the compiler's decisions, then half."""

    def __init__(self, usual, goal):
        super().__init__()
        self.untuned = {usual: 1e-3, goal: 1.2e-3}
        self.tuned = {usual: 1e-3, goal: 5e-4}

    def measure(self, candidates, **_options):
        for candidate in candidates:
            known = self.untuned if candidate.reference is None else self.tuned
            yield Measurement((known.get(candidate.workload, 2e-3),) * 3)


def test_an_alternative_may_win_once_it_is_tuned(tmp_path):
    model = matmul(rows=3, columns=40, depth=33)
    met, program = points(model)
    ((key, point),) = met.points.items()
    goal = next(c for c in point.candidates if c != point.preferred)
    kernels = [
        workload_key(func)
        for made in (program, points(model, {key: goal})[1])
        for func in made.kernels.values()
    ]
    times = SlowUntilTuned(*kernels)
    report = tune(model, database=tmp_path, trials=60, measurer=times)
    (choice,) = report.choices
    assert (choice.value, choice.preferred) == (goal, point.preferred)
    assert [r["value"] for r in Database(tmp_path).records(CHOICE)] == [point.preferred, goal]
    assert report.best_secs == 5e-4 and report.heuristic_secs == 1e-3
    # a job goes on from there
    again = tune(model, database=tmp_path, trials=4, measurer=times)
    assert again.choices == () and again.best_secs == 5e-4


def stop_when_chosen(folder):
    def on_progress(_report):
        if Database(folder).records(CHOICE):
            raise KeyboardInterrupt

    return on_progress


def test_a_job_that_goes_on_looks_at_alternatives_again(tmp_path):
    model = matmul(rows=3, columns=40, depth=33)
    met, program = points(model)
    ((key, point),) = met.points.items()
    goal = next(c for c in point.candidates if c != point.preferred)
    (other,) = points(model, {key: goal})[1].kernels.values()
    (usual,) = program.kernels.values()
    times = SlowUntilTuned(workload_key(usual), workload_key(other))
    stop = stop_when_chosen(tmp_path)
    first = tune(model, database=tmp_path, trials=60, measurer=times, on_progress=stop)
    assert first.stage.startswith("interrupted")
    assert [r["value"] for r in Database(tmp_path).records(CHOICE)] == [point.preferred]
    report = tune(model, database=tmp_path, trials=60, measurer=times)
    assert [choice.value for choice in report.choices] == [goal]
    assert report.best_secs == 5e-4


def test_alternatives_that_there_was_no_time_to_plan_are_planned_by_the_next_job(
    tmp_path, monkeypatch
):
    model = matmul(rows=3, columns=40, depth=33)
    met, _ = points(model)
    ((key, point),) = met.points.items()
    goal = point.candidates[-1]
    times = Prefers()
    times.fast = {workload_key(f) for f in points(model, {key: goal})[1].kernels.values()}
    assert goal != point.preferred and len(point.candidates) > 3
    with monkeypatch.context() as patch:
        patch.setattr(job, "SHARE_OF_PLANNING", 0)
        for compared in (2, 3):
            stop = stop_when_chosen(tmp_path / str(compared))
            options = {"measurer": times, "minutes": 10, "trials": 60}
            if compared == 3:  # goes on
                shutil.copytree(tmp_path / "2", tmp_path / "3")
                stop = None
                options["trials"] = 4
            tune(model, database=tmp_path / str(compared), on_progress=stop, **options)
            *_, record = Database(tmp_path / str(compared)).records(CHOICE)
            assert record["value"] == point.preferred and len(record["compared"]) == compared
    report = tune(model, database=tmp_path / "2", trials=60, measurer=times)
    assert [choice.value for choice in report.choices] == [goal]
    *_, record = Database(tmp_path / "2").records(CHOICE)
    assert record["compared"] == sorted(point.candidates)


def test_kernels_that_were_never_measured_count_as_they_were(tmp_path):
    """Not as if they took no time: the choice is known, and the trials end before its kernel."""
    model = convolution()
    met, program = points(model)
    ((key, point),) = met.points.items()
    goal = next(c for c in point.candidates if c != point.preferred)
    times = Prefers()
    times.fast = {workload_key(f) for f in points(model, {key: goal})[1].kernels.values()}
    times.fast -= {workload_key(f) for f in program.kernels.values()}
    tune(model, database=tmp_path, trials=40, measurer=times)
    database = Database(tmp_path)
    assert database.records(CHOICE)[-1]["value"] == goal
    database.rewrite([line for line in database.lines if line["kind"] == CHOICE])
    report = tune(model, database=tmp_path, trials=len(program.kernels), measurer=times)
    assert report.best_secs == report.heuristic_secs == report.history[-1][-1] > 0


def test_nothing_faster_keeps_the_preferred(tmp_path):
    times = Prefers()
    times.fast = {workload_key(f) for f in points(convolution())[1].kernels.values()}
    report = tune(convolution(), database=tmp_path, trials=25, measurer=times)
    (choice,) = report.choices
    assert choice.value == choice.preferred


def test_equal_operators_are_one_choice(tmp_path):
    model = convolution(channels=16, outputs=16, names=("a", "b", "c"))
    report = tune(model, database=tmp_path, trials=30, measurer=Prefers())
    assert {c.key.split(", alone")[0].split(", among")[0] for c in report.choices} == {
        "conv2d 1x16x9x11, 16x16x3x3, strides 1x1, padding 1x1x1x1, dilation 1x1, groups 1"
    }


def test_a_choice_that_no_longer_fits_is_reported_and_skipped(tmp_path):
    model = convolution()
    tune(model, database=tmp_path, trials=25, measurer=Prefers())
    database = Database(tmp_path)
    (record,) = database.records(CHOICE)
    database.rewrite(
        [*(li for li in database.lines if li["kind"] != CHOICE), {**record, "value": 77}]
    )
    with pytest.warns(DatabaseWarning, match="77 is not one of"):
        made = athanor.compile(model, database=tmp_path)
    assert made.metadata["kernels"] == athanor.compile(model).metadata["kernels"]
