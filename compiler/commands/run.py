"""athanor run: one run of an artifact, on arrays from files or on seeded ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from athanor.compiler.commands.compare import named_arrays
from athanor.compiler.feeds import make_feeds
from athanor.compiler.write_aside import check_writable, write_aside
from athanor.errors import RunError
from athanor.runtime.loader import load


def run_artifact(
    artifact: Path,
    files: Mapping[str, Path],
    *,
    output: Path | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    seed: int = 0,
    device: int = 0,
    cuda_graph: bool = False,
) -> dict[str, np.ndarray]:
    """Run `artifact` once and print a line for each output; `output` gets them all as .npz.

    Raises RunError.
    """
    if output is not None:
        check_writable(output)
    given = {name: _read_array(path) for name, path in files.items()}
    model = load(artifact, threads=threads, device=device, cuda_graph=cuda_graph)
    feeds = make_feeds(model.inputs, dims=dims, seed=seed, given=given)
    outputs = model.run(feeds)
    arrays = named_arrays(outputs)
    for name, array in arrays.items():
        click.echo(describe_array(name, array))
    if output is not None:
        with write_aside(output) as file:
            # text of a fixed width needs no pickle to be read again
            plain = {n: a.astype(str) if a.dtype.kind == "O" else a for n, a in arrays.items()}
            np.savez(file, **plain)  # pyright: ignore[reportArgumentType]
    return arrays


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise RunError(f"{path} is not a .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise RunError(f"{path} holds several arrays; give one .npy file for each input")
    return array


def describe_array(name: str, array: np.ndarray) -> str:
    """`name dtype[shape]`, with its range where it has one."""
    head = f"{name}  {array.dtype}{list(array.shape)}"
    if array.size == 0:
        return head
    if array.dtype.kind == "O":
        texts = [repr(text) for text in array.reshape(-1)[:4]]
        return f"{head}  {', '.join(texts)}" + (", ..." if array.size > 4 else "")
    values = array.astype(np.float64)
    line = f"{head}  min {values.min():.6g}  mean {values.mean():.6g}  max {values.max():.6g}"
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
        places = ", ".join(str(place) for place in array.argmax(1)[:8])
        line += f"  arg-max {places}" + (", ..." if len(array) > 8 else "")
    return line
