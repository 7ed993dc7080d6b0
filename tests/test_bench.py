"""bench/: its models, its measuring and its report."""

import importlib
import json
import sys
from pathlib import Path

import onnx
import pytest

NAMES = (
    "core_distance",
    "report",
    "shapes",
    "forests",
    "run",
    "bandwidth",
    "tuning_models",
    "stock",
    "tuning_stock",
)
FOLDER = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def bench():
    """bench/'s modules, as they are when bench/run.py runs."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path[:] = before


def test_shapes_are_valid_and_many(bench):
    models = dict(bench["shapes"].shape_models())
    specs = len(bench["shapes"].CONVOLUTIONS) + len(bench["shapes"].PRODUCTS)
    assert len(models) == specs >= 30  # names are unique
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == 1


def test_the_work_of_a_shape(bench):
    models = dict(bench["shapes"].shape_models())
    work = bench["shapes"].work
    # (1, 64, 28, 28), 4 groups, 3x3, 64 out, a bias
    taps = 16 * 9
    values = 2 * 64 * 28 * 28 + 64 * taps + 64
    assert work(models["conv: 4 groups"]) == (2 * taps * 64 * 28 * 28, 4 * values)
    product = models["matmul: batch 3, odd, both of the run"]
    assert work(product) == (2 * 3 * 17 * 33 * 65, 4 * 3 * (17 * 33 + 33 * 65 + 17 * 65))


def test_when_a_job_had_found_its_gain(bench):
    """A gain that is lost again, for it was luck, counts from when it came back."""
    row = {
        "kernels_untuned": 10.0,
        "kernels_tuned": 6.0,
        "curve": [(1, 1, 10.0), (5, 9, 7.0), (6, 17, 8.5), (20, 33, 7.0), (60, 65, 6.0)],
    }
    seconds_to = bench["tuning_models"].seconds_to
    assert [seconds_to(part, row) for part in (0.25, 0.5, 0.75, 1.0)] == [5, 20, 20, 60]
    still = {"kernels_untuned": 10.0, "kernels_tuned": 10.0, "curve": [(1, 1, 10.0)]}
    assert seconds_to(0.95, still) == 0


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
                "core_to_core_ns": 31.2 if threads > 1 else None, "difference": 1e-6}  # fmt: skip

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
    assert "| m | 2 | 1.25 | 5 | 2.5 | 0.50 | 1.60 | 31 | 1e-06 |" in page
    assert "| n | 1 | 8 | 4 | - | 2.00 |  |  | 1e-06 |" in page


def test_a_cache_line_takes_its_time(bench):
    assert 1 < bench["core_distance"].handover_ns() < 1e7


def test_stock_operators_are_the_shapes(bench):
    """MetaSchedule searches for the operator that the model has: sizes of its buffers agree."""
    models = dict(bench["shapes"].shape_models())
    for name in bench["tuning_stock"].SHAPES:
        func = bench["stock"].operator(name)
        sizes = [tuple(int(dim) for dim in param.shape) for param in func.params]
        graph = models[name].graph
        values = (*graph.input, *graph.output)
        dims = [tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values]
        assert sizes[0] == dims[0] and sizes[-1] == dims[-1]
        assert sizes[1] == tuple(graph.initializer[0].dims)


def test_trials_to_a_time(bench):
    class Report:
        heuristic_secs = 1.0
        history = ((1, 3, 1.0), (2, 11, 0.9), (3, 30, 0.7))

    trials_to = bench["tuning_stock"].trials_to
    ratios = (1.2, 1.0, 0.95, 0.7, 0.6)
    assert [trials_to(ratio, Report, 3) for ratio in ratios] == [1, 1, 9, 28, None]
    fewer = bench["tuning_stock"].fewer
    assert fewer({"stock_trials": 60, "our_trials": 9}) == pytest.approx(60 / 9)
    assert fewer({"stock_trials": 60, "our_trials": None}) == 0
