"""The whole model at the end of a job: records that do not make it faster are withdrawn."""

import warnings

import numpy as np
import onnx
import pytest

import athanor
from athanor.errors import RunError
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.targets import find_target
from athanor.tuning import confirm, job
from athanor.tuning.apply import TunedKernels
from athanor.tuning.database import (
    BEST,
    CHOICE,
    TRIAL,
    UNCONFIRMED,
    Database,
    DatabaseWarning,
)
from athanor.tuning.job import tune

from .models import MadeUpTimes, matmul

NATIVE = find_target("native")
MODEL = matmul(rows=3, columns=40, depth=33)


@pytest.fixture
def here(monkeypatch):
    """Made-up times in the place of this machine's."""
    monkeypatch.setattr(job, "LocalMeasurer", lambda _target, _threads: MadeUpTimes())
    monkeypatch.setattr(confirm.WholeModel, "lost", lambda _model, _records: set())


def kernels(database=None, model=MODEL):
    return athanor.compile(model, database=database).metadata["kernels"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("choices", [True, False])
def test_what_is_not_faster_as_a_whole_is_withdrawn(tmp_path, monkeypatch, choices):
    monkeypatch.setattr(confirm, "_seconds", lambda model, feeds: 1e-3)
    report = tune(MODEL, database=tmp_path, trials=50, choices=choices)
    assert "not faster" in report.stage
    assert report.best_secs == report.heuristic_secs
    assert all(choice.value == choice.preferred for choice in report.choices)
    assert any(record["values"] for record in Database(tmp_path).records(BEST))
    assert kernels(tmp_path) == kernels()
    assert TunedKernels(tmp_path, NATIVE).choices().values == {
        record["key"]: record["value"] for record in Database(tmp_path).records(CHOICE)[-1:]
    }


@pytest.mark.usefixtures("here")
def test_what_is_faster_stays(tmp_path, monkeypatch):
    plain = str(kernels())
    monkeypatch.setattr(
        confirm,
        "_seconds",
        lambda model, feeds: 1e-3 if str(model.metadata["kernels"]) == plain else 9e-4,
    )
    report = tune(MODEL, database=tmp_path, trials=30, choices=False)
    assert "not faster" not in report.stage and report.best_secs < report.heuristic_secs
    assert kernels(tmp_path) != kernels()


@pytest.mark.usefixtures("here")
def test_what_was_known_before_the_job_holds_again(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm, "_seconds", lambda model, feeds: 1e-3)
    tune(MODEL, database=tmp_path, trials=3, choices=False, measurer=MadeUpTimes())
    found = list(Database(tmp_path).records(BEST))[-1]
    _, slower, *_ = Database(tmp_path).records(TRIAL)  # the first is the heuristic's
    same = {key: found[key] for key in ("workload", "context", "rule")}
    usual = found["heuristic_seconds"]
    times = {"seconds": 0.9 * usual, "heuristic_seconds": usual, "compared": []}
    known = {"names": slower["names"], "values": slower["values"]}
    Database(tmp_path).append(BEST, **same, **times, **known)
    report = tune(MODEL, database=tmp_path, trials=40, choices=False)
    assert "not faster" in report.stage
    *_, compared, last = Database(tmp_path).records(BEST)
    assert compared["values"] not in ([], slower["values"])
    assert last["values"] == slower["values"] and last["compared"] == []
    assert report.best_secs == pytest.approx(0.9 * report.heuristic_secs)


@pytest.mark.usefixtures("here")
def test_nothing_is_compared_where_nothing_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm.WholeModel, "is_faster", lambda _: True)
    tune(MODEL, database=tmp_path, trials=30, choices=False)
    monkeypatch.setattr(confirm.WholeModel, "is_faster", None)
    tune(MODEL, database=tmp_path, trials=1, choices=False)


def unconfirmed(folder):
    """Of the last lines, those that wait for the comparison."""
    database = Database(folder)
    last = {
        (kind, r.get("workload", r.get("key"))): r
        for kind in (BEST, CHOICE)
        for r in database.records(kind)
    }
    return [record for record in last.values() if record.get(UNCONFIRMED)]


