"""Measures Athanor beside ONNX Runtime and OpenVINO and writes results.json and results.md.

Models: the light_ models of the onnx package with random weights, the models given as paths, the
shapes of shapes.py and the trees of forests.py.
On a quiet machine: make bench MODELS="bert.onnx gpt2.onnx"
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import core_distance
import forests
import onnx
import report
import shapes

import athanor
from athanor.compiler.commands import bench
from athanor.compiler.commands.peers import usable_cores
from athanor.errors import AthanorError
from athanor.targets import PRECISIONS, target_for_precision

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "models"))
import light  # noqa: E402

PEERS = ["onnxruntime", "openvino"]
PEERS_BF16 = ["openvino-bf16"]
"""With --precision bf16."""
PACKAGES = ("apache-tvm", *PEERS)
QUICK_STEP = 8
"""With --quick one model of so many."""
DENSE = ("MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="more ONNX models")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few models, short turns")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--only", nargs="+", help="models whose name holds one of these texts")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.quick:
        bench.SECONDS_PER_TURN = 0.02
    results = describe(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, kind, path) in enumerate(models(Path(folder), arguments.models)):
            few = arguments.quick and not arguments.only
            wanted = not arguments.only or any(text in name for text in arguments.only)
            if not wanted or (few and number % QUICK_STEP):
                continue
            try:
                results["rows"] += measure(name, kind, path, arguments)
            except AthanorError as error:
                results["refused"][name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
            if path.parent == Path(folder):
                path.unlink()
    if not results["rows"]:
        sys.exit("nothing was measured")
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    stem = "results" if arguments.precision == "fp32" else f"results-{arguments.precision}"
    (arguments.output / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
    (arguments.output / f"{stem}.md").write_text(report.markdown(results), encoding="utf-8")
    print(f"wrote {arguments.output / stem}.json and {stem}.md")


def models(folder: Path, paths: list[Path]) -> Iterator[tuple[str, str, Path]]:
    """Name, kind and path of every model; those that are made go to `folder`, one at a time."""
    made = folder / "model.onnx"
    for name in light.NAMES:
        model = light.random_light_model(name)
        onnx.save(model, made)
        yield name, kind_of(model), made
    for path in paths:
        yield path.stem, kind_of(onnx.load(path, load_external_data=False)), path
    for name, model in shapes.shape_models():
        onnx.save(model, made)
        yield name, "shapes that libraries are not tuned for", made
    for name, model in forests.forest_models():
        onnx.save(model, made)
        yield name, forests.KIND, made


def kind_of(model: onnx.ModelProto) -> str:
    """What most of a model's arithmetic operators are."""
    operators = [node.op_type for node in model.graph.node]
    products = sum(operators.count(name) for name in DENSE)
    many = operators.count("Conv") >= products
    return "convolutional models" if many else "transformers and recurrent models"


def measure(name: str, kind: str, path: Path, arguments: argparse.Namespace) -> list[dict]:
    """A row for each number of threads. Raises AthanorError where a side can't run the model."""
    artifact = athanor.compile(path, precision=arguments.precision)
    rows = []
    for threads in arguments.threads:
        names = [
            peer for peer in peers_of(arguments) if kind != forests.KIND or peer in forests.PEERS
        ]
        peers = bench.load_peers(path, names, threads)
        several = threads > 1 and usable_cores() > 1
        distance = core_distance.handover_ns() if several else None
        with artifact.load(threads=threads) as ours:
            found = bench.compare_runtimes(path, ours, peers, rounds=arguments.rounds)
        row = {
            "model": name,
            "kind": kind,
            "threads": threads,
            "milliseconds": found.medians,
            "spread": {
                peer: statistics.pstdev(times) / statistics.mean(times)
                for peer, times in found.times.items()
            },
            "difference": max(found.differences.values()),
            "core_to_core_ns": distance,
        }
        rows.append(row)
        times = "  ".join(f"{peer} {ms:.3f}" for peer, ms in found.medians.items())
        print(f"{name}, {threads}: {times}  ratio {report.ratio(row):.2f}", flush=True)
    return rows


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on besides the models."""
    return {
        "command": shlex.join(["python", "bench/run.py", *_named(sys.argv[1:])]),
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "cores": usable_cores(),
            "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        },
        "versions": versions(),
        "target": target_for_precision("native", arguments.precision).name,
        "peers": peers_of(arguments),
        "precision": arguments.precision,
        "python": platform.python_version(),
        "rounds": arguments.rounds,
        "rows": [],
        "refused": {},
    }


def peers_of(arguments: argparse.Namespace) -> list[str]:
    """What to measure beside: what computes in the same precision."""
    return PEERS_BF16 if arguments.precision == "bf16" else PEERS


def _named(words: list[str]) -> list[str]:
    """Command line without the folders of this machine."""
    return [Path(word).name if os.sep in word else word for word in words]


def commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Of what is measured."""
    return {name: importlib.metadata.version(name) for name in ("athanor", *PACKAGES)}


def processor() -> str:
    """The processor's name and instruction sets that matter."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
