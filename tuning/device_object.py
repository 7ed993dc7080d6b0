"""A kernel for a GPU as an object file that launches it: what the measuring program links.

The object has the signature of a kernel for a processor, its pointers being of device memory, and
holds the images. runtime/measure/device.c serves its launches.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tvm
from tvm import tirx

from athanor.compiler.cexpr import c_expression
from athanor.compiler.host_device import device_functions, image_sections, launch_functions
from athanor.compiler.image_cache import cached_images
from athanor.compiler.link import c_compiler
from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.targets.cuda_codegen import cuda_source, lower_device_kernel
from athanor.targets.cuda_images import DeviceImage
from athanor.targets.device_kernel import DeviceKernel

_RUNTIME = Path(__file__).resolve().parent.parent / "runtime"
_FLAGS = ["-std=c11", "-O1", "-w", *(f"-I{_RUNTIME / name}" for name in ("include", "measure"))]


def lower_candidate(symbol: str, func: tirx.PrimFunc, target: TargetSpec) -> Callable[[], bytes]:
    """A scheduled prim_func -> its CUDA source; the result compiles that, on any thread.

    There is no PTX: what the driver makes of it when it loads it is not what a model runs where
    the target names the device. Most candidates are built once, so none goes into the cache
    folder. Raises what code generation raises.
    """
    assert target.gpu is not None, f"{target.name} has no device"
    kernel = lower_device_kernel(symbol, func, target.gpu)
    source = cuda_source([kernel], target.gpu)
    cubins = replace(target.gpu, portable=None)
    return lambda: launcher_object(
        symbol, kernel, cached_images(source, cubins, enabled=False), target
    )


def launcher_object(
    symbol: str, kernel: DeviceKernel, images: Sequence[DeviceImage], target: TargetSpec
) -> bytes:
    """The object file that defines `symbol`. Raises CompileError."""
    with tempfile.TemporaryDirectory(prefix="athanor-launcher-") as name:
        folder = Path(name)
        for number, image in enumerate(images):
            (folder / f"image{number}").write_bytes(image.data)
        source = _source(symbol, kernel, [image.architecture for image in images])
        (folder / "launcher.c").write_text(source)
        command = [*c_compiler(target), *_FLAGS, "-c", "launcher.c", "-o", "launcher.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(
                f"the C compiler failed ({' '.join(command)}):\n{done.stderr.strip()[-2000:]}"
            )
        return (folder / "launcher.o").read_bytes()


def _source(symbol: str, kernel: DeviceKernel, architectures: Sequence[str]) -> str:
    names = {var.name: f"d{number}" for number, var in enumerate(kernel.dims)}
    pointers = [f"b{number}" for number in range(kernel.num_buffers)]
    dims = [f"d{number}" for number in range(len(kernel.dims))]
    parameters = [f"void *{name}" for name in pointers] + [f"int64_t {name}" for name in dims]
    lines = []
    for number, scratch in enumerate(kernel.scratch):
        elements = c_expression(scratch.elements, lambda var: names[var.name])
        itemsize = -(-tvm.DataType(scratch.dtype).bits // 8)
        pointers.append(f"s{number}")
        lines += [
            f"  void *s{number} = measure_device_scratch({number}, {itemsize}u * ({elements}));",
            f"  if (!s{number}) return -1;",
        ]
    sections, rows = image_sections(architectures)
    functions = device_functions({symbol: kernel})
    arguments = ", ".join(["&run", *pointers, *dims])
    return "\n".join(
        [
            '#include "measure_device.h"\n',
            '#define HIDDEN __attribute__((visibility("hidden")))',
            *sections,
            "static const AthanorServices *const services = &measure_device_services;",
            launch_functions({symbol: kernel}),
            f"static AthanorImage images[{len(architectures)}];",
            "static const AthanorDeviceFunction functions[] = {",
            *functions,
            "};",
            "static const MeasureDeviceCode code = {",
            f"  {len(architectures)}, {len(functions)}, images, functions",
            "};",
            f"int {symbol}({', '.join(parameters) or 'void'}) {{",
            *rows,
            "  AthanorRun run = {.services = services, .session = (void *)&code};",
            *lines,
            f"  return device_{symbol}({arguments});",
            "}\n",
        ]
    )
