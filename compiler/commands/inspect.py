"""athanor inspect: what an artifact says of itself. Its code is never loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from athanor.errors import RunError
from athanor.runtime.footer import FOOTER, WEIGHTS_BESIDE
from athanor.runtime.loader import inspect


def read_artifact(artifact: Path, *, verify: bool = False) -> dict[str, Any]:
    """The metadata, and what only the footer knows: sizes and hashes of code and weights.

    Raises RunError where the file is no artifact or, with `verify`, where any byte has changed.
    """
    metadata = inspect(artifact, verify=verify)
    with artifact.open("rb") as file:
        file.seek(-FOOTER.size, 2)
        fields = FOOTER.unpack(file.read(FOOTER.size))
    version, _, flags, _, code_bytes, _, weights_bytes, _, _, code, weights, *_ = fields
    return {
        **metadata,
        "abi_version": version,
        "file_bytes": artifact.stat().st_size,
        "code_bytes": code_bytes,
        "code_sha256": code.hex(),
        "weights_bytes": weights_bytes,
        "weights_sha256": weights.hex(),
        "weights_beside": bool(flags & WEIGHTS_BESIDE),
    }


def print_artifact(artifact: Path, *, as_json: bool = False, verify: bool = False) -> None:
    """Print the metadata as JSON, or as a page for a person."""
    metadata = read_artifact(artifact, verify=verify)
    if as_json:
        click.echo(json.dumps(metadata, indent=2, ensure_ascii=False))
        return
    for line in _page(metadata):
        click.echo(line)
    if verify:
        click.echo("verified: code, weights and metadata are as they were written")


def _page(metadata: dict[str, Any]) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        yield f"{kind}:"
        for tensor in metadata[kind]:
            dims = ["..."] if tensor["shape"] is None else tensor["shape"]
            shape = ", ".join("?" if dim is None else str(dim) for dim in dims)
            kind = f"{tensor['kind']} of " if "kind" in tensor else ""
            yield f"  {tensor['name']}  {kind}{tensor['dtype']}[{shape}]"
            if "columns" in tensor:
                yield f"    columns: {', '.join(str(name) for name in tensor['columns'])}"
    target = metadata["target"]
    features = " ".join(target["cpu_features"])
    yield f"target:   {target['name']} ({target['triple']}, {target['mcpu']}; needs {features})"
    opsets = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in _opsets(metadata))
    yield (
        f"made by:  athanor {metadata['athanor']}, tvm {metadata['tvm']}, llvm {metadata['llvm']};"
        f" ABI {metadata['abi_version']}; opset {opsets or 'none'}"
    )
    place = " in the file beside it" if metadata["weights_beside"] else ""
    grows = " and more with the symbolic sizes" if metadata.get("arena_is_symbolic") else ""
    yield f"file:     {metadata['file_bytes']} bytes"
    yield f"code:     {metadata['code_bytes']} bytes"
    yield f"weights:  {metadata['weights_bytes']} bytes{place}"
    yield f"arena:    {metadata['arena_bytes']} bytes{grows}"
    yield f"model     sha256 {metadata['model_sha256']}"
    yield f"code      sha256 {metadata['code_sha256']}"
    yield f"weights   sha256 {metadata['weights_sha256']}"
    kernels = metadata["kernels"]
    ir = ", IR kept" if metadata.get("ir") else ""
    yield f"kernels:  {len(kernels)}, {sum(len(k['calls']) for k in kernels)} calls{ir}"
    width = max((len(kernel["name"]) for kernel in kernels), default=0)
    for kernel in kernels:
        yield f"  {kernel['name']:{width}}  {kernel['rule']}  calls {len(kernel['calls'])}"


def _opsets(metadata: dict[str, Any]) -> list[tuple[str, int]]:
    return sorted(metadata.get("opsets", {}).items())


def print_kernel(artifact: Path, kernel: str, show: str, *, verify: bool = False) -> None:
    """Print one kernel's IR: `tir`, `scheduled`, `llvm` or `asm`.

    Raises RunError for an unknown kernel, and where the artifact was compiled without its IR.
    """
    metadata = inspect(artifact, verify=verify)
    names = [entry["name"] for entry in metadata["kernels"]]
    if kernel not in names:
        raise RunError(f"{artifact} has no kernel {kernel!r}; it has {', '.join(names) or 'none'}")
    ir = metadata.get("ir") or {}
    if kernel not in ir:
        raise RunError(f"{artifact} was compiled without its IR; compile it with --keep-ir")
    click.echo(ir[kernel][show])
