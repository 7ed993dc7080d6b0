"""Small models compiled for AArch64 and run by qemu, against the same models compiled for here."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import athanor

from ..models import small

HERE = Path(__file__).resolve().parent
RUNTIME = HERE.parents[1] / "runtime"
CC = "aarch64-linux-gnu-gcc"
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
LIBRARIES = "/usr/aarch64-linux-gnu"

pytestmark = pytest.mark.skipif(
    not (QEMU and shutil.which(CC) and Path(LIBRARIES).is_dir()),
    reason="needs qemu-user-static and gcc-aarch64-linux-gnu",
)

RNG = np.random.default_rng(2)
IDS = RNG.integers(0, 30, (2, 19))
MODELS = {
    "encoder": (small.encoder, {"input_ids": IDS, "attention_mask": (IDS > 4).astype("int64")}),
    "mobile_net": (small.mobile_net, {"image": RNG.random((2, 3, 29, 31), "float32")}),
    "unet": (small.unet, {"image": RNG.random((1, 3, 18, 22), "float32")}),
    "tagger": (small.tagger, {"input_ids": IDS[:1]}),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """run_artifact.c with the loader, for AArch64."""
    path = tmp_path_factory.mktemp("emulated") / "run_artifact"
    sources = [HERE / "run_artifact.c", *sorted((RUNTIME / "src").glob("*.c"))]
    flags = ["-O1", "-std=c11", "-D_GNU_SOURCE", f"-I{RUNTIME / 'include'}"]
    command = [CC, *flags, *sources, "-o", path, "-lm", "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def write(path, array):
    header = np.array([array.ndim, *array.shape], np.int64)
    path.write_bytes(header.tobytes() + np.ascontiguousarray(array).tobytes())
    return path


def read(path, dtype):
    content = path.read_bytes()
    rank = np.frombuffer(content, np.int64, 1)[0]
    shape = np.frombuffer(content, np.int64, rank, 8)
    return np.frombuffer(content, dtype, offset=8 * (1 + rank)).reshape(shape)


@pytest.mark.parametrize("name", MODELS)
def test_same_results(name, program, tmp_path):
    """With one thread and with two; what differs is the order of sums."""
    build, feed = MODELS[name]
    model = build()
    with athanor.compile(model).load(threads=1) as native:
        expected = native.run(feed)
        names = [spec.name for spec in native.inputs]
    artifact = athanor.compile(model, "aarch64").save(tmp_path / "m.so")
    inputs = [write(tmp_path / f"{name}.in", feed[name]) for name in names]
    outputs = [tmp_path / f"{name}.out" for name in expected]
    for threads in (1, 2):
        command = [QEMU, "-L", LIBRARIES, program, artifact, threads, *inputs, ":", *outputs]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for path, wanted in zip(outputs, expected.values(), strict=True):
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                read(path, wanted.dtype), wanted, rtol=1e-4, atol=1e-5 * scale
            )
