"""Small models compiled for other machines and run by qemu, against those compiled for here."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import athanor

from ..models import small

HERE = Path(__file__).resolve().parent
RUNTIME = HERE.parents[1] / "runtime"
VECTORS = "rv64,v=true,vext_spec=v1.0,vlen="
MACHINES = {
    "aarch64": ("aarch64", []),
    "riscv64": ("rv64gcv", ["-cpu", f"{VECTORS}128"]),
    "riscv64 of 512 bits": ("rv64gcv", ["-cpu", f"{VECTORS}512"]),
}
"""Machine -> target, and how qemu is told of the processor."""


RNG = np.random.default_rng(2)
IDS = RNG.integers(0, 30, (2, 19))
MODELS = {
    "encoder": (small.encoder, {"input_ids": IDS, "attention_mask": (IDS > 4).astype("int64")}),
    "mobile_net": (small.mobile_net, {"image": RNG.random((2, 3, 29, 31), "float32")}),
    "unet": (small.unet, {"image": RNG.random((1, 3, 18, 22), "float32")}),
    "tagger": (small.tagger, {"input_ids": IDS[:1]}),
}


@pytest.fixture(scope="module", params=MACHINES)
def machine(request, tmp_path_factory):
    """A target, and the command that runs run_artifact.c with the loader on its machine."""
    family = request.param.split()[0]
    target, flags = MACHINES[request.param]
    cc, libraries = f"{family}-linux-gnu-gcc", f"/usr/{family}-linux-gnu"
    qemu = shutil.which(f"qemu-{family}-static") or shutil.which(f"qemu-{family}")
    if not (qemu and shutil.which(cc) and Path(libraries).is_dir()):
        pytest.skip(f"needs qemu-user-static and gcc-{family}-linux-gnu")
    path = tmp_path_factory.mktemp("emulated") / "run_artifact"
    sources = [HERE / "run_artifact.c", *sorted((RUNTIME / "src").glob("*.c"))]
    options = ["-O1", "-std=c11", f"-I{RUNTIME / 'include'}"]
    command = [cc, *options, *sources, "-o", path, "-lm", "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target, [qemu, *flags, "-L", libraries, path]


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
def test_same_results(name, machine, tmp_path):
    """With one thread and with two; what differs is the order of sums."""
    build, feed = MODELS[name]
    model = build()
    with athanor.compile(model).load(threads=1) as native:
        expected = native.run(feed)
        names = [spec.name for spec in native.inputs]
    target, program = machine
    artifact = athanor.compile(model, target).save(tmp_path / "m.so")
    inputs = [write(tmp_path / f"{name}.in", feed[name]) for name in names]
    outputs = [tmp_path / f"{name}.out" for name in expected]
    for threads in (1, 2):
        command = [*program, artifact, threads, *inputs, ":", *outputs]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for path, wanted in zip(outputs, expected.values(), strict=True):
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                read(path, wanted.dtype), wanted, rtol=1e-4, atol=1e-5 * scale
            )
