"""The measuring program: bounds, types, caches, results."""

import json
import math
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from athanor.errors import CompileError
from athanor.targets import find_target
from athanor.tuning.local import LocalMeasurer
from athanor.tuning.measure import (
    CONSTANT,
    CRASH,
    INPUT,
    OUTPUT,
    WRONG_RESULT,
    Argument,
    Candidate,
    Reference,
)
from athanor.tuning.objects import renamed
from athanor.tuning.program import link_program, measure_libraries

from .c_kernels import ARGUMENTS, GOOD, compile_kernel, make_candidate

TARGET = find_target("native")


@pytest.fixture(scope="module")
def measurer():
    made = LocalMeasurer(TARGET, threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Links candidates into a program."""
    folder = tmp_path_factory.mktemp("program")
    libraries = measure_libraries(folder, TARGET)
    return lambda *candidates: link_program(candidates, folder, libraries, TARGET)


def run(program, *words):
    return subprocess.run([program.path, *map(str, words)], capture_output=True, text=True)


SCRATCH = (
    "char *s = __TVMBackendAllocWorkspace(1, 0, 100, 2, 32); %s __TVMBackendFreeWorkspace(1, 0, s);"
)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("y[i + 2000] = 0;", "past the end of buffer 2 (output)"),
        ("y[i] = 0; y[150] = 0;", "the kernel wrote outside of buffer 2 (output)"),
        ("y[i] = 0; y[-1] = 0;", "the kernel wrote outside of buffer 2 (output)"),
        ("y[i] = 0; y[-5000] = 0;", "before the start of buffer 2 (output)"),
        ("y[i] = x[i + 5000];", "past the end of buffer 0 (input)"),
        ("x[i] = 0;", "the kernel wrote into buffer 0 (input), which it may only read"),
        ("w[0] = 0;", "the kernel wrote into buffer 1 (constant), which it may only read"),
        (SCRATCH % "s[101] = 0;", "the kernel wrote outside of its scratch memory"),
        (SCRATCH % "s[9000] = 0;", "past the end of its scratch memory"),
    ],
)
def test_bounds(measurer, tmp_path, body, sentence):
    (result,) = measurer.measure([make_candidate(tmp_path, body)], repeats=3)
    assert result.error.kind == CRASH
    assert sentence in result.error.sentence


def test_a_crash_in_another_thread(measurer, tmp_path):
    before = "static int task(int id, void *group, void *c) { if (id == 1) abort(); return 0; }"
    body = "y[i] = 0; __TVMBackendParallelLaunch(task, 0, 2);"
    (result,) = measurer.measure([make_candidate(tmp_path, body, before)], repeats=3)
    assert result.error.kind == CRASH
    assert "SIGABRT" in result.error.sentence


def test_parallel_loops_run_with_as_many_tasks_as_threads(measurer, tmp_path):
    before = """
    static float *out;
    static int task(int id, struct {void *s; int32_t n;} *group, void *c) {
      out[id] = group->n; return 0; }"""
    body = "out = y; __TVMBackendParallelLaunch((void *)task, 0, 0);"
    expected = make_candidate(tmp_path, "y[0] = 2; y[1] = 2;").object_code
    candidate = make_candidate(tmp_path, body, before, reference=Reference(expected))
    (result,) = measurer.measure([candidate], repeats=3)
    assert result.error is None


def values(dtype, numbers):
    """The C initializer of an array of raw elements."""
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return ", ".join(map(str, np.array(numbers, kind).view(np.uint8)))


@pytest.mark.parametrize(
    ("dtype", "expected", "got", "is_right"),
    [
        ("float32", [1, -3, 1e-3], [1, -3.0001, 1e-3], True),
        ("float32", [1, -3, 1e-3], [1, -3.01, 1e-3], False),
        ("float32", [math.nan, math.inf, 1], [math.nan, math.inf, 1], True),
        ("float32", [math.nan, 1], [1, 1], False),
        ("float32", [1, 1], [math.nan, 1], False),
        ("float32", [math.inf, 1], [1e30, 1], False),
        ("float32", [math.inf, 1], [-math.inf, 1], False),
        ("float32", [0, 0], [0, 1e-30], False),
        ("float64", [1, 2], [1, 2 + 1e-10], True),
        ("float64", [1, 2], [1, 2 + 1e-6], False),
        ("float16", [1, 100, 6e-8], [1.5, 100, 0], True),
        ("float16", [1, 100], [3, 100], False),
        ("float16", [math.inf, 1, math.nan], [math.inf, 1, math.nan], True),
        ("bfloat16", [1, 100], [3, 100], True),
        ("bfloat16", [1, 100], [9, 100], False),
        ("int64", [1, -2], [1, -2], True),
        ("int64", [1, -2], [1, -3], False),
        ("bool", [True, False], [True, True], False),
    ],
)
def test_outputs_are_compared(measurer, tmp_path, dtype, expected, got, is_right):
    arguments = (Argument(dtype, (len(got),), OUTPUT),)

    def kernel(numbers):
        body = f"static const uint8_t v[] = {{{values(dtype, numbers)}}}; memcpy(y, v, sizeof v);"
        return compile_kernel(tmp_path, body, "void *y")

    reference = Reference(kernel(expected))
    candidate = Candidate("w", (), kernel(got), "kernel", arguments, reference=reference)
    (result,) = measurer.measure([candidate], repeats=3)
    assert (result.error is None) == is_right
    assert is_right or result.error.kind == WRONG_RESULT


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8", "bool"])
def test_inputs_are_numbers_of_their_type(measurer, tmp_path, dtype):
    """Two inputs differ, floats lie in [-1, 1) and integers are 0 and 1."""
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    arguments = tuple(Argument(dtype, (4000,), role) for role in (INPUT, CONSTANT))
    bytes_of = f"{4000 * kind.itemsize}"
    body = f"""if (!memcmp(a, b, {bytes_of})) return 9;
    FILE *f = fopen("{tmp_path}/a", "wb"); fwrite(a, 1, {bytes_of}, f); fclose(f);"""
    code = compile_kernel(tmp_path, body, "void *a, void *b", "#include <stdio.h>")
    (result,) = measurer.measure([Candidate("w", (), code, "kernel", arguments)], repeats=3)
    assert result.error is None
    made = np.frombuffer((tmp_path / "a").read_bytes(), kind).astype(np.float64)
    if kind.kind in "ib":
        assert set(made) == {0, 1}
    else:
        assert -1 <= made.min() < -0.98 and 0.98 < made.max() < 1
        assert abs(made.mean()) < 0.05 and 0.5 < made.std() < 0.65


@pytest.mark.parametrize("shape", [(0,), (), (3, 0), (1 << 20,), (1025, 1025)])
def test_sizes(measurer, tmp_path, shape):
    """Empty, one element, and more than the pages of 2 MiB that large buffers ask for."""
    count = math.prod(shape)
    arguments = tuple(Argument("float32", shape, role) for role in (INPUT, CONSTANT, OUTPUT))
    body = f"for (int i = 0; i < {count}; i++) y[i] = x[i] + w[i]; %s"
    good = compile_kernel(tmp_path, body % "", "float *x, float *w, float *y")
    bad = compile_kernel(tmp_path, body % f"y[{count}] = 1;", "float *x, float *w, float *y")
    fine = Candidate("w", (), good, "kernel", arguments, evict_bytes=1, reference=Reference(good))
    results = list(measurer.measure([fine, replace(fine, object_code=bad)], repeats=3))
    assert results[0].error is None
    assert results[1].error.kind == CRASH


def test_what_the_model_touches_in_between_leaves_the_caches(measurer, tmp_path):
    """128 KiB of weights: they stay in L2 where a kernel runs alone, and not in a large model."""
    arguments = (Argument("uint64", (1 << 14,), CONSTANT), Argument("uint64", (1,), OUTPUT))
    body = "uint64_t s = 0; for (int i = 0; i < 1 << 14; i += 8) s += w[i]; *y = s;"
    code = compile_kernel(tmp_path, body, "uint64_t *w, uint64_t *y")
    alone = Candidate("w", (), code, "kernel", arguments)
    hot, cold = measurer.measure(
        [alone, replace(alone, evict_bytes=1 << 30)], repeats=15, interleaved=True
    )
    assert cold.median > 1.5 * hot.median


def test_results_are_lines_and_a_second_run_goes_on(program, tmp_path):
    made = program(*[make_candidate(tmp_path, GOOD), make_candidate(tmp_path, "abort();")])
    output = tmp_path / "results.jsonl"
    assert run(made, "--output", output, "--repeats", 3).returncode == 0
    whole = output.read_bytes()
    head, *lines = [json.loads(line) for line in whole.splitlines()]
    assert head["bundle"] == made.bundle and head["cores"] >= 1
    assert [line["candidate"] for line in lines] == [0, 1]
    assert "SIGABRT" in lines[1]["sentence"]
    start = whole[: whole.index(b'{"candidate": 1')]
    for kept in (start, start + b'{"candi', start[: start.index(b"\n") + 1], b"", b'{"athan'):
        output.write_bytes(kept)
        assert run(made, "--output", output, "--repeats", 3).returncode == 0
        assert len(output.read_bytes().splitlines()) == 3
    assert run(made, "--output", output, "--repeats", 3).returncode == 0
    assert len(output.read_bytes().splitlines()) == 3


def test_results_of_another_program_are_kept(program, tmp_path):
    output = tmp_path / "results.jsonl"
    output.write_text('{"athanor_measure": 1, "bundle": "other"}\n')
    done = run(program(make_candidate(tmp_path, GOOD)), "--output", output)
    assert done.returncode == 1
    assert "holds results of another bundle" in done.stderr
    assert output.read_text().endswith('"other"}\n')


@pytest.mark.parametrize(
    "words",
    [["--threads"], ["--threads", "0"], ["--repeats", "x"], ["--limit", "-1"], ["nonsense"]],
)
def test_wrong_options_are_named(program, tmp_path, words):
    done = run(program(make_candidate(tmp_path, GOOD)), *words)
    assert done.returncode == 2
    assert f"can't take {words[0]}" in done.stderr


def test_a_feature_that_the_processor_has_not(tmp_path):
    target = replace(TARGET, cpu_features=(*TARGET.cpu_features, "teleport"))
    made = link_program(
        [make_candidate(tmp_path, GOOD)], tmp_path, measure_libraries(tmp_path, TARGET), target
    )
    done = run(made)
    assert done.returncode == 3
    assert "these kernels use teleport, which this processor has not" in done.stderr


def test_without_static_libraries_the_program_is_linked_with_shared_ones(
    program, tmp_path, monkeypatch
):
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\nfor word; do [ "$word" = -static ] && exit 1; done\nexec cc "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr("athanor.tuning.program.c_compiler", lambda target: [str(compiler)])
    done = run(program(make_candidate(tmp_path, GOOD)), "--repeats", 3)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


def test_the_measuring_program_from_its_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "cc")  # as for another machine
    made = link_program(
        [make_candidate(tmp_path, GOOD)], tmp_path, measure_libraries(tmp_path, TARGET), TARGET
    )
    assert len(run(made, "--repeats", 3).stdout.splitlines()) == 2


def test_renamed_symbols(tmp_path):
    code = compile_kernel(tmp_path, "", "void")
    assert b"\0a_long_name_of_a_kernel\0" in renamed(code, "kernel", "a_long_name_of_a_kernel")
    for broken in (b"", code[:100], code[: len(code) - 40], b"\x7fELF" + bytes(200)):
        with pytest.raises(CompileError, match="no object file of a kernel"):
            renamed(broken, "kernel", "x")
    with pytest.raises(CompileError, match="it does not define ernel"):
        renamed(code, "ernel", "x")
    assert struct.calcsize("<IBBHQQ") == 24 and ARGUMENTS
