"""Kernels that are bound by reading and writing, beside a plain copy or read from the same cache.

    python bench/bandwidth.py [--threads N] [--output bench/bandwidth.md]

Each operator runs on data of three sizes: in the L2 cache, in L3, in memory. Printed is the slowest
kernel of each: its bytes a second, and their share of what `athanor profile` measures as the limit.

Kernels that compute much for each byte are bound by that. So each runs on data in the L1 cache,
too, which hides nothing: what it reaches there is `in L1`, and `of both` is the share of the lower
of that and the limit.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import click
import numpy as np
import onnx
import run
from onnx import parser
from rich.console import Console
from rich.table import Table

import athanor
from athanor.compiler.profiling.limits import Limits, machine_limits
from athanor.compiler.profiling.summary import Row, summarize

LINE = 16
"""Floats of a cache line."""
CHANNELS = 64
SIDES = {"L2": 40, "L3": 160, "memory": 640}
"""Sides of square float32 maps with CHANNELS channels: 0.4, 6.6 and 105 MB."""
MAPS = {
    "depthwise 3x3": "y = Conv <group = CHANNELS, pads = [1, 1, 1, 1]> (x, w)",
    "max pool 2x2": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
    "average pool 3x3": "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2]> (x)",
    "batch norm": "y = BatchNormalization (x, c, c, c, c)",
    "instance norm": "y = InstanceNormalization (x, c, c)",
    "group norm": "y = GroupNormalization <num_groups = GROUPS> (x, c, c)",
    "global average": "y = GlobalAveragePool (x)",
    "add": "y = Add (x, x)",
    "sigmoid": "y = Sigmoid (x)",
}
ROWS = {
    "layer norm": "y = LayerNormalization (x, r)",
    "RMS norm": "y = RMSNormalization (x, r)",
    "softmax": "y = Softmax (x)",
    "GELU": "y = Gelu (x)",
    "m = 1 product": "y = MatMul (x, m)",
}
WIDTH = 768
RUNS = 25
IN_L1 = {"maps": [1, 2, 32, 48], "rows": [4, WIDTH], "product": [1, 192, 16]}
"""12 KB each, with rows like those of the others: results and parameters fit beside them."""


def model_of(text: str, shape: list[int], width: int) -> onnx.ModelProto:
    """One node on x of that shape; weights of random numbers."""
    rng = np.random.default_rng(0)
    channels = shape[1]
    text = text.replace("CHANNELS", str(channels)).replace("GROUPS", str(min(8, channels)))
    weights = {
        "w": (channels, 1, 3, 3),
        "c": (channels,),
        "r": (shape[-1],),
        "m": (shape[-1], width),
    }
    dims = ",".join(map(str, shape))
    graph = (
        f"<ir_version: 10, opset_import: ['' : 23]> g (float[{dims}] x) => (float[] y) {{{text}}}"
    )
    model = parser.parse_model(graph.replace("'", '"'))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    used = set(model.graph.node[0].input) - {"x"}
    for name in sorted(used):
        values = rng.uniform(0.5, 1.5, weights[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return onnx.shape_inference.infer_shapes(model)


@click.command(help=__doc__)
@click.option("--threads", default=1, show_default=True)
@click.option("--only", default="", help="Operators whose name contains this.")
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file to write, too.")
def main(threads: int, only: str, output: Path | None) -> None:
    """See the top of the file."""
    limits = machine_limits(threads, measure=output is not None)
    table = Table(box=None)
    names = ("operator", "data in", "slowest kernel", "ms", "GB/s", "of limit", "in L1", "of both")
    names += ("all kernels, ms",)
    rows: list[tuple[str, ...]] = []
    for name in names:
        table.add_column(name)
    for name, text in {**MAPS, **ROWS}.items():
        if only not in name:
            continue
        first = threads * speed_in_l1(name, text, limits)
        for level, side in SIDES.items():
            rows.append(measured(name, text, level, side, threads, limits, first))
            table.add_row(*rows[-1])
    Console(width=110).print(table)
    if output is not None:
        output.write_text(page(names, rows, threads, limits), encoding="utf-8")


def measured(
    name: str, text: str, level: str, side: int, threads: int, limits: Limits, first: float
) -> tuple[str, ...]:
    """The row of one operator, on data of the size of one level; first: its GB/s in L1."""
    elements = CHANNELS * side * side
    shape, width = [1, CHANNELS, side, side], WIDTH
    if name in ROWS:
        shape = [elements // WIDTH, WIDTH]
    if name.startswith("m = 1"):
        shape, width = [1, WIDTH], elements // WIDTH
    row, milliseconds = slowest(text, shape, width, threads, limits)
    where = f"{level} ({row.level})" if row.level != level else level
    kernel = row.step.kernel.removeprefix("k_")
    times = f"{row.step.milliseconds:.4f}", f"{milliseconds:.4f}"
    speed, share = row.step.gigabytes_per_second, row.of_limit or 0.0
    both = max(share, speed / first)
    shares = f"{share:.0%}", f"{first:.0f}", f"{both:.0%}"
    return name, where, kernel, times[0], f"{speed:.1f}", *shares, times[1]


def speed_in_l1(name: str, text: str, limits: Limits) -> float:
    """GB/s of the operator's slowest kernel on one thread and data in L1."""
    shape, width = list(IN_L1["rows" if name in ROWS else "maps"]), WIDTH
    if name.startswith("m = 1"):
        *shape, width = IN_L1["product"]
    row, _ = slowest(text, shape, width, 1, limits)
    clock, _ = slowest("y = Relu (x)", [1, 1], 1, 1, limits)  # what measuring takes
    seconds = (row.step.milliseconds - clock.step.milliseconds) / 1e3
    return row.step.gigabytes_per_second * row.step.milliseconds / 1e3 / seconds


