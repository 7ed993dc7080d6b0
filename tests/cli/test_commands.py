"""The verbs, from command line to what they print, write and return."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import athanor
from athanor.compiler.cli import cli, run_command
from athanor.targets.detect import cpu_features


@pytest.fixture
def athanor_command(capsys):
    """Runs a command line in this process; gives exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(text):
    """The one line of an error message."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.strip()


@pytest.fixture(scope="module")
def kept_ir(digits_model, tmp_path_factory):
    """digits.onnx compiled on the command line with --keep-ir, batch fixed to 2."""
    path = tmp_path_factory.mktemp("kept") / "kept.so"
    arguments = ["compile", digits_model, "-o", path, "--keep-ir", "--shape", "image:2,1,8,8"]
    assert run_command([str(argument) for argument in arguments]) == 0
    return path


@pytest.mark.parametrize("verb", cli.commands)
def test_help_has_an_example(athanor_command, verb):
    code, out, _ = athanor_command(verb, "--help")
    assert code == 0
    assert f"Example:\n    athanor {verb} " in out


def test_usage_errors_exit_2(athanor_command):
    assert athanor_command("frobnicate")[0] == 2
    assert athanor_command("compile")[0] == 2
    assert athanor_command("runtime")[0] == 2


def test_compile(athanor_command, digits_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = athanor_command("compile", digits_model)
    assert code == 0
    assert "wrote digits.so: " in out
    assert err.endswith(" ...\n")  # progress: plain lines, for this is no terminal
    assert [path.name for path in tmp_path.iterdir()] == ["digits.so"]


def test_compile_fixes_shapes_and_names_them(athanor_command, digits_model, kept_ir, tmp_path):
    assert athanor.load(kept_ir, threads=1).inputs[0].shape == (2, 1, 8, 8)
    named = tmp_path / "named.so"
    shape = ("--shape", "image:n,1,8,8")
    assert athanor_command("compile", digits_model, "-o", named, *shape)[0] == 0
    assert athanor.load(named, threads=1).inputs[0].shape == ("n", 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.onnx"], "error: 'nothing.onnx' does not exist"),
        (["text.onnx"], "error: 'text.onnx' is not an ONNX model"),
        (["{model}", "--target", "z80"], "error: unknown target 'z80'"),
        (["{model}", "--shape", "image"], "error: --shape image: expected INPUT:DIM"),
        (["{model}", "--shape", "x:1"], "error: shapes: the model has no input 'x'"),
        (["{model}", "-o", "no/m.so"], "error: can't write no/m.so: the folder no does not exist"),
        (["{model}", "-o", "."], "error: can't write .: it is a directory"),
    ],
)
def test_compile_errors(athanor_command, digits_model, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model\n")
    given = [argument.format(model=digits_model) for argument in arguments]
    code, out, err = athanor_command("compile", *given)
    assert code == 1
    assert out == ""
    message = "".join(line for line in err.splitlines(True) if not line.endswith(" ...\n"))
    assert one_line(message).startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]


def test_run(athanor_command, digits_artifact, tmp_path):
    image = np.random.default_rng(3).random((2, 1, 8, 8), np.float32)
    np.save(tmp_path / "image.npy", image)
    given, results = f"image={tmp_path / 'image.npy'}", tmp_path / "results.npz"
    code, out, _ = athanor_command("run", digits_artifact, "--input", given, "-o", results)
    assert code == 0
    assert out.startswith("probabilities  float32[2, 10]  min ")
    expected = athanor.load(digits_artifact, threads=1).run({"image": image})
    with np.load(results) as written:
        assert list(written) == ["probabilities"]
        np.testing.assert_array_equal(written["probabilities"], expected["probabilities"])


def test_run_on_generated_input(athanor_command, digits_artifact):
    first, again, other = (
        athanor_command("run", digits_artifact, "--dim", "batch=3", "--seed", seed)[1]
        for seed in (1, 1, 2)
    )
    assert "float32[3, 10]" in first
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--input", "image=no.npy"], "can't read no.npy: No such file or directory"),
        (["--input", "image=text.npy"], "text.npy is not a .npy file"),
        (["--input", "image=two.npz"], "two.npz holds several arrays"),
        (["--input", "image=flat.npy"], "input 'image' has shape (4,), expected (batch, 1, 8, 8)"),
        (["--input", "x=flat.npy"], "inputs don't fit: unknown 'x'; expected 'image'"),
        (["--input", "image"], "--input image: expected NAME=FILE.npy"),
        (["--dim", "n=2"], "no input has a symbolic dimension 'n'; symbolic are: batch"),
        (["-o", "no/out.npz"], "can't write no/out.npz: the folder no does not exist"),
    ],
)
def test_run_errors(athanor_command, digits_artifact, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    code, out, err = athanor_command("run", digits_artifact, *arguments)
    assert (code, out) == (1, "")
    assert one_line(err).startswith(f"error: {sentence}")


def test_run_of_no_artifact(athanor_command, digits_model):
    code, _, err = athanor_command("run", digits_model)
    assert code == 1
    assert "is no Athanor artifact" in one_line(err)


def test_inspect(athanor_command, digits_artifact):
    code, out, _ = athanor_command("inspect", digits_artifact)
    assert code == 0
    metadata = athanor.load(digits_artifact, threads=1).metadata
    assert "inputs:\n  image  float32[batch, 1, 8, 8]\n" in out
    assert "outputs:\n  probabilities  float32[batch, 10]\n" in out
    assert f"target:   {metadata['target']['name']} (" in out
    assert f"arena:    {metadata['arena_bytes']} bytes" in out
    assert f"weights:  {metadata['weights_bytes']} bytes" in out
    assert metadata["model_sha256"] in out
    for kernel in metadata["kernels"]:
        assert kernel["name"] in out


def test_inspect_names_the_columns_of_scores(athanor_command, tmp_path):
    graph = "agraph (float[N, 2] x) => (seq(map(string, float)) y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]> {graph} '
        '{ y = ai.onnx.ml.ZipMap <classlabels_strings = ["cat", "dog"]> (x) }'
    )
    path = tmp_path / "pets.so"
    athanor.compile(model).save(path)
    assert athanor.load(path).metadata["outputs"][0]["columns"] == ["cat", "dog"]
    assert "  y  float32[N, 2]\n    columns: cat, dog\n" in athanor_command("inspect", path)[1]


def test_inspect_json(athanor_command, digits_artifact, digits_model):
    printed = json.loads(athanor_command("inspect", digits_artifact, "--json")[1])
    data = digits_artifact.read_bytes()
    assert printed["model_sha256"] == hashlib.sha256(digits_model.read_bytes()).hexdigest()
    assert printed["code_sha256"] == hashlib.sha256(data[: printed["code_bytes"]]).hexdigest()
    assert printed["file_bytes"] == len(data)
    metadata = athanor.load(digits_artifact, threads=1).metadata
    assert {name: printed[name] for name in metadata} == metadata


def test_inspect_verify(athanor_command, digits_artifact, tmp_path):
    code, out, _ = athanor_command("inspect", digits_artifact, "--verify")
    assert code == 0
    assert "verified: code, weights and metadata are as they were written" in out
    data = bytearray(digits_artifact.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.so").write_bytes(data)
    code, out, err = athanor_command("inspect", tmp_path / "damaged.so", "--verify")
    assert (code, out) == (1, "")
    assert "damaged" in one_line(err)


@pytest.mark.parametrize(
    ("show", "sign"),
    [
        ("tir", "@T.prim_func("),
        ("scheduled", "@T.prim_func("),
        ("llvm", "define "),
        ("asm", ".globl"),
    ],
)
def test_inspect_kernel(athanor_command, kept_ir, show, sign):
    kernels = athanor.load(kept_ir, threads=1).metadata["kernels"]
    for kernel in kernels:
        name = kernel["name"]
        code, out, _ = athanor_command("inspect", kept_ir, "--kernel", name, "--show", show)
        assert code == 0
        assert sign in out
        if show in ("llvm", "asm"):
            assert kernel["symbol"] in out


def test_inspect_kernel_errors(athanor_command, digits_artifact, kept_ir):
    code, _, err = athanor_command("inspect", kept_ir, "--kernel", "nothing")
    assert code == 1
    assert "has no kernel 'nothing'; it has k_" in one_line(err)
    name = athanor.load(digits_artifact, threads=1).metadata["kernels"][0]["name"]
    code, _, err = athanor_command("inspect", digits_artifact, "--kernel", name)
    assert code == 1
    assert one_line(err).endswith("was compiled without its IR; compile it with --keep-ir")


def test_verify(athanor_command, digits_model):
    code, out, _ = athanor_command("verify", digits_model, "--dim", "batch=5")
    assert code == 0
    assert out.startswith("probabilities  [5, 10]  max abs ")
    assert "arg-max 5/5" in out
    assert "passed: 1 outputs" in out


def test_verify_fails_past_the_tolerance(athanor_command, digits_model):
    code, out, _ = athanor_command("verify", digits_model, "--tolerance", "-1")
    assert code == 1
    assert "FAILED" in out


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="needs AVX512_BF16")
def test_verify_prints_what_bf16_loses(athanor_command, digits_model):
    options = ["--dim", "batch=5", "--precision", "bf16"]
    code, out, _ = athanor_command("verify", digits_model, *options)
    assert code == 0 and "passed: 1 outputs in bf16, tolerance 0.05" in out
    code, out, _ = athanor_command("verify", digits_model, *options, "--tolerance", "1e-6")
    assert code == 1 and "FAILED" in out


def test_bf16_needs_a_target_that_has_it(athanor_command, digits_model):
    options = ["--precision", "bf16", "--target", "x86-64-v3"]
    code, _, err = athanor_command("compile", digits_model, *options)
    assert code == 1
    assert "target 'x86-64-v3' (x86-64-v3) has no dot products of bfloat16" in one_line(err)


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_onnxruntime_is_optional(athanor_command, digits_model, monkeypatch, verb):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = athanor_command(verb, digits_model)
    assert code == 1
    assert "onnxruntime is not installed; install it with: pip install 'athanor[onnx" in err


def test_bench(athanor_command, digits_model, monkeypatch):
    monkeypatch.setattr("athanor.compiler.commands.bench.SECONDS_PER_TURN", 0.001)
    code, out, _ = athanor_command("bench", digits_model, "--threads", 1, "--rounds", 2)
    assert code == 0
    head, ours, reference = out.splitlines()
    assert head.startswith("digits.onnx: 1 thread, 2 rounds")
    assert ours.startswith("athanor ")
    assert reference.startswith("onnxruntime ")
    assert "athanor takes" in reference


def test_bench_against_the_unknown(athanor_command, digits_model):
    code, _, err = athanor_command("bench", digits_model, "--against", "abacus")
    assert code == 1
    known = "onnxruntime, openvino, openvino-bf16"
    assert one_line(err) == f"error: --against abacus: unknown; known are {known}"


def test_runtime(athanor_command, tmp_path):
    code, out, _ = athanor_command("runtime", "--prefix", tmp_path / "prefix")
    assert code == 0
    written = [Path(line) for line in out.splitlines()]
    assert all(path.exists() for path in written)
    names = {path.name for path in written}
    assert {"athanor.h", "libathanor.so", "libathanor.a", "athanor.pc"} <= names


def test_runtime_where_nothing_can_be_written(athanor_command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = athanor_command("runtime", "--prefix", tmp_path / "file" / "prefix")
    assert code == 1
    assert one_line(err).startswith("error: can't ")


def test_interrupt_leaves_nothing_behind(digits_model, tmp_path):
    """Ctrl-C in the middle of a compilation."""
    command = [sys.executable, "-m", "athanor.compiler.cli", "compile", str(digits_model)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell script ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr.readline().endswith(" ...\n")  # the work has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err.splitlines()  # TVM may say more as it goes
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_check(athanor_command, digits_model):
    code, out, _ = athanor_command("check", digits_model, "--dim", "batch=8")
    assert code == 0
    assert re.search(r"^Conv +17 +2 +yes", out, re.MULTILINE)
    assert "dynamic:     batch in image[0]" in out
    assert "for batch=8" in out
    assert out.endswith("the model will compile\n")


def test_check_as_json(athanor_command, digits_model):
    code, out, _ = athanor_command("check", digits_model, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["compiles"] is True
    assert {operator["operator"] for operator in report["operators"]} >= {"Conv", "Gemm"}


def test_check_of_a_refused_model(athanor_command, digits_model, tmp_path):
    model = onnx.load(digits_model)
    model.graph.node[0].domain = "acme"
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    path = tmp_path / "acme.onnx"
    onnx.save(model, path)
    code, out, _ = athanor_command("check", path)
    assert code == 1
    assert re.search(r"^acme\.Conv +1 +1 +no: ", out, re.MULTILINE)
    assert out.endswith("the model will not compile\n")
