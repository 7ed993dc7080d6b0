"""Tuning jobs: replay, budgets, interruption, two at once, and what a compilation makes of them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import onnx
import pytest

import athanor
from athanor.errors import CompileError
from athanor.tuning.build import Built
from athanor.tuning.database import BEST, CHOICE, TRIAL, Database, DatabaseWarning
from athanor.tuning.job import tune
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import CRASH, DEVICE_LOST, Failure, Measurement

from .models import MadeUpTimes, matmul


def records(folder, kind=TRIAL):
    return Database(folder).records(kind)


def test_equal_jobs_make_equal_choices(tmp_path):
    """The same seed and measured times, in one job or in two, one after the other."""
    whole, first, second = MadeUpTimes(), MadeUpTimes(), MadeUpTimes()
    tune(matmul(), database=tmp_path / "a", trials=25, measurer=whole, choices=False)
    tune(matmul(), database=tmp_path / "b", trials=17, measurer=first, choices=False)
    tune(matmul(), database=tmp_path / "b", trials=8, measurer=second, choices=False)
    assert len(whole.measured) == 25 == len(set(whole.measured))
    assert first.measured + second.measured == whole.measured
    assert (
        records(tmp_path / "a", BEST)[-1]["values"] == records(tmp_path / "b", BEST)[-1]["values"]
    )
    other = MadeUpTimes()
    tune(matmul(), database=tmp_path / "c", trials=25, measurer=other, seed=1, choices=False)
    assert other.measured != whole.measured


def test_equal_jobs_choose_alike(tmp_path):
    jobs = MadeUpTimes(), MadeUpTimes()
    for name, times in zip("ab", jobs, strict=True):
        tune(matmul(rows=2, columns=20), database=tmp_path / name, trials=20, measurer=times)
    assert jobs[0].measured == jobs[1].measured
    assert records(tmp_path / "a", CHOICE) == records(tmp_path / "b", CHOICE) != []


def test_the_heuristic_comes_first_and_the_best_is_found(tmp_path):
    times = MadeUpTimes()
    report = tune(matmul(), database=tmp_path, trials=30, measurer=times, choices=False)
    lines = records(tmp_path)
    best = min(lines, key=lambda line: line["seconds"][0])
    assert records(tmp_path, BEST)[-1]["values"] == best["values"]
    assert report.best_secs < report.heuristic_secs
    assert report.trials == 30 and report.stage == "all trials are used"
    assert [secs for _, _, secs in report.history] == sorted(
        (secs for _, _, secs in report.history), reverse=True
    )


def test_decisions_of_equal_code_are_measured_once(tmp_path, monkeypatch):
    """As where a decision comes to nothing: whether cores share the tasks, and there is one."""
    monkeypatch.setattr(Built, "code", property(lambda built: str(built.values[:2])))
    times = MadeUpTimes()
    tune(matmul(), database=tmp_path, trials=20, measurer=times, choices=False)
    lines = [line for line in records(tmp_path) if "seconds" in line]
    assert len({line["code"] for line in lines}) == len(times.measured) < len(lines)
    found = {}
    for line in lines:
        assert found.setdefault(line["code"], line["seconds"]) == line["seconds"]
    compared = records(tmp_path, BEST)[-1]["compared"]
    assert len({str(tuple(values[:2])) for values in compared}) == len(compared)


def test_equal_code_is_compared_once(tmp_path, monkeypatch):
    """Whichever of the decisions that lead to it comes first."""
    monkeypatch.setattr(Built, "code", property(lambda built: str(built.values[:2])))
    compared = []

    class Noting(MadeUpTimes):
        def measure(self, candidates, *, interleaved=False, **options):
            if interleaved:
                compared.append(frozenset(c.decisions[:2] for c in candidates))
            return super().measure(candidates, interleaved=interleaved, **options)

    tune(matmul(), database=tmp_path, trials=30, measurer=Noting(), choices=False)
    sets = [found for found in compared if len(found) > 2]
    assert len(sets) == len(set(sets)) > 0


def test_the_best_so_far_is_among_what_is_compared(tmp_path):
    tune(matmul(), database=tmp_path, trials=25, measurer=MadeUpTimes(), choices=False)
    best = ()
    for record in records(tmp_path, BEST):
        assert best in ((), *map(tuple, record["compared"]))
        best = tuple(record["values"])
    assert best


class Losing(MadeUpTimes):
    """No device answers after some candidates."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def measure(self, candidates, **options):
        for result in super().measure(candidates, **options):
            lost = Measurement((), Failure(DEVICE_LOST, "the board is off"))
            yield lost if len(self.measured) > self.most else result


