"""CUDA source -> what the driver loads: a cubin for each architecture, and PTX for later ones.

By nvcc where there is one, else by NVRTC through the Python package cuda-bindings.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from athanor.errors import CompileError

_TOOLKIT = Path("/usr/local/cuda")
"""Where NVIDIA's installers put the toolkit."""


@dataclass(frozen=True)
class DeviceImage:
    """One image."""

    architecture: str
    """`sm_80` of a cubin, `compute_90` of PTX."""
    data: bytes

    @property
    def is_ptx(self) -> bool:
        """Whether the driver compiles it when it is loaded."""
        return self.architecture.startswith("compute_")


def device_image(source: str, architecture: str) -> DeviceImage:
    """The image of a translation unit for one architecture.

    Raises CompileError where there is no compiler for CUDA, or where it refuses the source.
    """
    return DeviceImage(architecture, _compiler()(source, architecture))


@functools.cache
def compiler_version() -> str:
    """The compiler, so that two whose images may differ have different texts."""
    if compiler_name() == "nvrtc":
        from cuda.bindings import nvrtc

        return f"nvrtc {nvrtc.nvrtcVersion()[1:]}"
    nvcc = _nvcc()
    if nvcc is None:
        return "none"
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout


def compiler_name() -> str | None:
    """`nvcc`, `nvrtc`, or None where there is neither."""
    if _nvcc():
        return "nvcc"
    return "nvrtc" if _has_nvrtc() else None


@functools.cache
def _has_nvrtc() -> bool:
    try:
        from cuda.bindings import nvrtc

        return nvrtc.nvrtcVersion()[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS
    except (ImportError, RuntimeError, OSError):
        return False  # without the package, or the package without the library


def _compiler() -> Callable[[str, str], bytes]:
    name = compiler_name()
    if name is None:
        raise CompileError(
            "no compiler for CUDA: install NVRTC (pip install 'athanor[cuda]') or the CUDA toolkit "
            "with nvcc on the PATH, in $CUDA_HOME or in /usr/local/cuda"
        )
    return _by_nvrtc if name == "nvrtc" else _by_nvcc


def toolkit() -> Path | None:
    """The folder of the CUDA toolkit."""
    for place in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _TOOLKIT):
        if place and Path(place).is_dir():
            return Path(place)
    return None


def _nvcc() -> str | None:
    home = toolkit()
    inside = home / "bin" / "nvcc" if home else None
    return shutil.which("nvcc") or (str(inside) if inside and inside.exists() else None)


def _by_nvcc(source: str, architecture: str) -> bytes:
    kind, _, number = architecture.partition("_")
    ptx = _ptx_by_nvcc(source, number)
    return ptx if kind == "compute" else _nvcc_run(architecture, "cubin", "kernels.ptx", ptx)


@functools.lru_cache(maxsize=4)
def _ptx_by_nvcc(source: str, number: str) -> bytes:
    """What both the cubin and the PTX of a compute capability come from; two thirds of the time."""
    return _nvcc_run(f"compute_{number}", "ptx", "kernels.cu", source.encode())


def _nvcc_run(architecture: str, kind: str, name: str, text: bytes) -> bytes:
    nvcc = _nvcc()
    assert nvcc, "asked for only where it is"
    with tempfile.TemporaryDirectory(prefix="athanor-cuda-") as folder:
        # The same names in every folder: they are written into the image.
        Path(folder, name).write_bytes(text)
        command = [nvcc, f"-{kind}", f"-arch={architecture}", "-std=c++17", "-O3", "-w"]
        command += [name, "-o", "image"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(
                f"nvcc failed for {architecture} ({' '.join(command)}):\n"
                f"{(done.stderr or done.stdout).strip()[-2000:]}"
            )
        return Path(folder, "image").read_bytes()


def _by_nvrtc(source: str, architecture: str) -> bytes:
    from cuda.bindings import nvrtc

    def check(result: tuple) -> tuple:
        status, *values = result
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"NVRTC failed for {architecture}: {status.name}")
        return tuple(values)

    start, end = source.index("#ifdef __CUDACC_RTC__"), source.index("#else")
    text = f"{source[:start]}#ifdef __CUDACC_RTC__\n{_RTC_TYPES}{source[end:]}"
    (program,) = check(nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], []))
    flags = [f"--gpu-architecture={architecture}", "--std=c++17", "-default-device", "-w"]
    flags += [f"--include-path={folder}" for folder in _include_folders()]
    options = [flag.encode() for flag in flags]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        (size,) = check(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        check(nvrtc.nvrtcGetProgramLog(program, log))
        words = log.decode("utf-8", "replace").strip(" \0\n")[-2000:]
        raise CompileError(f"NVRTC failed for {architecture}: {status.name}\n{words}")
    kind = "PTX" if architecture.startswith("compute_") else "CUBIN"
    (size,) = check(getattr(nvrtc, f"nvrtcGet{kind}Size")(program))
    image = b" " * size
    check(getattr(nvrtc, f"nvrtcGet{kind}")(program, image))
    check(nvrtc.nvrtcDestroyProgram(program))
    return image


_RTC_TYPES = """\
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define __asm__ asm
#define __volatile__ volatile
"""
"""In the place of TVM's includes of libcu++, which take NVRTC 5 s an image."""


def _include_folders() -> list[Path]:
    """Headers of CUDA: of the toolkit, else of NVIDIA's wheels."""
    home = toolkit()
    if home is not None:
        return [home / "include", home / "include" / "cccl"]
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = [path for root in roots for path in sorted(root.glob("*/include"))]
    return [*found, *(folder / "cccl" for folder in found if (folder / "cccl").is_dir())]
