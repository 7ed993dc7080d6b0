"""Packs models for a machine with a GPU and nothing else: artifacts, the thin runtime, cuda.py.

    python bench/cuda_pack.py FOLDER resnet50.onnx bert.onnx --batch 1,32 --precision fp32,fp16
    python bench/cuda_pack.py FOLDER --suite 10          # every tenth case of ONNX's backend suite

Large weights stay here: cuda.py draws them anew, of the same mean and deviation, which is all that
speed depends on. What is packed of a case of the suite is whole.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import athanor
from athanor.compiler.artifact import WEIGHTS_SUFFIX, Artifact
from athanor.compiler.feeds import index_limits, make_feeds
from athanor.errors import AthanorError
from athanor.runtime import library
from athanor.runtime.dtypes import named_dtype
from athanor.runtime.spec import TensorSpec

HERE = Path(__file__).resolve().parent
DRAWN_BYTES = 1 << 14
"""Constants of floats from this size on are drawn on the other machine."""
LARGEST_ONNX_BYTES = 4 << 20
"""A model up to this size goes along for ONNX Runtime."""
PRODUCT = 4096


def main() -> None:
    """Parse and pack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--arch", default="sm_90a", help="as in the target: sm_80,sm_90a")
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--precision", default="fp32,tf32,fp16,bf16")
    parser.add_argument("--product", type=int, default=PRODUCT, help="of n x n matrices; 0: none")
    parser.add_argument("--suite", type=int, default=0, metavar="N", help="every Nth case; 0: none")
    arguments = parser.parse_args()
    pack_runtime(arguments.folder)
    target = f"cuda -arch={arguments.arch}"
    precisions = arguments.precision.split(",")
    batches = [int(batch) for batch in arguments.batch.split(",")]
    entries = []
    for path in arguments.models:
        for batch in batches:
            entries += pack_model(arguments.folder, path, target, batch, precisions)
    if arguments.product:
        entries += pack_products(arguments.folder, arguments.product, target, precisions)
    (arguments.folder / "models.json").write_text(json.dumps(entries, indent=1))
    if arguments.suite:
        pack_suite(arguments.folder, target, arguments.suite)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 1e6:.1f} MB, {len(entries)} models")


def pack_runtime(folder: Path) -> None:
    """The package as far as running goes, and the scripts."""
    package = folder / "athanor"
    package.mkdir(parents=True, exist_ok=True)
    for source in Path(athanor.__file__).parent.glob("*.py"):
        shutil.copyfile(source, package / source.name)
    runtime = package / "runtime"
    (runtime / "lib").mkdir(parents=True, exist_ok=True)
    installed = library.LIBRARY.parent.parent
    for source in [*installed.glob("*.py"), *installed.glob("*.so")]:
        shutil.copyfile(source, runtime / source.name)
    shutil.copyfile(library.LIBRARY, runtime / "lib" / library.LIBRARY.name)
    for name in ("cuda.py", "cuda_modules.py", "cuda_suite.py"):
        shutil.copyfile(HERE / name, folder / name)