@pytest.mark.parametrize("most", [0, 6])
def test_a_job_ends_where_nothing_measures_any_more(tmp_path, most):
    report = tune(matmul(), database=tmp_path, trials=500, measurer=Losing(most), choices=False)
    assert report.stage.startswith("nothing measures any more (the board is off)")
    assert len(records(tmp_path)) == report.trials == most
    again = tune(matmul(), database=tmp_path, trials=5, measurer=MadeUpTimes(), choices=False)
    assert again.trials == 5 and len(records(tmp_path)) == most + 5


def test_a_choice_is_not_made_without_its_alternatives(tmp_path):
    tune(matmul(rows=3), database=tmp_path, trials=30, measurer=Losing(1))
    assert records(tmp_path, CHOICE) == []
    tune(matmul(rows=3), database=tmp_path, trials=30, measurer=MadeUpTimes())
    assert len(records(tmp_path, CHOICE)) >= 1


def test_an_equal_kernel_of_another_model_needs_no_measuring(tmp_path):
    tune(matmul(), database=tmp_path, trials=20, measurer=MadeUpTimes(), choices=False)
    count = len(records(tmp_path))
    seen = []
    tune(
        matmul(name="z"),
        database=tmp_path,
        trials=1,
        measurer=MadeUpTimes(),
        on_progress=seen.append,
    )
    assert len(records(tmp_path)) == count + 1
    assert seen[0].tasks[0].trials == count


def test_what_fails_is_recorded_and_not_tried_again(tmp_path):
    class Failing(MadeUpTimes):
        def measure(self, candidates, **options):
            for candidate, result in zip(candidates, super().measure(candidates, **options)):
                fails = candidate.reference and candidate.decisions[-1] == 1
                yield Measurement((), Failure(CRASH, "died")) if fails else result

    times = Failing()
    tune(matmul(), database=tmp_path, trials=30, measurer=times, choices=False)
    failed = [line for line in records(tmp_path) if "error" in line]
    assert failed and all(line["error"] == [CRASH, "died"] for line in failed)
    assert len(times.measured) == len(set(times.measured))
    assert all(line["values"][-1:] != [1] for line in records(tmp_path, BEST) if line["values"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trials": 0}, "trials is 0: give at least 1"),
        ({"minutes": 0}, "minutes is 0: give more than 0"),
        ({"dims": {"n": 2}}, "no symbolic dimension 'n'"),
        ({"target": "aarch64"}, "this machine lacks"),
        ({"target": "z80"}, "unknown target 'z80'"),
    ],
)
def test_wrong_options(tmp_path, options, sentence):
    with pytest.raises(CompileError, match=sentence):
        tune(matmul(), database=tmp_path / "d", **options)


def test_without_a_budget_a_job_ends_when_little_is_to_be_expected(tmp_path):
    report = tune(matmul(), database=tmp_path, measurer=MadeUpTimes(), choices=False)
    assert report.stage == "less than 1% more is to be expected"
    assert report.expected_gain < 0.01 and report.trials > 20


def test_a_job_takes_no_longer_than_it_may(tmp_path, monkeypatch):
    """Time passes only while something is measured: a second each."""
    now = [0.0]

    class Slow(MadeUpTimes):
        def measure(self, candidates, **options):
            for result in super().measure(candidates, **options):
                now[0] += 1
                yield result

    monkeypatch.setattr("athanor.tuning.rounds.time.monotonic", lambda: now[0])
    report = tune(matmul(), database=tmp_path, minutes=0.5, measurer=Slow(), choices=False)
    assert report.stage == "the time is up" and 30 <= report.elapsed_secs < 30 + 8 + 7


