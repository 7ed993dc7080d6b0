"""athanor verify: a model's outputs beside ONNX Runtime's, on the same seeded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import onnx

from athanor.compiler.commands.compare import Difference, compare, named_arrays
from athanor.compiler.commands.compile import compile_with_progress
from athanor.compiler.commands.peers import onnxruntime
from athanor.compiler.feeds import index_limits, make_feeds
from athanor.errors import RunError

TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
"""bfloat16 has 8 bits: each rounding is off by up to 2e-3, and deep models add some up; TF32 and
float16 have 11."""


def verify_model(
    model: Path,
    *,
    tolerance: float | None = None,
    precision: str = "fp32",
    target: str = "native",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    seed: int = 0,
    database: Path | None = None,
) -> bool:
    """Compile, run, compare and print; True where every output is within `tolerance`.

    tolerance: relative to an output's largest magnitude; None: TOLERANCES of the precision. The
    reference computes in float32, whatever the precision.
    Raises CompileError or RunError where either side can't run the model.
    """
    if tolerance is None:
        tolerance = TOLERANCES[precision]
    artifact = compile_with_progress(
        model, target=target, shapes=shapes, database=database, precision=precision
    )
    ours = artifact.load(threads=threads)
    limits = index_limits(onnx.load(model, load_external_data=False))
    feeds = make_feeds(ours.inputs, dims=dims, seed=seed, limits=limits)
    names = [spec.name for spec in ours.outputs]
    reference = named_arrays(dict(zip(names, onnxruntime(model, threads)(feeds), strict=True)))
    outputs = named_arrays(ours.run(feeds))
    if outputs.keys() != reference.keys():
        raise RunError(f"outputs are {', '.join(outputs)}, the reference's {', '.join(reference)}")
    rows = [compare(name, actual, reference[name]) for name, actual in outputs.items()]
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        click.echo(describe_difference(row, width))
    passed = all(row.relative <= tolerance for row in rows)
    verdict = "passed" if passed else "FAILED"
    click.echo(f"{verdict}: {len(rows)} outputs in {precision}, tolerance {tolerance:g} (relative)")
    return passed


def describe_difference(row: Difference, width: int = 0) -> str:
    """One line of the table."""
    line = (
        f"{row.name:{width}}  {list(row.shape)}  max abs {row.absolute:.2e}  "
        f"max rel {row.relative:.2e}"
    )
    if row.rows:
        line += f"  arg-max {row.rows_agreeing}/{row.rows}"
    return line
