"""The whole model at the end of a job: records that do not make it faster are withdrawn."""

import pytest

import athanor
from athanor.compiler.choices import Choices
from athanor.compiler.driver import plan_program
from athanor.errors import RunError
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.targets import find_target
from athanor.tuning import confirm, job
from athanor.tuning.apply import TunedKernels
from athanor.tuning.database import BEST, CHOICE, TRIAL, Database
from athanor.tuning.job import tune

from .models import MadeUpTimes, matmul

NATIVE = find_target("native")
MODEL = matmul(rows=3, columns=40, depth=33)


@pytest.fixture
def here(monkeypatch):
    """Made-up times in the place of this machine's."""
    monkeypatch.setattr(job, "LocalMeasurer", lambda _target, _threads: MadeUpTimes())


def kernels(database=None):
    return athanor.compile(MODEL, database=database).metadata["kernels"]


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
    monkeypatch.setattr(confirm, "_seconds", lambda model, feeds: 9e-4)
    monkeypatch.setattr(confirm, "is_faster", lambda *_times: True)
    tune(MODEL, database=tmp_path, trials=30, choices=False)
    monkeypatch.setattr(job, "is_model_faster", None)
    tune(MODEL, database=tmp_path, trials=1, choices=False)


def faster(tmp_path, threads=1):
    imported = import_model(read_model(MODEL), None, None)
    known = TunedKernels(tmp_path, NATIVE, threads=threads)
    return confirm.is_model_faster(imported, NATIVE, known, True, {}, threads)


def test_equal_models_need_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm, "_seconds", None)
    Database(tmp_path, create=True)
    assert faster(tmp_path)


@pytest.mark.parametrize(("ratio", "found"), [(0.9, True), (0.99, False), (1.0, False), (2, False)])
def test_the_gain_must_be_clear(tmp_path, monkeypatch, ratio, found):
    tune(MODEL, database=tmp_path, trials=30, measurer=MadeUpTimes(), choices=False)
    plain = str(kernels())
    monkeypatch.setattr(
        confirm,
        "_seconds",
        lambda model, feeds: 1e-3 * (1 if str(model.metadata["kernels"]) == plain else ratio),
    )
    assert faster(tmp_path, threads=2) == found


def test_a_model_that_does_not_run_by_itself_is_left_alone(tmp_path, monkeypatch):
    tune(MODEL, database=tmp_path, trials=30, measurer=MadeUpTimes(), choices=False)

    def refuse(*_arguments, **_options):
        raise RunError("input 'x' is of kind sequence")

    monkeypatch.setattr(confirm, "make_feeds", refuse)
    assert faster(tmp_path, threads=2)


def test_models_take_turns(monkeypatch):
    """As they really run: who comes first changes, and every turn has a time of each."""
    order = []
    monkeypatch.setattr(confirm, "_seconds", lambda model, feeds: order.append(model) or 1.0)
    imported = import_model(read_model(MODEL), None, None)
    program, _ = plan_program(imported, NATIVE, choices=Choices())
    assert program.kernels
    models = athanor.compile(MODEL).load(threads=1), athanor.compile(MODEL).load(threads=1)
    its, mine = confirm._in_turn(models, {})
    assert len(its) == len(mine) == confirm.TURNS
    assert order[:4] == [models[0], models[1], models[1], models[0]]