def pack_model(
    folder: Path, path: Path, target: str, batch: int, precisions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One model for one batch size; a precision that it can't be compiled in is left out, aloud."""
    has_external_data = _has_external_data(onnx.load(path, load_external_data=False))
    model = onnx.load(path)
    shapes = _batched(model, batch)
    for precision in precisions:
        name = f"{path.stem}-{precision}-b{batch}"
        try:
            artifact = athanor.compile(
                model, target, shapes, precision=precision, weights_beside=True
            )
        except AthanorError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        entry = pack_artifact(folder, name, artifact, index_limits(model))
        entry |= {"model": path.stem, "precision": precision, "batch": batch}
        if path.stat().st_size <= LARGEST_ONNX_BYTES and not has_external_data:
            onnx.save(model, folder / path.name)
            entry["onnx"] = path.name
        yield entry


def pack_products(
    folder: Path, size: int, target: str, precisions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Products a @ b of two inputs, in the types that the precisions are about."""
    types = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    for precision in precisions:
        kind = types.get(precision, TensorProto.FLOAT)
        values = [helper.make_tensor_value_info(name, kind, [size, size]) for name in "aby"]
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
        graph = helper.make_graph([node], "product", values[:2], values[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        name = f"product{size}-{precision}"
        multiplied_in = precision if kind == TensorProto.FLOAT else "fp32"
        artifact = athanor.compile(model, target, precision=multiplied_in, weights_beside=True)
        entry = pack_artifact(folder, name, artifact, {})
        yield {**entry, "model": f"product{size}", "precision": precision, "batch": 1} | {
            "operations": 2 * size**3
        }


def pack_artifact(
    folder: Path, name: str, artifact: Artifact, limits: dict[str, int]
) -> dict[str, Any]:
    """The artifact without large weights, what draws them, and its inputs."""
    path = artifact.save(folder / f"{name}.so")
    weights = path.with_name(path.name + WEIGHTS_SUFFIX)
    data = np.fromfile(weights, np.uint8) if weights.exists() else np.empty(0, np.uint8)
    weights.unlink(missing_ok=True)
    drawn, kept = [], {}
    for constant in artifact.constants:
        dtype = named_dtype(constant.dtype)
        size_bytes = constant.elements * dtype.itemsize
        raw = data[constant.offset : constant.offset + size_bytes]
        if _is_drawn(constant.dtype) and size_bytes >= DRAWN_BYTES:
            row = _statistics(raw.view(dtype).astype(np.float32))
            drawn.append([constant.offset, constant.dtype, constant.elements, *row])
        else:
            kept[str(constant.offset)] = raw
    specs = [
        TensorSpec(value["name"], named_dtype(value["dtype"]), tuple(value["shape"]))
        for value in artifact.metadata["inputs"]
    ]
    feeds = make_feeds(specs, limits=limits)
    inputs: list[dict[str, Any]] = []
    for feed, array in feeds.items():
        is_drawn = _is_drawn(array.dtype.name)
        inputs.append({"name": feed, "dtype": array.dtype.name, "shape": list(array.shape)})
        if not is_drawn:
            kept[f"input:{feed}"] = array
    np.savez_compressed(folder / f"{name}.npz", **kept)  # pyright: ignore[reportArgumentType]
    return {"name": name, "weights_bytes": data.size, "drawn": drawn, "inputs": inputs}


def _is_drawn(dtype: str) -> bool:
    return dtype in ("float32", "float16", "bfloat16")


def _statistics(values: np.ndarray) -> tuple[float, float, bool]:
    """Mean, deviation, and whether none is negative."""
    with np.errstate(all="ignore"):
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return mean, deviation, bool((values >= 0).all())


def _batched(model: onnx.ModelProto, batch: int) -> dict[str, list[int | str]]:
    """The shapes of the inputs for a batch; `model` then is one for batches of any size.

    Inputs whose first dimension is 1, or has no size, get the batch there; other dimensions without
    a size become 1.
    """
    known = {initializer.name for initializer in model.graph.initializer}
    shapes: dict[str, list[int | str]] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in known or not dims:
            continue
        sizes: list[int | str] = [d.dim_value if d.HasField("dim_value") else 1 for d in dims]
        if sizes[0] == 1:
            dims[0].dim_param = "batch"
            sizes[0] = batch
        shapes[value.name] = sizes
    _free_reshapes(model)
    del model.graph.value_info[:]  # they tell the sizes of one batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shapes


def _free_reshapes(model: onnx.ModelProto) -> None:
    """A first dimension of 1 that a Reshape asks for becomes what is left, in place."""
    asked = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for initializer in model.graph.initializer:
        if initializer.name not in asked:
            continue
        sizes = numpy_helper.to_array(initializer).copy()
        if sizes.size > 1 and sizes[0] == 1 and -1 not in sizes:
            sizes[0] = -1
            initializer.CopyFrom(numpy_helper.from_array(sizes, initializer.name))


def _has_external_data(model: onnx.ModelProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in model.graph.initializer)


def pack_suite(folder: Path, target: str, step: int) -> None:
    """Every `step`th case of ONNX's backend suite: artifact, inputs, expected outputs.

    A case that is refused, or has other inputs or outputs than tensors, is left out; so is one that
    is there already: packing goes on where it was ended.
    """
    from onnx.backend.test.loader import load_model_tests

    made = folder / "suite"
    made.mkdir(parents=True, exist_ok=True)
    cases = [case for kind in ("node", "simple") for case in load_model_tests(kind=kind)]
    left_out = []
    for case in cases[::step]:
        path = made / f"{re.sub(r'[^A-Za-z0-9_]', '_', case.name)}.zip"
        if path.exists():
            continue
        try:
            arrays = _case_arrays(case)
            artifact = athanor.compile(case.model or Path(case.model_dir, "model.onnx"), target)
        except (AthanorError, TypeError, ValueError) as error:
            left_out.append(f"{case.name}: {str(error).splitlines()[0][:200]}")
            continue
        artifact.save(made / "case.so")
        np.savez_compressed(made / "case.npz", **arrays)  # pyright: ignore[reportArgumentType]
        aside = path.with_suffix(".new")
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as file:
            file.write(made / "case.so", "model.so")
            file.write(made / "case.npz", "arrays.npz")
            file.writestr("case.json", json.dumps({"rtol": case.rtol, "atol": case.atol}))
        aside.replace(path)
    for name in ("case.so", "case.npz"):
        (made / name).unlink(missing_ok=True)
    (made / "left_out.txt").write_text("".join(f"{line}\n" for line in left_out))


def _case_arrays(case: Any) -> dict[str, np.ndarray]:
    """`input0`, `output0`, ... of a case's first data set. Raises TypeError where one is no tensor.

    A case has its model and data in memory, or in a folder.
    """
    arrays = {}
    for kind, values in zip(("input", "output"), _case_data(case), strict=True):
        for number, value in enumerate(values):
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
                raise TypeError(f"{kind}s of {getattr(value, 'dtype', type(value))} are not packed")
            arrays[f"{kind}{number}"] = value
    return arrays


def _case_data(case: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    if case.data_sets:
        return case.data_sets[0]

    def read(kind: str) -> list[np.ndarray]:
        files = sorted(Path(case.model_dir).glob(f"test_data_set_0/{kind}_*.pb"), key=_number)
        return [numpy_helper.to_array(onnx.load_tensor(path)) for path in files]

    return read("input"), read("output")


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


if __name__ == "__main__":
    main()
