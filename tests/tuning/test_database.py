"""The database: what is written can be read, whatever happens in between."""

import json
import multiprocessing
import time

import pytest

import athanor
from athanor.errors import CompileError
from athanor.targets import find_target
from athanor.tuning.apply import TunedKernels
from athanor.tuning.database import TRIAL, Database, DatabaseWarning
from athanor.tuning.job import model_tasks, tune

from .models import MadeUpTimes, matmul

NATIVE = find_target("native")


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "tuned", create=True)


def trial(database, number):
    database.append(TRIAL, workload="w", values=[number])


def numbers(database):
    return [line["values"][0] for line in Database(database.folder).records(TRIAL)]


def test_lines_come_back_in_order(database):
    for number in range(3):
        trial(database, number)
    assert numbers(database) == [0, 1, 2] == [line["values"][0] for line in database.lines]


@pytest.mark.parametrize("cut", [b'{"kind":"trial","form', b"\xff\x00garbage", b"{"])
def test_a_damaged_last_line_is_dropped(database, cut):
    trial(database, 1)
    with database.path.open("ab") as file:
        file.write(cut)
    with pytest.warns(DatabaseWarning, match="cut short"):
        other = Database(database.folder)
    assert len(other.lines) == 1
    trial(database, 2)
    assert numbers(database) == [1, 2]


def test_a_damaged_line_between_costs_itself_alone(database):
    trial(database, 1)
    with database.path.open("ab") as file:
        file.write(b"not a record\n")
    database.path.write_bytes(database.path.read_bytes() + b'{"kind": 3}\n')
    with pytest.warns(DatabaseWarning, match="damaged"):
        trial(database, 2)
    with pytest.warns(DatabaseWarning, match="line 2 is damaged"):
        assert numbers(database) == [1, 2]


def test_a_newer_format_is_refused(database):
    line = {"kind": "trial", "format": 99, "workload": "w"}
    database.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(CompileError, match=r"has format 99, .* update Athanor"):
        Database(database.folder)


def test_no_folder(tmp_path):
    with pytest.raises(CompileError, match="there is no such folder"):
        Database(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="can't make the database"):
        Database(tmp_path / "file" / "inner", create=True)


def test_a_full_disk_is_a_sentence_and_keeps_the_records(database, monkeypatch):
    trial(database, 1)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("athanor.tuning.database.os.fsync", full)
    with pytest.raises(CompileError, match="No space left on device; free some space"):
        trial(database, 2)
    monkeypatch.undo()
    assert numbers(database) == [1]


def _write(folder, first):
    database = Database(folder)
    for number in range(50):
        trial(database, first + number)


def test_two_processes_write_at_once(database):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_write, args=(database.folder, 100 * n)) for n in (0, 1)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    found = numbers(database)
    assert sorted(found) == [*range(50), *range(100, 150)]
    assert [n for n in found if n < 100] == list(range(50))


def test_a_damaged_workload_fits_nothing(database):
    func = next(iter(model_tasks(matmul(), NATIVE).values())).func
    assert not database.is_same("no such key", func)


def test_compiling_with_ten_thousand_records_costs_little(database, monkeypatch):
    """Neither the trials nor the kernels that the model has itself are parsed."""
    model = matmul()
    tune(model, database=database.folder, trials=9, measurer=MadeUpTimes(), choices=False)
    lines = Database(database.folder).lines
    trials = [{**line, "workload": "another"} for line in lines if line["kind"] == TRIAL]
    database.rewrite([*trials * 1200, *lines])
    assert len(database.lines) > 10_000

    def seconds(call):
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    monkeypatch.setattr("athanor.tuning.database.tvm.ir.load_json", None)
    found = athanor.compile(model, database=database.folder, cache=False)
    assert found.metadata["kernels"] != athanor.compile(model, cache=False).metadata["kernels"]
    compiling = min(seconds(lambda: athanor.compile(model, cache=False)) for _ in range(3))
    reading = min(seconds(lambda: TunedKernels(database.folder, NATIVE)) for _ in range(5))
    assert reading < 0.1 * compiling
