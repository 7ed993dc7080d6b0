"""The fuzzer for a bounded time, and that it sees what it is there to see."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import athanor

from . import mutate, sandbox, seeds

HERE = Path(__file__).resolve().parent
SECONDS = 20


def test_mutated_models_compile_or_are_refused(tmp_path):
    """No crash, hang, other exception or write elsewhere; by hand: fuzz.py --seconds N --seed S."""
    command = [sys.executable, HERE / "fuzz.py", "--seconds", SECONDS, "--keep", tmp_path]
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    details = "\n".join(path.read_text()[-2000:] for path in sorted(tmp_path.glob("*.txt")))
    assert result.returncode == 0, f"{result.stdout}{result.stderr}{details}"
    assert "ok " in result.stdout
    assert "refused " in result.stdout


@pytest.mark.parametrize("name", seeds.seeds())
def test_seeds_compile(name, tmp_path):
    """What is mutated is valid, or the fuzzer would see nothing but refusals."""
    (tmp_path / "weights.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(seeds.seeds()[name].SerializeToString())
    assert athanor.check(path).compiles


@pytest.mark.parametrize("change", [mutate.mutate_bytes, mutate.mutate_fields])
def test_a_mutation_follows_from_its_seed(change):
    model = seeds.seeds()["images"]
    source = model.SerializeToString() if change is mutate.mutate_bytes else model
    one, same, other = (change(source, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


def ended(case, tmp_path):
    return sandbox.run_case(case, tmp_path)


def test_the_sandbox_tells_outcomes_apart(tmp_path):
    def refuse():
        raise athanor.CompileError("no")

    assert ended(lambda: "ok", tmp_path).kind == "ok"
    assert ended(refuse, tmp_path).kind == "refused"
    assert "ZeroDivisionError" in ended(lambda: 1 // 0, tmp_path).detail
    crash = ended(lambda: os.kill(os.getpid(), signal.SIGSEGV), tmp_path)
    assert (crash.kind, crash.detail.strip()) == ("crash", "SIGSEGV")


def test_the_sandbox_limits_time_and_memory(tmp_path, monkeypatch):
    def spin():
        while True:
            pass

    monkeypatch.setattr(sandbox, "CPU_SECS", 1)
    assert ended(spin, tmp_path).kind == "timeout"
    monkeypatch.setattr(sandbox, "WALL_SECS", 0.5)
    assert ended(lambda: time.sleep(60), tmp_path).kind == "timeout"
    monkeypatch.undo()
    hungry = ended(lambda: bytes(2 * sandbox.MEMORY_BYTES), tmp_path)
    assert (hungry.kind, "MemoryError" in hungry.detail) == ("error", True)


def test_the_sandbox_sees_writes_outside_its_folder(tmp_path):
    inside, outside = tmp_path / "work", tmp_path / "elsewhere"
    inside.mkdir()
    assert ended(lambda: (inside / "x").write_text("x") and "ok", inside).kind == "ok"
    for write in (outside.mkdir, lambda: outside.write_text("x"), (HERE / "x").unlink):
        assert "writes outside" in ended(write, inside).detail
    assert not outside.exists()
