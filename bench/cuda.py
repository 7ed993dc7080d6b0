"""Times packed models on this machine's GPU beside torch and ONNX Runtime, where these are there.

    PYTHONPATH=. python cuda.py --output results

Needs NumPy, the driver, and what cuda_pack.py has put into this folder; no TVM, no toolkit. All run
in turn, call after call, each call to its end; the figure is the median of the rounds' medians.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import athanor
from athanor.errors import RunError

HERE = Path(__file__).resolve().parent
OURS, GRAPH, EAGER, COMPILED = "athanor", "athanor graph", "torch", "torch.compile"
ORT, TENSORRT = "onnxruntime", "TensorRT"
COLUMNS = (OURS, GRAPH, EAGER, COMPILED, ORT, TENSORRT)
_CHUNK = 1 << 24

Runners = dict[str, Callable[[], object]]


def main() -> None:
    """Measure every packed model and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--output", type=Path, default=HERE, help="folder for cuda.md, cuda.json")
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    parser.add_argument("--without", default="", help="columns to leave out, as torch.compile,...")
    arguments = parser.parse_args()
    entries = json.loads((arguments.folder / "models.json").read_text())
    rows = []
    device: dict[str, Any] = {}
    for entry in entries:
        if arguments.only not in entry["name"]:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            path = unpack(entry, arguments.folder, Path(scratch))
            try:
                row, device = measure(entry, path, arguments)
            except ModuleNotFoundError as error:  # inputs of bfloat16 want ml_dtypes
                print(f"{entry['name']}: left out: {error}", file=sys.stderr)
                continue
        rows.append(row)
        print(_line(row), flush=True)
        write(arguments.output, rows, device)  # after each: a lease may end


