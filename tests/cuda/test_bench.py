"""bench/cuda_pack.py, cuda.py and cuda_suite.py, with the test driver in the place of a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from . import emulation
from .test_images import two_kernels

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def pack():
    spec = importlib.util.spec_from_file_location("cuda_pack", BENCH / "cuda_pack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_model(path):
    """relu(x @ w) of float32[1, 128], and a gather by indices."""
    value = helper.make_tensor_value_info
    weight = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["positive"]),
            helper.make_node("Reshape", ["positive", "flat"], ["rows"]),
            helper.make_node("Gather", ["rows", "ids"], ["y"], axis=1),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, 128]), value("ids", TensorProto.INT64, [3])],
        [value("y", TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(np.array([1, 64]), "flat"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)


def case(operator):
    """A case of the suite as onnx has it."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [3, 5])],
        [value("y", TensorProto.FLOAT, [3, 5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    y = ReferenceEvaluator(model).run(None, {"x": x})
    name = f"test_{operator.lower()}"
    return SimpleNamespace(name=name, model=model, data_sets=[([x], y)], rtol=1e-3, atol=1e-7)


def in_folder(folder, *words):
    """A script on a machine that has the folder, NumPy and a driver."""
    library = Path(emulation.driver()._name).parent
    environment = {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(library)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_models_are_packed_and_measured_without_tvm(driver, pack, tmp_path):
    path = tmp_path / "small.onnx"
    small_model(path)
    folder = tmp_path / "packed"
    pack.pack_runtime(folder)
    entries = [
        entry
        for batch in (1, 2)
        for entry in pack.pack_model(folder, path, "cuda -arch=sm_90", batch, ["fp32"])
    ]
    entries += pack.pack_products(folder, 32, "cuda -arch=sm_90", ["fp32"])
    names = [entry["name"] for entry in entries]
    assert names == ["small-fp32-b1", "small-fp32-b2", "product32-fp32"]
    assert entries[0]["drawn"] and entries[0]["drawn"][0][1:3] == ["float32", 128 * 64]
    assert not list(folder.glob("*.weights"))
    (folder / "models.json").write_text(json.dumps(entries))
    words = ["cuda.py", "--rounds", "2", "--seconds", "0", "--without", "onnxruntime"]
    done = in_folder(folder, *words)
    assert done.returncode == 0, done.stderr
    assert "small-fp32-b2: athanor " in done.stdout
    table = (folder / "cuda.md").read_text()
    assert "| small | fp32 | 2 | " in table and "test device" in table
    rows = json.loads((folder / "cuda.json").read_text())["rows"]
    assert all(row["milliseconds"]["athanor"] > 0 for row in rows)
    assert "athanor graph" in rows[-1]["milliseconds"]
    loaded = in_folder(folder, "-c", "import sys, cuda; print('tvm' in sys.modules)")
    assert loaded.stdout.strip() == "False"


def test_drawn_weights_have_mean_and_deviation(pack, tmp_path):
    spec = importlib.util.spec_from_file_location("cuda_bench", BENCH / "cuda.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    entry = {
        "name": "m",
        "weights_bytes": 4 * 40000 + 2 * 30000,
        "drawn": [
            [0, "float32", 40000, 1.0, 0.5, False],
            [160000, "bfloat16", 30000, 0.0, 2.0, True],
        ],
    }
    (tmp_path / "m.so").write_bytes(b"code")
    np.savez(tmp_path / "m.npz")
    (tmp_path / "to").mkdir()
    path = bench.unpack(entry, tmp_path, tmp_path / "to")
    raw = np.fromfile(f"{path}.weights", np.uint8)
    first = raw[:160000].view(np.float32)
    assert (first.mean(), first.std()) == pytest.approx((1.0, 0.5), abs=0.02)
    second = (raw[160000:].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert second.min() >= 0 and np.sqrt((second**2).mean()) == pytest.approx(2.0, abs=0.05)


def test_cases_of_the_suite_are_packed_and_run(driver, pack, tmp_path, monkeypatch):
    from onnx.backend.test import loader

    cases = [case(name) for name in ("Relu", "Softmax", "Softplus")]
    monkeypatch.setattr(loader, "load_model_tests", lambda kind: cases if kind == "node" else [])
    folder = tmp_path / "packed"
    pack.pack_runtime(folder)
    pack.pack_suite(folder, "cuda -arch=sm_90", 1)
    done = in_folder(folder, "cuda_suite.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_relu passes" in done.stdout
    assert "3 of 3 cases pass on the device" in done.stdout
    # a wrong result is told
    path = folder / "suite" / "test_relu.zip"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(folder / "suite" / "test_softmax.zip") as file:
        parts["arrays.npz"] = file.read("arrays.npz")
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    done = in_folder(folder, "cuda_suite.py", "--only", "relu")
    assert done.returncode == 1 and "test_relu FAILS: " in done.stdout


def test_launches_are_counted(tmp_path, capsys, monkeypatch):
    """Of softmax(x @ weight)."""
    spec = importlib.util.spec_from_file_location("cuda_launches", BENCH / "cuda_launches.py")
    launches = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launches)
    onnx.save(two_kernels(), tmp_path / "m.onnx")
    arguments = ["cuda_launches.py", str(tmp_path / "m.onnx"), "--steps"]
    monkeypatch.setattr("sys.argv", [*arguments, "--precision", "fp32"])
    launches.main()
    first, *steps = capsys.readouterr().out.splitlines()
    assert first == "m, fp32: 2 launches (CUDAMatmul 1, CUDARows 1)"
    assert [step.split()[:4] for step in steps] == [
        ["CUDAMatmul", "1", "float32", "rowsx50"],
        ["CUDARows", "1", "float32", "rowsx50"],
    ]
