"""compile_module(): a Relax module instead of an ONNX model -> artifact."""

from __future__ import annotations

import hashlib

from tvm import relax, tirx
from tvm.ir import IRModule, TupleType

from athanor.compiler.artifact import Artifact
from athanor.compiler.driver import build_artifact
from athanor.frontends.onnx.importer import ImportedModel
from athanor.frontends.onnx.shapes import TensorSpec
from athanor.targets import target_for_precision


def compile_module(
    mod: IRModule, target: str = "native", *, profile: bool = False, precision: str = "fp32"
) -> Artifact:
    """Compile a Relax module whose `main` takes and returns tensors, with kernels of your own.

    Inputs are named after the parameters of `main`, outputs `output0`, `output1`, ... A prim_func
    with the attribute `tirx.is_scheduled` keeps its loops; all others are scheduled as those of a
    model are. profile, precision: as for `athanor.compile`. Raises CompileError for a target or
    precision that there is not.
    """
    main = mod["main"]
    inputs = tuple(_spec(param.name, param.ty) for param in main.params)
    types = list(main.ret_ty.fields) if isinstance(main.ret_ty, TupleType) else [main.ret_ty]
    outputs = tuple(_spec(f"output{index}", ty) for index, ty in enumerate(types))
    symbols = dict.fromkeys(
        dim for spec in inputs for dim in spec.shape or () if isinstance(dim, str)
    )
    digest = hashlib.sha256(mod.script(show_meta=True).encode()).hexdigest()
    imported = ImportedModel(mod, inputs, outputs, tuple(symbols), (), digest, {})
    spec = target_for_precision(target, precision)
    return build_artifact(imported, spec, profile=profile, precision=precision)


def _spec(name: str, ty: relax.TensorType) -> TensorSpec:
    shape = (int(dim) if isinstance(dim, tirx.IntImm) else str(dim) for dim in ty.shape.values)
    return TensorSpec(name, str(ty.dtype), tuple(shape))
