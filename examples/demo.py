"""Two real models, compiled and run beside ONNX Runtime. Run: make demo.

Each is compiled, saved, loaded again and timed on the same threads as ONNX Runtime, turn by turn
in one process. The digits network is also asked for the digits that it was not trained on.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table
from train_digits import DIGITS_ONNX, split_digits

import athanor
from athanor.compiler.commands.bench import interleave
from athanor.compiler.commands.compare import Difference, compare
from athanor.compiler.commands.compile import compile_with_progress
from athanor.compiler.commands.peers import onnxruntime as load_onnxruntime
from athanor.compiler.feeds import make_feeds

RESNET50_ONNX = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
THREADS = len(os.sched_getaffinity(0))
ROUNDS = 7


@dataclass
class Row:
    """What was measured of one model."""

    name: str
    compile_secs: float
    artifact_bytes: int
    ours_ms: float
    reference_ms: float
    difference: Difference


def measure(path: Path, folder: Path) -> tuple[Row, athanor.Model]:
    """Compile, load and time one model on a batch of 1."""
    started = time.perf_counter()
    artifact = compile_with_progress(path, target="native", shapes=None, database=None)
    compile_secs = time.perf_counter() - started
    saved = artifact.save(folder / f"{path.stem}.so")

    model = athanor.load(saved, threads=THREADS)
    reference = load_onnxruntime(path, THREADS)
    feeds = make_feeds(model.inputs, seed=0)
    outputs, expected = model.run(feeds), reference(feeds)
    differences = [
        compare(name, array, other)
        for (name, array), other in zip(outputs.items(), expected, strict=True)
    ]
    times = interleave({"ours": lambda: model.run(feeds), "ort": lambda: reference(feeds)}, ROUNDS)
    row = Row(
        path.stem,
        compile_secs,
        saved.stat().st_size,
        statistics.median(times["ours"]),
        statistics.median(times["ort"]),
        max(differences, key=lambda difference: difference.relative),
    )
    return row, model


def print_table(rows: list[Row]) -> None:
    """The table, and on what it was measured."""
    table = Table(title=f"{THREADS} threads, batch 1, median of {ROUNDS} interleaved rounds")
    table.add_column("model")
    for title in ("compile", "artifact", "Athanor", "ONNX Runtime", "ratio", "difference"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.compile_secs:.1f} s",
            f"{row.artifact_bytes / 1e6:.2f} MB",
            f"{row.ours_ms:.3f} ms",
            f"{row.reference_ms:.3f} ms",
            f"{row.ours_ms / row.reference_ms:.2f}",
            f"{row.difference.relative:.1e}",
        )
    Console(width=100).print(table)
    print("ratio: Athanor's time over ONNX Runtime's; difference: largest, over the output's")
    print("largest magnitude (the weights of light_resnet50 are constants; the tests draw others)")
    print(
        f"Athanor {athanor.__version__}, ONNX Runtime {onnxruntime.__version__}, "
        f"Python {platform.python_version()}, {processor()}"
    )


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def held_out_accuracy(model: athanor.Model) -> tuple[float, int]:
    """Share of the held-out digits that the network names right, and how many there are."""
    _, _, images, labels = split_digits()
    found = model.run({"image": np.ascontiguousarray(images)})["probabilities"].argmax(1)
    return float((found == labels).mean()), len(labels)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        digits, digits_model = measure(DIGITS_ONNX, Path(folder))
        resnet, _ = measure(RESNET50_ONNX, Path(folder))
        accuracy, count = held_out_accuracy(digits_model)
    print_table([digits, resnet])
    print(f"digits: {accuracy:.2%} of {count} held-out images named right")
    assert accuracy > 0.97, "the compiled network names fewer digits right than the trained one"
    assert max(digits.difference.relative, resnet.difference.relative) < 1e-4


if __name__ == "__main__":
    main()
