"""CUDA source -> a shared library for the host, and the test driver that runs it.

`emulated_image` stands in for the CUDA compiler: an artifact then holds code for the host in the
place of a cubin, and driver.cpp, loaded as libcuda.so.1, executes it. Nothing else differs from
what a GPU gets: the same source, the same host program, the same loader.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from athanor.targets import cuda_headers
from athanor.targets.cuda_images import DeviceImage

HERE = Path(__file__).resolve().parent
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{(.*?)\n\}',
    re.DOTALL,
)
_lock = threading.Lock()
_WAITS = ("__sync", "__shfl", cuda_headers.NAMESPACE)


def emulated_image(source, architecture):
    """What device_image makes, for the host."""
    text = host_source(source)
    folder = Path(tempfile.gettempdir(), "athanor-emulation")
    folder.mkdir(exist_ok=True)
    header = "".join((HERE / name).read_text() for name in ("emulate.h", "emulate_warp.h"))
    # What nvcc defines for sm_90a alone: kernels of warpgroups.
    feature = ["-D__CUDA_ARCH_FEAT_SM90_ALL"] if architecture == "sm_90a" else []
    path = folder / f"{hashlib.sha256((header + text + str(feature)).encode()).hexdigest()}.so"
    with _lock:  # images of two architectures may be the same
        return DeviceImage(architecture, _compiled(text, feature, path))


def _compiled(text, feature, path):
    if not path.exists():
        with tempfile.TemporaryDirectory() as work:
            Path(work, "kernels.cpp").write_text(text)
            command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing"]
            command += [
                "-fsanitize=alignment",
                "-ffp-contract=off",
                f"-I{HERE}",
                *feature,
                "kernels.cpp",
                "-o",
                "image.so",
            ]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{done.stderr[:4000]}\n{text[:8000]}"
            # Aside, then renamed: tests run in several processes.
            shutil.copyfile(Path(work, "image.so"), f"{path}.{os.getpid()}")
            Path(f"{path}.{os.getpid()}").replace(path)
    return path.read_bytes()


def host_source(source):
    """The kernels alone, as C++ for the host, and a function to call each."""
    begin = source.find(cuda_headers.BEGIN)
    kernels = source[begin if begin >= 0 else source.index('extern "C" __global__') :]
    kernels = re.sub(r"extern __shared__ [^;]*buf_dyn_shmem\[\];", "", kernels)
    dynamic = r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];"
    kernels = re.sub(dynamic, r"\1 *\2 = (\1 *)buf_dyn_shmem;", kernels)
    # where C++ wants it
    kernels = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 static", kernels)
    kernels = kernels.replace("__shared__ ", "static ")
    callers = []
    for name, parameters, body in _KERNEL.findall(kernels):
        types = [_type(parameter) for parameter in parameters.split(",") if parameter.strip()]
        values = ", ".join(f"*({kind} *)arguments[{i}]" for i, kind in enumerate(types))
        sizes = ", ".join("-8" if "*" in kind else f"sizeof({kind})" for kind in types)
        waits = int(any(word in body for word in _WAITS))
        callers.append(
            f'extern "C" const int sizes_{name}[] = {{{sizes}{", " if sizes else ""}0}};\n'
            f"static void body_{name}(void **arguments) {{ {name}({values}); }}\n"
            f'extern "C" int emulate_{name}(void **arguments, const unsigned *extents,'
            " unsigned shared) {"
            f" return emulation::run(body_{name}, arguments, extents, shared, {waits}); }}\n"
        )
    return '#include "emulate.h"\n#include "emulate_warp.h"\n' + kernels + "\n" + "\n".join(callers)


def _type(parameter):
    words = parameter.replace("__restrict__", " ").replace("*", " * ").split()
    return " ".join(words[:-1])


@functools.cache
def driver():
    """The test driver, loaded; dlopen("libcuda.so.1") then finds it by its name."""
    source = (HERE / "driver.cpp").read_bytes()
    folder = Path(
        tempfile.gettempdir(), f"athanor-driver-{hashlib.sha256(source).hexdigest()[:16]}"
    )
    path = folder / "libcuda.so.1"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"]
        command += ["-Wl,-soname,libcuda.so.1", str(HERE / "driver.cpp"), "-o", f"{path}.new"]
        subprocess.run([*command, "-ldl"], check=True)
        Path(f"{path}.new").rename(path)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name in ("fake_broken", "fake_log"):
        getattr(library, name).restype = ctypes.c_char_p
    library.fake_allocated.restype = ctypes.c_int64
    library.fake_fail.argtypes = (ctypes.c_char_p, ctypes.c_int)
    library.fake_reset(90, 1)
    return library


def log(library):
    """What the driver was asked to do since fake_reset."""
    return [library.fake_log(i).decode() for i in range(library.fake_log_size())]
