"""Every target makes code of its own machine, and code is refused where it can't run."""

import platform
import struct

import numpy as np
import pytest
from tvm import te, topi

import athanor
from athanor.errors import CompileError, RunError
from athanor.targets import TARGETS, find_target
from athanor.targets.codegen import build_kernels
from athanor.targets.detect import cpu_features
from athanor.targets.rules import schedule_and_lower

ELF_MACHINES = {
    "x86_64": 62,
    "aarch64": 183,
    "riscv64": 243,
}  # e_machine, as the ELF standard numbers them
WIDEST = {
    "x86-64-v2": "%xmm",
    "x86-64-v3": "%ymm",
    "x86-64-v4": "%zmm",
    "x86-64-v4+avx512bf16": "%zmm",
    "aarch64": ".4s",
    "rv64gcv": "vfmax.v",
}
FEED = {"image": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)}


on_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="linking for x86-64 needs its C compiler"
)


@pytest.mark.parametrize("name", TARGETS)
def test_kernels_are_of_the_machine(name, tmp_path):
    """A kernel with vectors, and threads; for other machines too, where nothing can be linked."""
    target = TARGETS[name]
    x = te.placeholder((64, 1024), "float32", "x")
    func = te.create_prim_func([x, topi.nn.relu(x)], "int64")
    _, lowered, _ = schedule_and_lower("relu", func, target)
    built = build_kernels({"relu": lowered}, target)
    header = built.save(tmp_path / "relu.o").read_bytes()[:20]
    assert header[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", header, 18) == (ELF_MACHINES[target.triple.split("-")[0]],)
    assert WIDEST[name] in built.assembly()


@on_x86
@pytest.mark.parametrize("name", [name for name, t in TARGETS.items() if "x86_64" in t.triple])
def test_artifact_of_a_level(name, digits_model, digits_artifact):
    """Runs, and agrees with the native one; or is refused with the features that are missing."""
    artifact = athanor.compile(digits_model, name)
    here = cpu_features()
    missing = [feature for feature in TARGETS[name].cpu_features if feature not in here]
    if missing:
        with pytest.raises(RunError, match=rf"needs the CPU features? {' '.join(missing)}, which"):
            artifact.load(threads=1)
        return
    expected = athanor.load(digits_artifact, threads=1).run(FEED)["probabilities"]
    actual = artifact.load(threads=1).run(FEED)["probabilities"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@on_x86
def test_avx512_is_missed_by_name(digits_model):
    if "avx512f" in cpu_features():
        pytest.skip("this machine has AVX-512")
    with pytest.raises(RunError, match=r"CPU features avx512f .*, which this machine"):
        athanor.compile(digits_model, "x86-64-v4").load()


def test_unknown_target():
    with pytest.raises(CompileError, match=r"unknown target 'x87'; known targets: native, x86-64-"):
        find_target("x87")