def test_a_full_disk_ends_a_job_and_keeps_the_records(tmp_path, monkeypatch):
    left, fsync = [8], os.fsync

    def fill(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("athanor.tuning.database.os.fsync", fill)
    with pytest.raises(CompileError, match=r"free some space.*The records so far are kept"):
        tune(matmul(), database=tmp_path, trials=20, measurer=MadeUpTimes(), choices=False)
    monkeypatch.undo()
    count = len(records(tmp_path))
    assert count > 5
    report = tune(matmul(), database=tmp_path, trials=3, measurer=MadeUpTimes(), choices=False)
    assert report.trials == 3 and len(records(tmp_path)) == count + 3


def test_a_model_that_does_not_compile(tmp_path):
    model = matmul()
    model.graph.node[1].op_type = "Frobnicate"
    with pytest.raises(CompileError, match="Frobnicate"):
        tune(model, database=tmp_path / "d", trials=3)


def test_a_tuned_model_computes_the_same(tmp_path):
    model = matmul(columns=129, depth=255, rows=127)
    tune(model, database=tmp_path, trials=12, choices=False)
    faster = records(tmp_path, BEST)[-1:]
    x = {"x": np.random.default_rng(1).standard_normal((127, 255), np.float32)}
    plain = athanor.compile(model).load().run(x)["y"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatabaseWarning)
        tuned = athanor.compile(model, database=tmp_path)
    np.testing.assert_allclose(tuned.load().run(x)["y"], plain, rtol=1e-4, atol=1e-4)
    symbols = [athanor.compile(model, cache=False).metadata["kernels"][0]["symbol"]]
    symbols.append(tuned.metadata["kernels"][0]["symbol"])
    assert (symbols[0] != symbols[1]) == bool(faster and faster[0]["values"])


@pytest.fixture
def misfit(tmp_path):
    """A database whose one result can be changed."""
    tune(matmul(), database=tmp_path, trials=20, measurer=MadeUpTimes(), choices=False)
    database = Database(tmp_path)
    (best,) = [line for line in database.records(BEST)[-1:]]
    assert best["values"]

    def change(**fields):
        database.rewrite([*(li for li in database.lines if li["kind"] != BEST), {**best, **fields}])
        return best

    return change


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("target", "riscv", "it is of target 'riscv'"),
        ("cpu", "Another CPU", "it is of cpu 'Another CPU'"),
        ("tvm", "0.1", "it is of tvm '0.1'"),
    ],
)
def test_records_of_another_context_are_reported_and_skipped(
    tmp_path, misfit, field, value, sentence
):
    best = misfit()
    misfit(context={**best["context"], field: value})
    untuned = athanor.compile(matmul()).metadata["kernels"][0]["symbol"]
    with pytest.warns(DatabaseWarning, match=sentence):
        made = athanor.compile(matmul(), database=tmp_path)
    assert made.metadata["kernels"][0]["symbol"] == untuned


@pytest.mark.parametrize("what", ["names", "values", "rule"])
def test_records_of_another_rule_are_reported_and_skipped(tmp_path, misfit, what, monkeypatch):
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    best = misfit()
    changed = {
        "names": ["other", *best["names"][1:]],
        "values": [999, *best["values"][1:]],
        "rule": "CPUForgotten",
    }
    misfit(**{what: changed[what]})
    with pytest.warns(DatabaseWarning, match="no longer fits"):
        made = athanor.compile(matmul(), database=tmp_path)
    x = {"x": np.ones((16, 40), np.float32)}
    np.testing.assert_allclose(
        made.load().run(x)["y"], athanor.compile(matmul()).load().run(x)["y"], rtol=1e-5
    )


def test_an_interrupted_job_reports(tmp_path):
    class Interrupting(MadeUpTimes):
        def measure(self, candidates, **options):
            if len(self.measured) > 10:
                raise KeyboardInterrupt
            yield from super().measure(candidates, **options)

    report = tune(matmul(), database=tmp_path, measurer=Interrupting(), choices=False)
    assert report.stage.startswith("interrupted")
    assert report.trials == len(records(tmp_path)) > 10


COMMAND = [sys.executable, "-m", "athanor.compiler.cli", "tune"]


def command(model, folder, trials):
    options = ["--database", str(folder), "--trials", str(trials), "--threads", "1"]
    options.append("--no-choices")
    return [*COMMAND, str(model), *options]


@pytest.fixture
def model_file(tmp_path):
    onnx.save(matmul(columns=200, depth=100, rows=30), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_killed_job_goes_on(tmp_path, model_file):
    """kill -9 at random moments: what was measured is there, once, and the rest is measured."""
    generator = random.Random(os.urandom(8))
    folder = tmp_path / "tuned"
    counts = [0]
    for _ in range(2):
        job = subprocess.Popen(command(model_file, folder, 500), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        path = folder / "records.jsonl"
        wanted = counts[-1] + 3
        while (
            not path.exists() or path.read_bytes().count(b'"trial"') < wanted
        ) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatabaseWarning)
            lines = records(folder)
        counts.append(len(lines))
        assert counts[-1] >= wanted
        # what failed, as on a machine that is busy, is tried again
        values = [tuple(line["values"]) for line in lines if "seconds" in line]
        assert len(values) == len(set(values))
    done = subprocess.run(command(model_file, folder, 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(records(folder)) == counts[-1] + 2


def test_two_jobs_on_one_database(tmp_path, model_file):
    jobs = [
        subprocess.Popen(
            [*command(model_file, tmp_path / "tuned", 5), "--seed", str(seed)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
    lines = (tmp_path / "tuned" / "records.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("trial") == 10


def test_candidates_run_for_real(tmp_path):
    measurer = LocalMeasurer(athanor.targets.find_target("native"), threads=1)
    try:
        report = tune(matmul(), database=tmp_path, trials=10, measurer=measurer, choices=False)
    finally:
        measurer.close()
    assert all("error" not in line for line in records(tmp_path))
    assert {line["context"]["threads"] for line in records(tmp_path)} == {1}
    assert 0 < report.best_secs <= report.heuristic_secs < 1
