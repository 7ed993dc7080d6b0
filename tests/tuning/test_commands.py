"""athanor tune and athanor database, from the command line."""

import json

import onnx
import pytest

from athanor.compiler.cli import run_command
from athanor.tuning.database import BEST, TRIAL, WORKLOAD, Database
from athanor.tuning.job import tune

from .models import MadeUpTimes, matmul


@pytest.fixture
def tuned(tmp_path):
    tune(matmul(), database=tmp_path / "tuned", trials=20, measurer=MadeUpTimes(), choices=False)
    return tmp_path / "tuned"


@pytest.fixture
def command(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list_and_stats(tuned, command):
    code, out, _ = command("database", "list", tuned, "--json")
    (entry,) = json.loads(out)
    assert code == 0 and entry["trials"] == 20 and entry["rule"] == "CPUMatmul"
    assert entry["best_secs"] < entry["heuristic_secs"] and entry["decisions"]
    assert "CPUMatmul" in command("database", "list", tuned)[1]
    found = json.loads(command("database", "stats", tuned, "--json")[1])
    assert found["workloads"] == 1 and found["trials"] == 20 and found["faster"] == 1
    assert "trials       20" in command("database", "stats", tuned)[1]


def test_merge_twice_adds_once(tuned, command, tmp_path):
    count = len(Database(tuned).lines)
    assert command("database", "merge", tmp_path / "all", tuned)[0] == 0
    again = command("database", "merge", tmp_path / "all", tuned)[1]
    assert "all: 0 lines" in again
    assert len(Database(tmp_path / "all").lines) == count


def test_prune_keeps_what_compiling_needs(tuned, command):
    best = Database(tuned).records(BEST)[-1]
    assert command("database", "prune", tuned)[0] == 0
    left = Database(tuned)
    assert left.records(BEST) == [best] and not left.records(TRIAL)
    assert len(left.records(WORKLOAD)) == 1
    assert command("database", "prune", tuned, "--target", "aarch64")[0] == 0
    assert Database(tuned).lines == []


def test_prune_keeps_what_holds_without_the_comparison(tuned, command):
    database = Database(tuned)
    fields = {k: v for k, v in database.records(BEST)[-1].items() if k not in ("kind", "format")}
    database.append(BEST, **fields)
    database.append(BEST, **fields, unconfirmed=True)
    assert command("database", "prune", tuned)[0] == 0
    kept = [line.get("unconfirmed", False) for line in Database(tuned).records(BEST)]
    assert kept == [False, True]


def test_export_and_import(tuned, command, tmp_path):
    path = tmp_path / "best.jsonl"
    assert command("database", "export", tuned, path)[0] == 0
    assert command("database", "import", tmp_path / "new", path)[0] == 0
    assert Database(tmp_path / "new").records(BEST) == Database(tuned).records(BEST)[-1:]
    code, _, error = command("database", "import", tmp_path / "new", tmp_path / "none.jsonl")
    assert code == 1 and "there is no file" in error


def test_wrong_budget_and_missing_database(command, tmp_path):
    onnx.save(matmul(), tmp_path / "m.onnx")
    code, _, error = command("tune", tmp_path / "m.onnx", "--database", tmp_path, "--trials", 0)
    assert code == 1 and "trials is 0: give at least 1" in error
    code, _, error = command("compile", tmp_path / "m.onnx", "--database", tmp_path / "none")
    assert code == 1 and "there is no such folder" in error