def unpack(entry: Mapping[str, Any], folder: Path, target: Path) -> Path:
    """The artifact with its weights, drawn where they were not packed."""
    path = target / f"{entry['name']}.so"
    path.write_bytes((folder / path.name).read_bytes())
    weights = np.zeros(entry["weights_bytes"], np.uint8)
    with np.load(folder / f"{entry['name']}.npz") as kept:
        for key in kept.files:
            if not key.startswith("input:"):
                raw = kept[key]
                weights[int(key) : int(key) + raw.size] = raw
    for offset, dtype, count, mean, deviation, is_positive in entry["drawn"]:
        generator = np.random.default_rng(offset)
        for start in range(0, count, _CHUNK):
            values = generator.standard_normal(min(_CHUNK, count - start), np.float32)
            values = values * np.float32(deviation) + np.float32(mean)
            raw = as_type(np.abs(values) if is_positive else values, dtype).view(np.uint8)
            at = offset + start * (raw.size // values.size)
            weights[at : at + raw.size] = raw
    weights.tofile(path.with_name(path.name + ".weights"))
    return path


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rounded to a type; bfloat16, which NumPy has not, as its bits."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def feeds_of(entry: Mapping[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """The packed inputs, and drawn ones for the rest; bfloat16 as its bits."""
    feeds = {}
    with np.load(folder / f"{entry['name']}.npz") as kept:
        for number, spec in enumerate(entry["inputs"]):
            key = f"input:{spec['name']}"
            if key in kept.files:
                feeds[spec["name"]] = kept[key]
                continue
            values = np.random.default_rng(number).standard_normal(spec["shape"], np.float32)
            feeds[spec["name"]] = as_type(values, spec["dtype"])
    return feeds


def measure(
    entry: Mapping[str, Any], path: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One model's times, and what the device is."""
    torch = _module("torch")
    torch = torch if torch is not None and torch.cuda.is_available() else None
    without = arguments.without.split(",")
    feeds = feeds_of(entry, arguments.folder)
    stream = None if torch is None else torch.cuda.current_stream()
    given: dict[str, Any] = feeds
    if torch is not None:
        given = {
            spec["name"]: _on_gpu(torch, feeds[spec["name"]], spec["dtype"])
            for spec in entry["inputs"]
        }
    runners: Runners = {}
    notes: dict[str, str] = {}
    model = athanor.load(path, stream=stream, verify=False)
    finish = (lambda: None) if torch is None else torch.cuda.synchronize
    runners[OURS] = lambda: model.run(given, outputs="device")
    try:
        graph = model.new_session(stream=stream, cuda_graph=True)
        runners[GRAPH] = lambda: graph.run(given, outputs="device")
    except RunError as error:
        notes[GRAPH] = str(error)
    if torch is not None:
        _add_torch(torch, entry, given, runners, notes, without)
    if "onnx" in entry:
        _add_onnxruntime(entry, arguments.folder, feeds, runners, notes, without)
    times: dict[str, list[float]] = {name: [] for name in runners if name not in without}
    for number in range(arguments.rounds):
        for name in list(times):
            try:
                times[name].append(turn(runners[name], finish, arguments.seconds, number == 0))
            except Exception as error:  # a peer's, of whatever class; ours ends the program
                if name in (OURS, GRAPH):
                    raise
                notes[name] = f"{type(error).__name__}: {str(error).strip()[:200]}"
                del times[name]
    medians = {name: statistics.median(values) for name, values in times.items()}
    described = {**model.device_info, "driver": _driver_version()}
    for package in ("torch", "onnxruntime", "tensorrt", "numpy"):
        found = _module(package)
        if found is not None:
            described[package] = found.__version__
    row = {key: entry[key] for key in ("name", "model", "precision", "batch")}
    row |= {"milliseconds": medians, "notes": notes}
    if "operations" in entry:
        row["operations"] = entry["operations"]
    if torch is None:
        row["notes"]["inputs"] = "from the host in each call: there is no torch"
    return row, described


def turn(run: Callable[[], object], finish: Callable[[], object], secs: float, warm: bool) -> float:
    """Median milliseconds of a call, each to its end."""
    if warm:
        for _ in range(3):
            run()
        finish()
    times = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < secs:
        begun = time.perf_counter()
        run()
        finish()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def _on_gpu(torch: Any, array: np.ndarray, dtype: str) -> Any:
    tensor = torch.from_numpy(array.view(np.int16) if dtype == "bfloat16" else array)
    tensor = tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
    return tensor.cuda()


def _add_torch(
    torch: Any,
    entry: Mapping[str, Any],
    given: Mapping[str, Any],
    runners: Runners,
    notes: dict[str, str],
    without: list[str],
) -> None:
    import cuda_modules

    module = cuda_modules.find_module(entry["model"])
    if module is None:
        return
    precision = entry["precision"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    inputs = [t.to(kind) if t.is_floating_point() else t for t in given.values()]
    module = module.to("cuda", kind)
    if all(t.dim() == 4 for t in inputs) and kind != torch.float32:
        module = module.to(memory_format=torch.channels_last)
        inputs = [t.to(memory_format=torch.channels_last) for t in inputs]

    def runner(function: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return function(*inputs)

        return run

    if EAGER not in without:
        runners[EAGER] = runner(module)
    if COMPILED not in without:
        try:
            runners[COMPILED] = runner(torch.compile(module, mode="max-autotune"))
        except RuntimeError as error:
            notes[COMPILED] = str(error)[:200]


def _add_onnxruntime(
    entry: Mapping[str, Any],
    folder: Path,
    feeds: Mapping[str, np.ndarray],
    runners: Runners,
    notes: dict[str, str],
    without: list[str],
) -> None:
    ort = _module("onnxruntime")
    if ort is None:
        return
    is_half, is_plain = entry["precision"] == "fp16", entry["precision"] in ("fp32", "tf32")
    tf32 = {"use_tf32": int(entry["precision"] == "tf32")}
    wanted = (
        (ORT, "CUDAExecutionProvider", tf32, is_plain),
        (TENSORRT, "TensorrtExecutionProvider", {"trt_fp16_enable": is_half}, is_plain or is_half),
    )
    for name, provider, options, fits in wanted:
        if not fits or name in without or provider not in ort.get_available_providers():
            continue
        try:
            session = ort.InferenceSession(folder / entry["onnx"], providers=[(provider, options)])
            if provider not in session.get_providers():
                raise RuntimeError(f"{provider} does not start")
            binding = session.io_binding()
            for value in session.get_inputs():
                binding.bind_ortvalue_input(
                    value.name, ort.OrtValue.ortvalue_from_numpy(feeds[value.name], "cuda", 0)
                )
            for value in session.get_outputs():
                binding.bind_output(value.name, "cuda")
            runners[name] = lambda s=session, b=binding: s.run_with_iobinding(b)
        except Exception as error:  # of classes of its own
            notes[name] = f"{type(error).__name__}: {str(error).strip()[:200]}"


def _module(name: str) -> Any | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _driver_version() -> str:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0].strip() if path.exists() else "unknown"


def write(folder: Path, rows: list[dict[str, Any]], device: Mapping[str, Any]) -> None:
    """cuda.json and cuda.md."""
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", *sys.argv])
    data = {"device": dict(device), "command": command, "rows": rows}
    (folder / "cuda.json").write_text(json.dumps(data, indent=1))
    used = [name for name in COLUMNS if any(name in row["milliseconds"] for row in rows)]
    versions = [f"{name} {device[name]}" for name in ("torch", "onnxruntime") if name in device]
    lines = [
        "# Models on a GPU",
        "",
        f"{device['name']}, {device['memory_bytes'] / 2**30:.0f} GiB, {device['driver']}; "
        f"{os.cpu_count()} cores; athanor {athanor.__version__}"
        + "".join(f", {version}" for version in versions)
        + f". `{command}`",
        "",
        "Milliseconds of a call to its end, the median; inputs and outputs on the GPU. Ratio: the "
        "faster of ours over the fastest other.",
        "",
        "| model | precision | batch | " + " | ".join(used) + " | ratio | TFLOP/s |",
        "|---|---|--:|" + "--:|" * (len(used) + 2),
    ]
    lines += [_table_row(row, used) for row in rows]
    notes = [
        f"- {row['name']}, {key}: {text}" for row in rows for key, text in row["notes"].items()
    ]
    (folder / "cuda.md").write_text("\n".join([*lines, "", *notes, ""]))


def _table_row(row: Mapping[str, Any], used: list[str]) -> str:
    times = row["milliseconds"]
    ours = min(times[name] for name in (OURS, GRAPH) if name in times)
    others = [value for name, value in times.items() if name not in (OURS, GRAPH)]
    cells = [f"{times[name]:.3f}" if name in times else "" for name in used]
    ratio = f"{ours / min(others):.2f}" if others else ""
    rate = f"{row['operations'] / ours / 1e9:.0f}" if "operations" in row else ""
    head = f"| {row['model']} | {row['precision']} | {row['batch']} | "
    return head + " | ".join([*cells, ratio, rate]) + " |"


def _line(row: Mapping[str, Any]) -> str:
    times = ", ".join(f"{name} {value:.3f}" for name, value in row["milliseconds"].items())
    return f"{row['name']}: {times} ms"


if __name__ == "__main__":
    main()
