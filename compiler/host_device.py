"""C text of the parts of a host program that deal with a device: launches and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm.ir import Expr

from athanor.compiler.cexpr import c_expression, c_string
from athanor.compiler.place_steps import why_not_captured
from athanor.compiler.places import Places
from athanor.compiler.program import Program
from athanor.targets.device_kernel import DeviceKernel, Launch

_C_TYPES = {"int64": "int64_t", "int32": "int32_t"}


def launch_functions(kernels: Mapping[str, DeviceKernel]) -> str:
    """For each kernel `device_<name>(run, pointers..., dims...)`, which queues its launches."""
    numbers = {function: number for number, (function, _) in enumerate(_functions(kernels))}
    return "\n".join(_launch_function(name, kernel, numbers) for name, kernel in kernels.items())


def _functions(kernels: Mapping[str, DeviceKernel]) -> list[tuple[str, int]]:
    """Device functions in the order of their numbers, and their dynamic shared memory."""
    return [
        (launch.function, launch.shared_bytes)
        for kernel in kernels.values()
        for launch in kernel.launches
    ]


def _launch_function(name: str, kernel: DeviceKernel, numbers: Mapping[str, int]) -> str:
    pointers = [f"void *b{i}" for i in range(kernel.num_buffers + len(kernel.scratch))]
    dims = [f"int64_t d{i}" for i in range(len(kernel.dims))]
    names = {var.name: f"d{i}" for i, var in enumerate(kernel.dims)}
    lines = [f"static int device_{name}({', '.join(['AthanorRun *run', *pointers, *dims])}) {{"]
    lines += [f"  (void)d{i};" for i in range(len(dims))]
    for launch in kernel.launches:
        lines += _launch(launch, numbers[launch.function], names)
    return "\n".join([*lines, "  return 0;", "}\n"])


def _launch(launch: Launch, number: int, names: Mapping[str, str]) -> list[str]:
    def text(value: int | Expr) -> str:
        return c_expression(value, lambda var: names[var.name])

    lines, arguments = [f"  {{  /* {launch.function} */"], []
    for index, (value, kind) in enumerate(zip(launch.arguments, launch.types, strict=True)):
        if kind == "handle":
            arguments.append(f"&b{value}")
            continue
        lines.append(f"    {_C_TYPES[kind]} a{index} = {text(value)};")
        arguments.append(f"&a{index}")
    extents = ", ".join(text(extent) for extent in launch.extents)
    return [
        *lines,
        f"    void *arguments[] = {{{', '.join(arguments) or '0'}}};",
        f"    const int64_t extents[] = {{{extents}}};",
        f"    const uint32_t shared_bytes = {launch.shared_bytes};",
        f"    if (services->device_launch(run, {number}, extents, shared_bytes, arguments))",
        "      return -1;",
        "  }",
    ]


def device_functions(kernels: Mapping[str, DeviceKernel]) -> list[str]:
    """Rows of a table of AthanorDeviceFunction, in the order of their numbers."""
    return [f'  {{"{name}", {shared}}},' for name, shared in _functions(kernels)]


def image_sections(architectures: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files `image0`, `image1`, ... as data, and the statements that set `images` to them.

    Sizes are differences of addresses, which C takes for no constants.
    """
    lines, rows = [], []
    for number, architecture in enumerate(architectures):
        lines += [
            f'__asm__(".section .rodata\\n.balign 64\\nathanor_image{number}:\\n"',
            f'        ".incbin \\"image{number}\\"\\nathanor_image{number}_end:\\n.byte 0\\n"',
            '        ".previous\\n");',
            f"extern const uint8_t athanor_image{number}[] HIDDEN;",
            f"extern const uint8_t athanor_image{number}_end[] HIDDEN;",
        ]
        rows.append(
            f'  images[{number}] = (AthanorImage){{"{architecture}", athanor_image{number}, '
            f"(uint64_t)(athanor_image{number}_end - athanor_image{number})}};"
        )
    return lines, rows


def device_descriptor(
    program: Program, places: Places, base: str, images: Sequence[str], profile: bool
) -> str:
    """The descriptor of an artifact for a device; base: the fields of AthanorDescriptor."""
    reason = why_not_captured(program)
    lines, rows = image_sections(images)
    functions = device_functions(program.device)
    sides = {
        "inputs": [tensor.root()[0].on_host for tensor in program.inputs],
        "outputs": [places.output_on_host(index) for index in range(len(program.outputs))],
    }
    for name, on_host in sides.items():
        values = ", ".join(str(int(value)) for value in on_host) or "0"
        lines.append(f"static const uint8_t {name}_on_host[] = {{{values}}};")
    return (
        "\n".join(
            [
                *lines,
                "static const AthanorDeviceFunction functions[] = {",
                *functions,
                "};",
                f"static AthanorImage images[{len(images)}];",
                "static int init_device(const AthanorServices *given) {",
                *rows,
                "  return init(given);",
                "}",
                '__attribute__((visibility("default")))',
                "const AthanorDeviceDescriptor athanor_descriptor = {{{",
                "  ATHANOR_ABI_VERSION, sizeof(AthanorDeviceDescriptor),",
                base.replace(" init, ", " init_device, "),
                f"}}, {'run_profiled' if profile else '0'}}}, {len(images)}, {len(functions)},",
                "  images, functions, inputs_on_host, outputs_on_host,",
                f"  {c_string(reason) if reason else '0'},",
                "};",
            ]
        )
        + "\n"
    )
