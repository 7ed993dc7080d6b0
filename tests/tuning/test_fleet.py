"""A fleet: a real Dask cluster of two worker processes, one of which is killed in the middle."""

import os
import signal

import onnx
import pytest

from athanor.compiler.cli import run_command
from athanor.errors import CompileError
from athanor.tuning.database import BEST, TRIAL, Database

from .models import matmul

distributed = pytest.importorskip("distributed", reason="pip install 'athanor[fleet]'")

from athanor.tuning.fleet import tune_fleet  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs="CRITICAL",
    ) as made:
        yield made


def test_two_models_on_two_workers_one_of_which_is_killed(cluster, tmp_path):
    models = [matmul(), matmul(columns=64, name="z"), matmul(name="same")]
    killed = []

    def kill_one(report):
        if report.trials >= 2 and not killed:
            with distributed.Client(cluster, set_as_default=False) as client:
                killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    report = tune_fleet(
        models,
        scheduler=cluster.scheduler_address,
        database=tmp_path,
        trials=14,
        on_progress=kill_one,
    )
    assert killed and report.trials == 14 and report.stage == "all trials are used"
    assert [task.calls for task in report.tasks] == [2, 1]  # an equal kernel is tuned once
    records = Database(tmp_path).records(TRIAL)
    values = [(record["workload"], tuple(record["values"])) for record in records]
    assert len(values) == 14 == len(set(values))
    assert {record["workload"] for record in Database(tmp_path).records(BEST)} == {
        task.workload for task in report.tasks
    }
    # and a later job goes on where this one ended
    more = tune_fleet(models[:1], scheduler=cluster.scheduler_address, database=tmp_path, trials=4)
    assert more.trials == 4 and more.tasks[0].trials > report.tasks[0].trials


def test_the_command(cluster, tmp_path, capsys):
    onnx.save(matmul(), tmp_path / "a.onnx")
    onnx.save(matmul(columns=64), tmp_path / "b.onnx")
    models = [str(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    words = ["--database", str(tmp_path / "db"), "--trials", "2"]
    assert run_command(["tune", *models, *words, "--fleet", cluster.scheduler_address]) == 0
    assert "all trials are used: 2 candidates" in capsys.readouterr().out


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("athanor.tuning.fleet._CONNECT_SECS", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(CompileError, match="can't reach a Dask scheduler at"):
            tune_fleet([matmul()], scheduler=address, database=tmp_path)


def test_a_worker_that_is_too_old_for_the_target(cluster, tmp_path, monkeypatch):
    from dataclasses import replace

    from athanor.targets import find_target

    native = find_target("native")
    future = replace(native, cpu_features=(*native.cpu_features, "teleport"))
    monkeypatch.setattr("athanor.tuning.fleet.find_target", lambda name: future)
    with pytest.raises(CompileError, match=r"worker .* lacks teleport"):
        tune_fleet([matmul()], scheduler=cluster.scheduler_address, database=tmp_path)


def test_budgets_of_nothing_are_refused(tmp_path):
    with pytest.raises(CompileError, match="trials is 0"):
        tune_fleet([matmul()], scheduler="tcp://127.0.0.1:1", database=tmp_path, trials=0)