def slowest(
    text: str, shape: list[int], width: int, threads: int, limits: Limits
) -> tuple[Row, float]:
    """The slowest kernel of a node on x of that shape, and the milliseconds of all."""
    x = aligned(shape)
    artifact = athanor.compile(model_of(text, shape, width), profile=True)
    with artifact.load(threads=threads) as model:
        profile = model.profile({"x": x}, RUNS)
    return summarize(profile, artifact.metadata, limits).slowest_first()[0], profile.milliseconds


def aligned(shape: list[int]) -> np.ndarray:
    """Random numbers from the begin of a cache line on, where values within a model lie."""
    size = math.prod(shape)
    memory = np.empty(size + LINE, np.float32)
    begin = -memory.ctypes.data % (4 * LINE) // 4
    x = memory[begin : begin + size].reshape(shape)
    x[...] = np.random.default_rng(1).random(shape, np.float32)
    return x


def page(names: tuple[str, ...], rows: list[tuple[str, ...]], threads: int, limits: Limits) -> str:
    """The table and what it was measured on and with."""
    written = ", ".join(f"{name} {version}" for name, version in run.versions().items())
    levels = ", ".join(f"{x.name} {x.gigabytes_per_second:.1f}" for x in limits.levels)
    lines = [
        "# Kernels bound by reading and writing",
        "",
        f"Written by `python bench/bandwidth.py --threads {threads}` at commit {run.commit()}, on "
        f"{run.processor()}, Linux {platform.release()}, threads: {threads}. {written}, Python "
        f"{platform.python_version()}; medians of {RUNS} runs. Limits: the faster of a plain copy "
        f"(both ways count) and a plain read, GB/s: {levels}; or {limits.gflops:.0f} GFLOP/s. In "
        "brackets the level that holds what the kernel reads and writes, where it is another. In "
        "L1: GB/s of the same operator on 24 KB in the first cache, where its arithmetic and the "
        "ends of its rows are all that takes time; of both: the share of the lower of limit and "
        "this, above 100% where longer rows serve a kernel better.",
        "",
        f"| {' | '.join(names)} |",
        f"|---|---|---|{'--:|' * (len(names) - 3)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
