"""`athanor` on models for a GPU, with the test driver."""

import json

import numpy as np
import onnx
import pytest

from athanor.compiler.cli import run_command

from .emulation import log
from .test_run import row_softmax, softmax, weights


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "rows.onnx"
    made = row_softmax(4)
    made.ir_version = 10  # that ONNX Runtime reads
    onnx.save(made, path)
    return path


def test_compile_and_run_as_a_graph(driver, model, tmp_path, capsys):
    artifact = tmp_path / "rows.so"
    assert run_command(["compile", str(model), "--target", "cuda", "-o", str(artifact)]) == 0
    x = np.random.default_rng(0).standard_normal((4, 70)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    words = ["run", str(artifact), "--input", f"x={tmp_path / 'x.npy'}", "--cuda-graph"]
    assert run_command([*words, "--device", "1", "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], softmax(x * weights()), rtol=1e-5, atol=1e-7)
    assert any(line.startswith("captured") for line in log(driver))
    assert run_command([*words, "--device", "7"]) == 1
    assert "device 7 asked for, there are 2" in capsys.readouterr().err


def test_profile_tells_times_and_limits_of_the_device(driver, model, capsys):
    words = ["profile", str(model), "--target", "cuda", "--runs", "2"]
    assert run_command(words) == 0
    text = capsys.readouterr().out
    assert "limits with the clocks that test device tells: 2560 GFLOP/s" in text
    assert run_command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limits"]["device"] == "test device"
    assert all(step["rule"].startswith("CUDA") for step in found["steps"])
    assert sum(step["milliseconds"] for step in found["steps"]) == pytest.approx(
        round(found["milliseconds"]), abs=0.2
    )


def test_bench_beside_onnx_runtime(driver, model, capsys, monkeypatch):
    monkeypatch.setattr("athanor.compiler.commands.bench.SECONDS_PER_TURN", 0.01)
    words = ["bench", str(model), "--target", "cuda", "--rounds", "1", "--cuda-graph"]
    assert run_command(words) == 0
    assert "athanor takes" in capsys.readouterr().out
