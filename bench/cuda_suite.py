"""Runs packed cases of ONNX's backend suite on this machine's GPU; see cuda_pack.py.

    PYTHONPATH=. python cuda_suite.py

Needs NumPy, the driver, and what lies in this folder. Exits 1 where a case fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import athanor

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run all cases, print those that fail."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE / "suite")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    paths = [p for p in sorted(arguments.folder.glob("*.zip")) if arguments.only in p.name]
    failed = 0
    for path in paths:
        # Told before: a kernel that breaks the device breaks it for the whole process.
        print(path.stem, end=" ", flush=True)
        wrong = run_case(path, arguments.device)
        failed += wrong is not None
        print("passes" if wrong is None else f"FAILS: {wrong}", flush=True)
    print(f"{len(paths) - failed} of {len(paths)} cases pass on the device")
    return 1 if failed or not paths else 0


def run_case(path: Path, device: int) -> str | None:
    """What is wrong with a case; None where its outputs are the expected ones."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as file:
        file.extractall(folder)
        limits = json.loads(Path(folder, "case.json").read_text())
        with np.load(Path(folder, "arrays.npz")) as arrays:
            values = dict(arrays)
        try:
            with athanor.load(Path(folder, "model.so"), device=device) as model:
                inputs = [values[f"input{i}"] for i in range(len(model.inputs))]
                results = model(*inputs)
        except athanor.RunError as error:
            return str(error)
    results = results if isinstance(results, tuple) else (results,)
    for number, result in enumerate(results):
        expected = values.get(f"output{number}")
        if expected is None or result.shape != expected.shape or result.dtype != expected.dtype:
            return f"output {number} is {result.dtype}{result.shape}"
        close = np.isclose(
            result.astype(np.complex128),
            expected.astype(np.complex128),
            limits["rtol"],
            limits["atol"],
            equal_nan=True,
        )
        if not close.all():
            difference = np.abs(result.astype(np.complex128) - expected.astype(np.complex128))
            off = f"{(~close).sum()} of {close.size} elements of output {number} are off"
            return f"{off}, the most by {np.nanmax(difference):.3g}"
    return None


if __name__ == "__main__":
    sys.exit(main())
