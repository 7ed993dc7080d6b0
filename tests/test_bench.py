"""bench/: its models, its measuring and its report."""

import importlib
import json
import sys
from pathlib import Path

import onnx
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def bench():
    """bench/'s modules, as they are when bench/run.py runs."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {
            name: importlib.import_module(name) for name in ("report", "shapes", "forests", "run")
        }
    finally:
        sys.path[:] = before


def test_shapes_are_valid_and_many(bench):
    models = dict(bench["shapes"].shape_models())
    specs = len(bench["shapes"].CONVOLUTIONS) + len(bench["shapes"].PRODUCTS)
    assert len(models) == specs >= 30  # names are unique
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == 1


def test_forests_are_valid(bench):
    for name, model in bench["forests"].forest_models():
        onnx.checker.check_model(model, full_check=True)
        assert name.startswith("500 trees")


def test_a_quick_run_writes_both_files(bench, tmp_path, monkeypatch):
    run = bench["run"]
    monkeypatch.setattr(run, "PEERS", ["onnxruntime"])
    monkeypatch.setattr(run, "PACKAGES", ("onnxruntime",))
    monkeypatch.setattr(run.light, "NAMES", [])
    options = ["--quick", "--rounds", "1", "--only", "matmul: m = 1, few"]
    monkeypatch.setattr(sys, "argv", ["run.py", *options, "--output", str(tmp_path)])
    monkeypatch.setattr(run.bench, "SECONDS_PER_TURN", 0.25)  # put back: --quick sets it
    run.main()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["threads"] for row in results["rows"]] == [1, 2]
    assert all(set(row["milliseconds"]) == {"athanor", "onnxruntime"} for row in results["rows"])
    assert all(row["difference"] < 1e-4 for row in results["rows"])
    page = (tmp_path / "results.md").read_text()
    assert "| matmul: m = 1, few columns | 2 |" in page
    assert str(tmp_path) not in page


def test_the_report(bench):
    def row(model, threads, ours, *peers):
        times = dict(zip(("athanor", "a", "b"), (ours, *peers), strict=False))
        return {"model": model, "kind": "models", "threads": threads, "milliseconds": times,
                "difference": 1e-6}  # fmt: skip

    results = {
        "command": "c", "commit": "1234", "target": "t", "rounds": 3, "python": "3", "refused": {},
        "precision": "bf16",
        "machine": {"processor": "p", "cores": 2, "system": "s"}, "versions": {"athanor": "1"},
        "peers": ["a", "b"],
        "rows": [row("m", 1, 2.0, 4.0, 8.0), row("n", 1, 8.0, 4.0), row("m", 2, 1.25, 5.0, 2.5)],
    }  # fmt: skip
    page = bench["report"].markdown(results)
    assert "target `t`. bf16, batch 1" in page
    assert "| models | 1 | 2 | 1.00 | 2.00 |" in page  # of 0.5 and 2
    assert "| m | 2 | 1.25 | 5 | 2.5 | 0.50 | 1.60 | 1e-06 |" in page
    assert "| n | 1 | 8 | 4 | - | 2.00 |  | 1e-06 |" in page
