"""Objects + host program -> ELF shared object, with the system's C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from athanor.errors import CompileError
from athanor.targets import TargetSpec

_INCLUDE = Path(__file__).resolve().parent.parent / "runtime" / "include"
_VERSION_SCRIPT = "{ global: athanor_descriptor; local: *; };\n"


def c_compiler(target: TargetSpec) -> list[str]:
    """The command that compiles and links C for `target`.

    In order: $CC, the system's compiler for that triple, and the `ziglang` package, which brings
    a C compiler and linker for every platform. Raises CompileError where there is none.
    """
    if os.environ.get("CC"):
        return os.environ["CC"].split()
    native = target.triple.split("-")[0] == os.uname().machine
    names = ["cc", "gcc", "clang"] if native else [f"{target.triple}-gcc"]
    for name in names:
        if shutil.which(name):
            return [name]
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise CompileError(
            f"no C compiler for {target.triple}: looked for {', '.join(names)} and the Python "
            "package ziglang; install one (apt install gcc, or pip install ziglang) or set CC"
        ) from None
    triple = target.triple.replace("-linux-gnu", "-linux-gnu.2.28")
    return [sys.executable, "-m", "ziglang", "cc", "-target", triple]


def compile_host(source: str, folder: Path, target: TargetSpec) -> Path:
    """The host program's object file."""
    (folder / "host.c").write_text(source, encoding="utf-8")
    flags = ["-std=c11", "-O1", "-fwrapv", "-fPIC", "-fvisibility=hidden", f"-I{_INCLUDE}"]
    _run([*c_compiler(target), *flags, "-c", "host.c", "-o", "host.o"], folder)
    return folder / "host.o"


def link_shared(objects: Sequence[Path], folder: Path, target: TargetSpec) -> Path:
    """A shared object that exports the descriptor and needs libc and libm alone."""
    (folder / "exports.map").write_text(_VERSION_SCRIPT)
    flags = [
        "-shared",
        "-Wl,--version-script=exports.map",
        "-Wl,--as-needed",
        "-Wl,--gc-sections",  # each kernel's object has the same conversions of 16-bit floats
        "-Wl,--no-undefined",
        "-Wl,-z,noexecstack",
        "-Wl,-z,relro,-z,now",
        "-Wl,--strip-debug",
        "-Wl,--build-id=none",
    ]
    command = [*c_compiler(target), *flags, *map(str, objects), "-lm", "-o", "code.so"]
    _run(command, folder)
    return folder / "code.so"


def _run(command: Sequence[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CompileError(
            f"the C compiler failed ({' '.join(command)}):\n{result.stderr.strip()[-2000:]}"
        )