def interrupt(*_arguments):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("choices", [True, False])
@pytest.mark.parametrize("is_faster", [True, False])
def test_a_job_confirms_what_one_before_was_stopped_at(tmp_path, monkeypatch, choices, is_faster):
    with monkeypatch.context() as patch:
        patch.setattr(confirm.WholeModel, "is_faster", interrupt)
        report = tune(MODEL, database=tmp_path, trials=50, choices=choices)
    assert report.stage.startswith("interrupted") and unconfirmed(tmp_path)
    with pytest.warns(DatabaseWarning, match="before it compared the whole model"):
        found = kernels(tmp_path)
    assert found != kernels()
    monkeypatch.setattr(confirm.WholeModel, "is_faster", lambda _: is_faster)
    report = tune(MODEL, database=tmp_path, trials=1, choices=choices)
    assert ("not faster" in report.stage) != is_faster
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatabaseWarning)
        assert kernels(tmp_path) == (found if is_faster else kernels())
    # a kernel of an alternative that lost is in no model yet
    assert choices or not unconfirmed(tmp_path)


@pytest.mark.usefixtures("here")
def test_a_kernel_of_a_stopped_job_falls_back_to_what_was_confirmed(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm.WholeModel, "is_faster", lambda _: True)
    tune(matmul(), database=tmp_path, trials=4, choices=False)
    held = kernels(tmp_path, matmul())
    assert held != kernels(None, matmul())
    monkeypatch.setattr(confirm.WholeModel, "is_faster", interrupt)
    tune(matmul(), database=tmp_path, trials=25, choices=False)
    assert unconfirmed(tmp_path)
    monkeypatch.setattr(confirm.WholeModel, "is_faster", lambda _: False)
    tune(matmul(), database=tmp_path, trials=1, choices=False)
    assert kernels(tmp_path, matmul()) == held and not unconfirmed(tmp_path)


def faster(tmp_path, threads=1):
    imported = import_model(read_model(MODEL), None, None)
    return whole_model(tmp_path, imported, threads).is_faster()


def whole_model(database, imported, threads=2):
    return confirm.WholeModel(
        imported,
        NATIVE,
        True,
        {},
        {},
        threads,
        lambda: TunedKernels(database, NATIVE, threads=threads, confirming=True),
    )


def test_records_of_other_threads_are_not_compared(tmp_path, monkeypatch):
    tune(MODEL, database=tmp_path, trials=30, measurer=MadeUpTimes(), choices=False)
    assert MadeUpTimes.threads == 2
    monkeypatch.setattr(confirm, "_seconds", None)
    assert faster(tmp_path, threads=1)  # nothing differs, so nothing runs
    with pytest.raises(TypeError):
        faster(tmp_path, threads=2)


def test_equal_models_need_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm, "_seconds", None)
    Database(tmp_path, create=True)
    assert faster(tmp_path)


@pytest.mark.parametrize(("ratio", "found"), [(0.9, True), (0.99, True), (1.0, False), (2, False)])
def test_a_model_that_is_not_faster_is_told(tmp_path, monkeypatch, ratio, found):
    tune(MODEL, database=tmp_path, trials=30, measurer=MadeUpTimes(), choices=False)
    plain = str(kernels())
    monkeypatch.setattr(
        confirm,
        "_seconds",
        lambda model, feeds: 1e-3 * (1 if str(model.metadata["kernels"]) == plain else ratio),
    )
    assert faster(tmp_path, threads=2) == found


