"""Bundles: written here, run where there is no Python, collected here."""

import json
import os
import subprocess
import tarfile

import onnx
import pytest

from athanor.compiler.cli import run_command
from athanor.errors import CompileError
from athanor.tuning.bundle import tune_by_bundle
from athanor.tuning.context import make_context
from athanor.tuning.database import BEST, CHOICE, TRIAL, Database
from athanor.tuning.workload import workload_key

from .models import matmul
from .test_choices import NATIVE, points


def visit(folder, path, *words):
    """Run the bundle's script in a shell that can see no Python."""
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == ["out/measure", "out/run.sh"]
        tar.extractall(folder, filter="data")
    nowhere = {"PATH": "/nowhere", "HOME": "/nowhere"}
    return subprocess.run(
        ["/bin/sh", "out/run.sh", *words], cwd=folder, env=nowhere, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """A database, and the results of its first bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    database, path = folder / "db", folder / "out.tar"
    report = tune_by_bundle(matmul(), "native", database=database, bundle=path, trials=6)
    assert report.kernels >= 1 and 2 <= report.candidates <= 6
    done = visit(folder, path, "--repeats", "4")
    assert done.returncode == 0, done.stderr
    assert "wrote out/results.jsonl" in done.stdout
    results = folder / "out" / "results.jsonl"
    assert len(results.read_text().splitlines()) == 1 + report.candidates
    return database, results


def test_results_become_records_and_the_search_goes_on(visited, tmp_path):
    database, results = visited
    report = tune_by_bundle(
        matmul(),
        "native",
        database=database,
        collect=results,
        bundle=tmp_path / "out.tar",
        trials=6,
    )
    _, *lines = results.read_text().splitlines()
    records = Database(database).records(TRIAL)
    assert report.collected == len(lines) == len(records)
    assert all(0 < record["seconds"][0] < 1 for record in records)
    assert records[0]["context"]["cpu"] == report.device
    (best,) = Database(database).records(BEST)
    assert best["heuristic_seconds"] == report.heuristic_secs >= report.best_secs
    # the next bundle has the heuristic's kernel, the fastest once more, and others that are new
    manifests = sorted((database / "bundles").iterdir(), key=os.path.getmtime)
    first, second = (
        {tuple(values) for _, values in json.loads(m.read_text())["candidates"]} for m in manifests
    )
    assert {tuple(values) for values in best["compared"]} < first & second < second
    # and what was collected is not collected twice
    again = tune_by_bundle(matmul(), "native", database=database, collect=results)
    assert again.collected == 0


def newest(database):
    """The newest bundle, and what it has."""
    manifest = max((database / "bundles").iterdir(), key=os.path.getmtime)
    listed = json.loads(manifest.read_text())["candidates"]
    return manifest.stem, [tuple(values) for _, values in listed]


def collect_times(database, times):
    """Results of the newest bundle, whose times are made up: by the decisions, else a second."""
    bundle, listed = newest(database)
    head = {"athanor_measure": 1, "bundle": bundle, "threads": 1, "cores": 1}
    lines = [json.dumps({**head, "cpu": "a board", "machine": "x86_64"})]
    for number, values in enumerate(listed):
        secs = times.get(values, 1.0)
        lost = {"error": "device lost", "sentence": "it is off"}
        lines.append(
            json.dumps({"candidate": number} | ({"seconds": [secs] * 5} if secs else lost))
        )
    path = database / "results.jsonl"
    path.write_text("\n".join([*lines, ""]))
    return tune_by_bundle(matmul(), "native", database=database, collect=path)


def test_a_second_visit_measures_the_fastest_again(tmp_path):
    database, path = tmp_path / "db", tmp_path / "out.tar"
    tune_by_bundle(matmul(), "native", database=database, bundle=path, trials=8, threads=1)
    heuristic, lucky, good, *_ = newest(database)[1]
    collect_times(database, {lucky: 0.5, good: 0.8})
    results = database / "results.jsonl"
    assert Database(database).records(BEST)[-1]["values"] == list(lucky)
    # what one visit found is compared with what the next finds, and goes if it was luck
    for times, best in (
        ({lucky: 0.5, good: 0.8}, lucky),  # others are slower: it stays
        ({lucky: None, good: 0.7}, lucky),  # it was not measured: it stays
        ({lucky: 1.1, good: 0.8}, good),
    ):
        options = {"database": database, "collect": results, "bundle": path, "trials": 8}
        tune_by_bundle(matmul(), "native", **options)
        listed = newest(database)[1]
        assert listed[0] == heuristic and {lucky, good} < set(listed)
        collect_times(database, times)
        assert Database(database).records(BEST)[-1]["values"] == list(best)
    lines = len(Database(database).lines)
    assert collect_times(database, times).collected == 0
    assert len(Database(database).lines) == lines


def test_a_bundle_has_the_kernels_that_a_compilation_has(tmp_path):
    """Those of the choices about the graph that the database knows."""
    model, database = matmul(rows=3, columns=40, depth=33), tmp_path / "db"
    met, program = points(model)
    ((key, point),) = met.points.items()
    goal = next(c for c in point.candidates if c != point.preferred)
    context = make_context(NATIVE, NATIVE.cores, "a board").as_dict()
    fields = {"key": key, "context": context, "value": goal}
    Database(database, create=True).append(CHOICE, **fields, seconds=1, heuristic_seconds=2)
    tune_by_bundle(model, "native", database=database, bundle=tmp_path / "out.tar", trials=3)
    (manifest,) = (database / "bundles").iterdir()
    bundled = {workload for workload, _ in json.loads(manifest.read_text())["candidates"]}
    usual, chosen = (
        {workload_key(func) for func in made.kernels.values()}
        for made in (program, points(model, {key: goal})[1])
    )
    assert bundled and bundled <= chosen - usual


def test_what_a_device_did_not_measure_is_not_recorded(tmp_path):
    database, path = tmp_path / "db", tmp_path / "out.tar"
    tune_by_bundle(matmul(), "native", database=database, bundle=path, trials=5)
    heuristic, lost, *rest = newest(database)[1]
    assert collect_times(database, {lost: None}).collected == 1 + len(rest)
    values = [tuple(record["values"]) for record in Database(database).records(TRIAL)]
    assert heuristic in values and lost not in values


def test_equal_databases_make_equal_bundles(tmp_path):
    made = []
    for name in "ab":
        path = tmp_path / f"{name}.tar"
        tune_by_bundle(matmul(), "native", database=tmp_path / name, bundle=path, trials=4)
        made.append(next((tmp_path / name / "bundles").iterdir()).name)
    assert made[0] == made[1]


def test_a_bundle_for_another_architecture_says_so(visited, tmp_path):
    path = tmp_path / "out.tar"
    tune_by_bundle(matmul(), "native", database=tmp_path / "db", bundle=path, trials=2)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    program = tmp_path / "out" / "measure"
    data = bytearray(program.read_bytes())
    data[18:20] = b"\xf3\x7f"  # e_machine
    program.write_bytes(data)
    done = subprocess.run(["sh", "out/run.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "this bundle is for Linux on x86_64" in done.stderr or os.uname().machine != "x86_64"


def collect(path, database, model=None, target="native"):
    return tune_by_bundle(model or matmul(), target, database=database, collect=path)


def test_results_that_are_of_something_else(visited, tmp_path):
    database, results = visited
    with pytest.raises(CompileError, match="which was not written with the database"):
        collect(results, tmp_path / "other")
    other = "x86-64-v2" if os.uname().machine == "x86_64" else "native"
    if other != "native":
        with pytest.raises(CompileError, match="not for x86-64-v2: give the --target"):
            collect(results, database, target=other)
    with pytest.raises(CompileError, match="results of kernels that this model has not"):
        collect(results, database, matmul(columns=33))
    text = tmp_path / "results.jsonl"
    for content in ("", "hello\n", "{}\n", '{"athanor_measure": 9}\n'):
        text.write_text(content)
        with pytest.raises(CompileError, match=r"expected the results|have version 9"):
            collect(text, database)
    with pytest.raises(CompileError, match="can't read"):
        collect(tmp_path / "nothing", database)


def test_a_file_that_was_cut_off_is_collected_as_far_as_it_goes(visited, tmp_path):
    database, results = visited
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "bundles").mkdir()
    for manifest in (database / "bundles").iterdir():
        (tmp_path / "db" / "bundles" / manifest.name).write_bytes(manifest.read_bytes())
    part = tmp_path / "results.jsonl"
    head, first, second, *_ = results.read_text().splitlines(keepends=True)
    part.write_text(head + first + second[:-10])
    assert collect(part, tmp_path / "db").collected == 1


def test_the_command(tmp_path, capsys):
    onnx.save(matmul(), tmp_path / "m.onnx")
    words = ["tune", str(tmp_path / "m.onnx"), "--database", str(tmp_path / "db"), "--trials", "3"]
    path = tmp_path / "out.tar"
    assert run_command([*words, "--bundle", str(path)]) == 0
    assert "3 candidates of 1 kernels" in capsys.readouterr().out
    assert visit(tmp_path, path, "--repeats", "3").returncode == 0
    assert run_command([*words, "--collect", str(tmp_path / "out/results.jsonl")]) == 0
    assert "recorded 3 candidates of" in capsys.readouterr().out
    for wrong in (["--minutes", "1"], ["--tracker", "h:1", "--key", "k"], ["--fleet", "tcp://h:1"]):
        assert run_command([*words, "--bundle", str(path), *wrong]) != 0
        assert " does not go with --" in capsys.readouterr().err
    assert run_command([*words, str(tmp_path / "m.onnx")]) != 0
    assert "2 models: give one" in capsys.readouterr().err
    assert run_command([*words, "--tracker", "localhost:1"]) != 0
    assert "--tracker and --key belong together" in capsys.readouterr().err
