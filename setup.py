"""Builds the C runtime with the package; everything else is in pyproject.toml.

pip install .        lib/ and the C sources go into the installed package athanor.runtime
pip install -e .     the library goes to runtime/lib/ of the checkout
python setup.py build_runtime --in-place    the same without installing
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import CompileError

RUNTIME = Path("runtime")  # setup.py runs in its own folder
SOURCES = sorted(RUNTIME.glob("src/*.c"))
# The measuring program of tuning, all but its table of kernels; linked with libathanor.a.
MEASURE_SOURCES = sorted(RUNTIME.glob("measure/*.c"))
BINDING = RUNTIME / "binding" / "fast_call.c"
BINDING_NAME = "_fast_call.abi3.so"
# What a user needs to build the runtime into an app, or for another machine.
SHIPPED = [
    path
    for name in ("include", "src", "measure")
    for path in sorted(RUNTIME.glob(f"{name}/**/*"))
    if path.is_file()
]

CFLAGS = ["-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# nodelete: worker threads run the library's code, so dlclose must not unmap it.
LDFLAGS = ["-shared", "-Wl,-soname,libathanor.so", "-Wl,-z,relro,-z,now,-z,noexecstack,-z,nodelete"]
LDFLAGS += ["-Wl,--as-needed", "-Wl,--strip-debug", "-lpthread", "-ldl"]


def c_compiler() -> list[str]:
    """$CC, or the first of cc, gcc and clang. Raises CompileError where there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        words = name.split()
        if words and shutil.which(words[0]):
            return words
    raise CompileError(
        f"Athanor's runtime is written in C, and no C compiler was found: looked for "
        f"{', '.join(names)}. Install one (Debian, Ubuntu: apt install gcc) or set CC."
    )


def build_library(folder: Path, version: str) -> list[Path]:
    """The libraries in `folder`. Raises CompileError with the compiler's words."""
    compiler = c_compiler()
    archiver = os.environ.get("AR", "ar").split()
    folder.mkdir(parents=True, exist_ok=True)
    shared, static = folder / "libathanor.so", folder / "libathanor.a"
    measure = folder / "libathanor_measure.a"
    with TemporaryDirectory() as scratch:

        def compiled(sources: list[Path]) -> list[str]:
            made = []
            for source in sources:
                made.append(str(Path(scratch, f"{source.parent.name}-{source.stem}.o")))
                flags = [f'-DATHANOR_VERSION="{version}"']
                flags += [f"-I{RUNTIME / name}" for name in ("include", "src")]
                run([*compiler, *CFLAGS, *flags, "-c", str(source), "-o", made[-1]])
            return made

        objects = compiled(SOURCES)
        # Aside, then renamed: a process may have the old one mapped.
        for target, command in (
            (shared, [*compiler, *objects, *LDFLAGS, "-o", f"{shared}.new"]),
            (static, [*archiver, "rcsD", f"{static}.new", *objects]),
            (measure, [*archiver, "rcsD", f"{measure}.new", *compiled(MEASURE_SOURCES)]),
        ):
            run(command)
            Path(f"{target}.new").replace(target)
    return [shared, static, measure]


def build_binding(package: Path) -> list[Path]:
    """The faster call from Python; none where Python's headers are missing or older than 3.11."""
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists() or sys.version_info < (3, 11):
        print(f"athanor: no Python.h of 3.11 or later in {headers}: models are called a slower way")
        return []
    target = package / BINDING_NAME
    includes = [f"-I{headers}", f"-I{RUNTIME / 'include'}"]
    run([*c_compiler(), *CFLAGS, *includes, "-shared", str(BINDING), "-o", f"{target}.new"])
    Path(f"{target}.new").replace(target)
    return [target]


def run(command: list[str]) -> None:
    """Run a tool of the C compiler."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CompileError(f"{command[0]} is needed to build Athanor's runtime: {error}") from error
    if done.returncode:
        raise CompileError(f"can't build Athanor's runtime: {' '.join(command)}\n{done.stderr}")


class build_runtime(Command):
    """The C library, into the built package or, for an editable install, into the checkout."""

    description = "build libathanor.so, libathanor.a and libathanor_measure.a"
    user_options: ClassVar = [("in-place", None, "build into runtime/lib of the checkout")]
    boolean_options: ClassVar = ["in-place"]
    editable_mode = False  # set by setuptools

    def initialize_options(self) -> None:
        """Part of the protocol of setuptools."""
        self.build_lib: str | None = None
        self.in_place = False
        self.built: list[Path] = []

    def finalize_options(self) -> None:
        """Part of the protocol of setuptools."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Build, and put headers and sources beside."""
        version = self.distribution.get_version()
        if self.editable_mode or self.in_place:
            build_library(RUNTIME / "lib", version)
            build_binding(RUNTIME)
            return
        package = self._package()
        build_library(package / "lib", version)
        self.built = build_binding(package)
        for path in SHIPPED:
            target = package / path.relative_to(RUNTIME)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def _package(self) -> Path:
        return Path(self.build_lib or "build", "athanor", "runtime")

    def get_source_files(self) -> list[str]:
        """What a source distribution needs."""
        return [str(path) for path in (*SHIPPED, BINDING)]

    def get_outputs(self) -> list[str]:
        """What a normal build makes."""
        made = ["lib/libathanor.so", "lib/libathanor.a", "lib/libathanor_measure.a"]
        made += [str(path.relative_to(RUNTIME)) for path in SHIPPED]
        return [str(self._package() / path) for path in made] + [str(p) for p in self.built]

    def get_output_mapping(self) -> dict[str, str]:
        """Files of an editable install by their source: those of the checkout serve."""
        return {}


class build_all(build):
    """The normal build, and the runtime."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_runtime", None)]


class platform_wheel(bdist_wheel):
    """The library depends on the platform and not on the version of Python: ctypes loads it.

    A Python that the faster call was not built for does without.
    """

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """Goes to platlib, as a package with compiled code does."""

    def has_ext_modules(self) -> bool:
        """Yes, in the sense of compiled code."""
        return True


setup(
    distclass=PlatformDistribution,
    cmdclass={"build": build_all, "build_runtime": build_runtime, "bdist_wheel": platform_wheel},
)