@pytest.mark.usefixtures("here")
def test_a_model_that_does_not_run_by_itself_keeps_what_was_found(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise RunError("input 'x' is of kind sequence")

    monkeypatch.setattr(confirm, "make_feeds", refuse)
    report = tune(MODEL, database=tmp_path, trials=30, choices=False)
    assert "can't be compared: input 'x' is of kind sequence" in report.stage
    assert report.gain > 0 and not unconfirmed(tmp_path)


@pytest.mark.usefixtures("here")
def test_a_tuned_model_that_fails_is_not_faster(tmp_path, monkeypatch):
    plain, run = str(kernels()), confirm.Model.run

    def fail(model, feeds):
        if str(model.metadata["kernels"]) != plain:
            raise RunError("the kernel returned -1")
        return run(model, feeds)

    monkeypatch.setattr(confirm.Model, "run", fail)
    report = tune(MODEL, database=tmp_path, trials=30, choices=False)
    assert "not faster" in report.stage and kernels(tmp_path) == kernels()


@pytest.mark.usefixtures("here")
def test_indices_stay_within_their_table(tmp_path, monkeypatch):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (int64[3, 40] ids) => (float[3, 33, 40] y)'
        " { rows = Gather (table, ids) t = Transpose <perm = [0, 2, 1]> (rows)"
        " m = Softmax (t) y = Relu (m) }"
    )
    model = onnx.parser.parse_model(text)
    table = np.ones((9, 33), np.float32)  # over a kilobyte, so it is kept apart from the graph
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    seen = []

    monkeypatch.setattr(confirm, "_seconds", lambda _, feeds: seen.append(feeds["ids"].max()) or 1)
    report = tune(model, database=tmp_path, trials=60)
    assert seen and max(seen) < 9, report.stage


def test_models_take_turns():
    """Who comes first changes, and every turn has something of each."""
    order = []
    found = confirm._in_turn(lambda index: order.append(index) or index)
    assert [len(turns) for turns in found] == [confirm.TURNS] * 2
    assert order[:4] == [0, 1, 1, 0] and set(found[0]) == {0} and set(found[1]) == {1}


def two_products():
    """Products whose kernels differ, one behind the other."""
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[16, 33] x) => (float[16, 24] y)'
        " { p = MatMul (x, v) r = Relu (p) q = MatMul (r, w) y = Relu (q) }"
    )
    for name, shape in (("v", (33, 40)), ("w", (40, 24))):
        weight = np.random.default_rng(0).standard_normal(shape, np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return made


@pytest.mark.parametrize("slower", [0, 1])
def test_a_gain_that_is_none_in_the_model_is_withdrawn_alone(tmp_path, monkeypatch, slower):
    monkeypatch.setattr(job, "LocalMeasurer", lambda _target, _threads: MadeUpTimes())
    model = two_products()
    usual = kernels(None, model)

    def one_slower(loaded, feeds, parts):
        steps = loaded.metadata["profile"]["steps"]
        wanted = [s for s in steps if "MatMul" in str(s["nodes"])][slower]["nodes"]
        tuned = loaded.metadata["kernels"] != usual
        return {
            part: (2.0 if part in parts.of([wanted]) else 0.5) if tuned else 1.0
            for part in parts.of([s["nodes"] for s in steps])
        }

    monkeypatch.setattr(confirm, "_part_seconds", one_slower)
    monkeypatch.setattr(confirm.WholeModel, "is_faster", lambda _: True)
    report = tune(model, database=tmp_path, trials=40, choices=False)
    assert "1 of 2 gains were none in the model" in report.stage
    assert not unconfirmed(tmp_path)
    last = {r["workload"]: r for r in Database(tmp_path).records(BEST)}
    assert sorted(bool(record["values"]) for record in last.values()) == [False, True]
    assert kernels(tmp_path, model) != usual


def test_times_of_kernels_in_a_model(tmp_path):
    """Really measured: all parts, each as long as its steps."""
    model = two_products()
    tune(model, database=tmp_path, trials=40, measurer=MadeUpTimes(), choices=False)
    imported = import_model(read_model(model), None, None)
    whole = whole_model(tmp_path, imported)
    models, feeds = whole._load(profile=True)
    nodes = [step["nodes"] for step in models[0].metadata["profile"]["steps"]]
    parts = confirm.Parts(nodes)
    times = confirm._part_seconds(models[1], feeds, parts)
    assert times.keys() == parts.of(nodes) and len(times) == 2
    assert all(1e-8 < secs < 1 for secs in times.values())
