"""Tuning for a GPU: candidates built here, measured by a program with the test driver."""

import os
import subprocess
import tarfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

import athanor
from athanor.compiler.cli import run_command
from athanor.errors import CompileError
from athanor.targets import target_for_precision
from athanor.tuning.apply import TunedKernels
from athanor.tuning.bundle import tune_by_bundle
from athanor.tuning.database import BEST, TRIAL, Database, DatabaseWarning
from athanor.tuning.job import tune

from ..tuning.models import matmul
from .test_run import softmax

TARGET = "cuda -arch=sm_90"
MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> '
    "net (float[40, 70] x) => (float[40, 70] y) { y = Softmax (x) }"
)


@pytest.fixture
def device(driver, monkeypatch):
    """The measuring program finds the test driver, on which a block takes a microsecond."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(driver._name).parent))
    monkeypatch.setenv("ATHANOR_FAKE_CLOCK", "blocks")
    return driver


def visit(folder, path, **environment):
    """Run a bundle where there is no Python."""
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    kept = ("LD_LIBRARY_PATH", "ATHANOR_FAKE_CLOCK")
    nowhere = {name: os.environ[name] for name in kept if name in os.environ}
    nowhere |= {"PATH": "/nowhere", "HOME": "/nowhere", **environment}
    return subprocess.run(
        ["/bin/sh", "out/run.sh"], cwd=folder, env=nowhere, capture_output=True, text=True
    )


def launches(artifact):
    """The grids of an artifact, in order."""
    kernels = artifact.metadata["device"]["kernels"].values()
    return [launch["extents"] for kernel in kernels for launch in kernel["launches"]]


def check_softmax(artifact):
    x = np.random.default_rng(0).standard_normal((40, 70), np.float32)
    (y,) = artifact.load().run({"x": x}).values()
    np.testing.assert_allclose(y, softmax(x), rtol=1e-5, atol=1e-7)


def test_a_bundle_is_measured_collected_and_compiled_with(device, tmp_path):
    """Twice, with equal results: seed and times are equal."""
    ends = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        database, bundle = folder / "db", folder / "out.tar"
        report = tune_by_bundle(MODEL, TARGET, database=database, bundle=bundle, trials=4, seed=3)
        assert report.kernels == 1 and report.candidates == 4
        done = visit(folder, bundle)
        assert done.returncode == 0, done.stderr
        found = tune_by_bundle(
            MODEL, TARGET, database=database, collect=folder / "out" / "results.jsonl", seed=3
        )
        assert found.device == "test device" and found.collected == report.candidates
        assert found.best_secs < found.heuristic_secs
        records = Database(database)
        (best,) = records.records(BEST)
        assert best["context"]["target"] == "cuda:sm_90:fp32"
        assert best["context"]["cpu"] == "test device" and best["values"]
        untuned = athanor.compile(MODEL, TARGET)
        tuned = athanor.compile(MODEL, TARGET, database=database)
        assert launches(tuned) != launches(untuned)
        check_softmax(tuned)
        # how often each is measured depends on what else the machine does
        trials = [(t["values"], t["seconds"][0]) for t in records.records(TRIAL)]
        ends.append((trials, best, tuned.metadata["device"]["images"]))
    assert ends[0] == ends[1]


def test_a_job_where_the_gpu_is(device, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = tune(MODEL, TARGET, database=tmp_path, trials=4)
    # most candidates are built once: none fills the cache
    assert not [*(tmp_path / "cache").rglob("images/*")]
    assert 0 < report.best_secs < report.heuristic_secs
    assert [task.rule for task in report.tasks] == ["CUDARows"]
    check_softmax(athanor.compile(MODEL, TARGET, database=tmp_path))
    again = tune(MODEL, TARGET, database=tmp_path, trials=1)
    assert again.best_secs == report.best_secs


def test_products_in_float16(device, tmp_path):
    """On emulated tensor cores; outputs agree with the heuristic's."""
    model = matmul(columns=64, depth=64, rows=16)
    bundle, options = tmp_path / "out.tar", {"database": tmp_path / "db", "precision": "fp16"}
    report = tune_by_bundle(model, TARGET, bundle=bundle, trials=4, **options)
    assert report.kernels >= 2  # the product, and what rounds its operand
    assert visit(tmp_path, bundle).returncode == 0
    results = tmp_path / "out" / "results.jsonl"
    tune_by_bundle(model, TARGET, collect=results, **options)
    trials = Database(tmp_path / "db").records(TRIAL)
    assert {"CUDAMatmul"} < {trial["rule"] for trial in trials}
    assert not [trial["error"] for trial in trials if "error" in trial]


def test_records_belong_to_precision_and_architecture(device, tmp_path):
    bundle, results = tmp_path / "out.tar", tmp_path / "out" / "results.jsonl"
    options = {"database": tmp_path / "db", "precision": "tf32"}
    tune_by_bundle(MODEL, TARGET, bundle=bundle, trials=4, **options)
    assert visit(tmp_path, bundle).returncode == 0
    with pytest.raises(CompileError, match="for the target cuda:sm_90:tf32, not for cuda:sm_90:fp"):
        tune_by_bundle(MODEL, TARGET, collect=results, database=tmp_path / "db")
    tune_by_bundle(MODEL, TARGET, collect=results, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_softmax(athanor.compile(MODEL, TARGET, **options))
    for target, precision in ((TARGET, "fp32"), ("cuda -arch=sm_80", "tf32")):
        with pytest.warns(DatabaseWarning, match="left out: it is of target 'cuda:sm_90:tf32'"):
            TunedKernels(tmp_path / "db", target_for_precision(target, precision), any_cpu=True)


def test_without_a_gpu_the_driver_is_named(driver, tmp_path, capsys):
    words = ["tune", "none.onnx", "--target", "cuda", "--database", str(tmp_path / "db")]
    with pytest.raises(CompileError, match=r"NVIDIA driver is missing.*--bundle"):
        tune(MODEL, "cuda", database=tmp_path / "db", trials=1)
    assert run_command([*words, "--fleet", "tcp://127.0.0.1:1"]) == 1
    assert "fleets measure on processors" in capsys.readouterr().err
    with pytest.raises(CompileError, match="tuned in 'fp32' alone"):
        tune(MODEL, "x86-64-v4+avx512bf16", database=tmp_path / "db", precision="bf16")


def test_a_device_that_the_bundle_is_not_for(device, tmp_path):
    bundle = tmp_path / "out.tar"
    tune_by_bundle(MODEL, "cuda -arch=sm_80", database=tmp_path, bundle=bundle, trials=2)
    done = visit(tmp_path, bundle)
    assert done.returncode == 1 and not (tmp_path / "out" / "results.jsonl").read_text()
    assert "capability 9.0, and this program is for sm_80: " in done.stderr
    assert "'cuda -arch=sm_90'" in done.stderr
    done = visit(tmp_path, bundle, LD_LIBRARY_PATH="/nowhere")
    assert done.returncode == 1 and "the NVIDIA driver is missing" in done.stderr
