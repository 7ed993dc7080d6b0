"""Whose fault a failure inside the compiler is: a model's that breaks the standard, or ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from tvm_ffi.error import register_error

import athanor
from athanor.errors import AthanorError, CompileError, CompilerDefect
from athanor.frontends.onnx.model_file import SourceModel
from athanor.frontends.onnx.operators import breaks_inference, walk_nodes

# Or Ctrl-C in a pass, which TVM calls back, comes out of TVM as a RuntimeError without a word.
register_error("KeyboardInterrupt", KeyboardInterrupt)


@contextmanager
def blaming(source: SourceModel) -> Iterator[None]:
    """Turn any exception into a CompileError, of the model's fault or of ours.

    Only then are the model's types and shapes compared with the standard: real models have small
    contradictions that harm nobody, such as a declared output shape that is wrong. On a model
    without any it is a CompilerDefect.
    """
    try:
        yield
    except AthanorError:
        raise
    except Exception as error:
        fault = _fault(source.skeleton)
        if fault is None:
            reason = next(iter(str(error).strip().splitlines()), "")[:300]
            raise CompilerDefect(
                f"athanor {athanor.__version__} has a defect that this model shows; please report "
                f"it with the model: {type(error).__name__}: {reason}"
            ) from error
        raise CompileError(f"the model is invalid: {fault}") from error


def _fault(skeleton: onnx.ModelProto) -> str | None:
    """What ONNX's strict inference says against the model, None where nothing."""
    if any(breaks_inference(node) for node in walk_nodes(skeleton.graph.node)):
        return None
    try:
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None
