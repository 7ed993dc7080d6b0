"""The C side: headers, library, the driver of all calls with and without sanitizers, examples."""

import os
import re
import shutil
import subprocess

import artifacts
import pytest

from athanor.errors import RunError
from athanor.runtime.install import install_runtime
from athanor.runtime.library import LIBRARY

INCLUDE = artifacts.RUNTIME / "include"
SOURCES = sorted((artifacts.RUNTIME / "src").glob("*.c"))
EXAMPLES = artifacts.HERE.parents[1] / "examples"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-pedantic")
CXX = os.environ.get("CXX", "c++")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix") / "with space"
    written = install_runtime(folder)
    assert all(path.is_file() for path in written)
    return folder


@pytest.mark.parametrize("header", ["athanor.h", "athanor_abi.h"])
@pytest.mark.parametrize("language", ["c -std=c99", "c -std=c11", "c++ -std=c++11"])
def test_headers_compile_alone(tmp_path, header, language):
    source = tmp_path / "use.c"
    source.write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
    artifacts.compile_c(
        f"-I{INCLUDE}", *WARNINGS, "-x", *language.split(), "-c", source, "-o", tmp_path / "use.o"
    )


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_the_wrapper_compiles_alone(tmp_path, standard):
    source = tmp_path / "use.cpp"
    source.write_text('#include "athanor.hpp"\n#include "athanor.hpp"\nint main() {}\n')
    artifacts.compile_c(
        f"-I{INCLUDE}", *WARNINGS, "-x", "c++", f"-std={standard}", "-c", source, "-o",
        tmp_path / "use.o",
    )  # fmt: skip


def test_the_header_takes_the_dlpack_of_the_app(tmp_path):
    """Types that dlpack.h has defined are used, not defined again."""
    header = (INCLUDE / "athanor.h").read_text()
    (types,) = re.findall(r"#ifndef DLPACK_DLPACK_H_\n(.*?)#endif", header, re.DOTALL)
    source = tmp_path / "use.c"
    source.write_text(
        f"#define DLPACK_DLPACK_H_\n#include <stdint.h>\n{types}\n"
        '#include "athanor.h"\nint main(void) { return 0; }\n'
    )
    artifacts.compile_c(f"-I{INCLUDE}", *WARNINGS, "-c", source, "-o", tmp_path / "use.o")


def test_the_library_exports_its_api_alone():
    header = (INCLUDE / "athanor.h").read_text()
    declared = set(
        re.findall(r"(?<=[ *])(athanor_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.S))
    )
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in listing.splitlines()} == declared
    assert len(declared) == 25


def test_the_library_is_small_and_needs_libc_alone(tmp_path):
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", stripped, LIBRARY], check=True)
    assert stripped.stat().st_size < 100_000
    listing = subprocess.run(
        ["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listing))
    assert needed <= {
        "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"
    }  # fmt: skip


@pytest.mark.parametrize("sanitizer", [None, "address,undefined", "thread"])
def test_every_call(tmp_path, sanitizer):
    """driver.c on an artifact that is built in the same way."""
    flags = ["-g", "-O1"]
    if sanitizer:
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
        probe = tmp_path / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        built = subprocess.run(
            [*artifacts.CC, *flags, probe, "-o", tmp_path / "probe"],
            capture_output=True,
            check=False,
        )
        if built.returncode or subprocess.run([tmp_path / "probe"], check=False).returncode:
            pytest.skip(f"this C compiler or system has no -fsanitize={sanitizer}")
    elf = artifacts.compile_elf(tmp_path, *flags)
    artifact = artifacts.write(elf, tmp_path / "m.so")
    driver = tmp_path / "driver"
    artifacts.compile_c(
        "-std=c11", *flags, *WARNINGS, f"-I{INCLUDE}", f"-I{artifacts.RUNTIME / 'src'}",
        artifacts.HERE / "driver.c", *SOURCES, "-o", driver, "-lpthread", "-ldl",
    )  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [driver, artifact, scratch], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def run_example(command, prefix):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def build_example(name, prefix, output, static=False):
    pc = (prefix / "lib" / "pkgconfig" / "athanor.pc").read_text()
    assert "-lathanor" in pc and "${prefix}" in pc
    compiler = [CXX, "-std=c++17"] if name.endswith(".cpp") else [*artifacts.CC, "-std=c11"]
    library = (
        [prefix / "lib" / "libathanor.a", "-lpthread", "-ldl"]
        if static
        else [f"-L{prefix / 'lib'}", "-lathanor"]
    )
    subprocess.run(
        [*compiler, *WARNINGS, EXAMPLES / name, f"-I{prefix / 'include'}", *library, "-o", output],
        check=True,
    )


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["3_embed.c", "4_embed.cpp"])
def test_the_embedding_examples(artifact, prefix, tmp_path, name, static):
    program = tmp_path / "embed"
    build_example(name, prefix, program, static)
    done = run_example([program, artifact, 3], prefix)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(lines) == ["sum", "rows", "positive", "tasks", "scaled"]
    assert lines["sum"].startswith("(3, 4) ") and lines["rows"].startswith("(3) ")
    assert lines["tasks"] == "(2)" and lines["scaled"] == "(6)"
    # The first row: x is printed as `positive`, for random inputs are above zero.
    x = [float(word) for word in lines["positive"].split(")")[1].split()]
    total = [float(word) for word in lines["sum"].split(")")[1].split()]
    assert len(x) == len(total) == 4
    for got, value, weight in zip(total, x, artifacts.WEIGHT, strict=True):
        assert abs(got - value - weight) < 1e-3
    refused = run_example([program, tmp_path / "nothing.so"], prefix)
    assert refused.returncode == 1
    assert "error: can't open" in refused.stderr and "nothing.so" in refused.stderr


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_pkg_config(prefix):
    environment = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "athanor"],
        capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    assert "-lathanor" in flags and "include" in flags


def test_a_prefix_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"can't install the runtime to .*file"):
        install_runtime(tmp_path / "file")
