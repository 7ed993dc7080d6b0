"""Mutated models: each is compiled and run, or refused with a CompileError, within limits.

    python tests/fuzz/fuzz.py --seconds 600 --seed 1 --keep /tmp/findings

Prints a count of outcomes and every kind of finding once; the exit status is 1 where there is one.
`--suite` mutates the models of ONNX's backend suite as well; `--case N` runs one case again.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from mutate import mutate_bytes, mutate_fields
from sandbox import run_case
from seeds import seeds, suite_seeds

import athanor
import athanor.compiler.driver  # imported before the first fork: TVM takes its second once
from athanor.compiler.feeds import make_feeds

_FEED_BYTES = 1 << 24  # larger inputs are not made up


def mutant(models, rng):
    """Name of the seed, and the bytes of a mutation of it."""
    name = rng.choice(sorted(models))
    if rng.random() < 0.3:
        return name, mutate_bytes(models[name].SerializeToString(), rng)
    changed = mutate_fields(models[name], rng)
    try:
        return name, changed.SerializeToString()
    except ValueError:  # a name that is no UTF-8
        return name, changed.SerializePartialToString()


def case(folder):
    """Compile the folder's model and run it on made-up inputs."""
    model = athanor.compile(folder / "model.onnx", cache=False).load(threads=1)
    if any(x.shape is None for x in model.inputs):  # elements of a sequence with ranks of their own
        return "ok"
    size = sum(
        int(np.prod([d if isinstance(d, int) else 1 for d in x.shape], dtype=object))
        * np.dtype(x.dtype).itemsize
        for x in model.inputs
    )
    if size <= _FEED_BYTES:
        model.run(make_feeds(model.inputs))
    return "ok"


def signature(outcome):
    """What makes two findings one: the kind and the last frames, without numbers and names."""
    frames = re.findall(r'File "[^"]*?(\w+\.py)", line (\d+)', outcome.detail)
    last = outcome.detail.strip().splitlines()[-1][:60] if outcome.detail.strip() else ""
    return f"{outcome.kind} {frames[-1:]} {re.sub(r'[0-9]+', '#', last)}"


def fuzz(models, seconds, seed, keep=None, only=None):
    """Run until the time is up; counts of outcomes, and {signature: (case, outcome)}."""
    counts, findings = Counter(), {}
    ends, number = time.monotonic() + seconds, 0
    while time.monotonic() < ends or not number:
        number = only if only is not None else number + 1
        name, data = mutant(models, random.Random(f"{seed}/{number}"))
        folder = Path(tempfile.mkdtemp(prefix="athanor-fuzz-")).resolve()
        try:
            (folder / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
            (folder / "model.onnx").write_bytes(data)
            outcome = run_case(lambda folder=folder: case(folder), folder)
            counts[outcome.kind] += 1
            key = signature(outcome)
            if only is not None:
                print(outcome.kind, outcome.detail)
            if outcome.is_finding and key not in findings:
                findings[key] = (number, outcome)
                print(f"case {number} of {name}, {outcome.secs:.1f} s: {key}", flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}.onnx").write_bytes(data)
                    (keep / f"{seed}-{number}.txt").write_text(outcome.detail)
        finally:
            shutil.rmtree(folder)
        if only is not None:
            break
    return counts, findings


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for models that are findings")
    parser.add_argument("--suite", action="store_true", help="mutate ONNX's suite as well")
    parser.add_argument("--case", type=int, help="run this case alone and print its outcome")
    given = parser.parse_args()
    models = {**seeds(), **(dict(suite_seeds()) if given.suite else {})}
    counts, findings = fuzz(models, given.seconds, given.seed, given.keep, given.case)
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
