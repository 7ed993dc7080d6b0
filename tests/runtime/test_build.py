"""setup.py builds the C library, or says what is missing."""

import os
import subprocess
import sys

import artifacts
import pytest

ROOT = artifacts.HERE.parents[1]


def build(**environment):
    # In place, but where the compiler is missing nothing is written.
    command = [sys.executable, "setup.py", "-q", "build_runtime", "--in-place"]
    environment = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    ("environment", "looked_for"),
    [
        ({"CC": "no-such-compiler"}, "no-such-compiler"),
        ({"CC": None, "PATH": "/nowhere"}, "cc, gcc, clang"),
    ],
)
def test_a_missing_compiler_is_named(environment, looked_for):
    done = build(**environment)
    assert done.returncode != 0
    assert f"no C compiler was found: looked for {looked_for}. Install one" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_compilers_own_words_are_shown(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'disk is full' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = build(CC=str(compiler))
    assert done.returncode != 0
    assert "can't build Athanor's runtime: " in done.stderr and "disk is full" in done.stderr
