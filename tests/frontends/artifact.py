"""Compiles a model, runs the artifact and ONNX Runtime, and compares; the whole way."""

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator

import athanor

from .execute import one_node, same


def ours(model, feeds):
    """The outputs of the compiled model, in order."""
    return list(athanor.compile(model).load(threads=1).run(feeds).values())


def runtime(model, feeds):
    """The outputs of ONNX Runtime, which reads IR versions up to 13."""
    copy = type(model).FromString(model.SerializeToString())
    copy.ir_version = min(copy.ir_version, 13)
    for value in copy.graph.output:  # it infers them, where one_node could not
        value.ClearField("type")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(copy.SerializeToString(), options).run(None, feeds)


def reference(model, feeds):
    """The outputs of the onnx reference."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def compare(model, feeds, against=runtime, rtol=1e-5, atol=1e-6):
    """Equal outputs; integers exactly. Returns ours."""
    results = ours(model, feeds)
    expected = against(model, feeds)
    assert len(results) == len(expected)
    for mine, theirs in zip(results, expected, strict=True):
        same(mine, np.asarray(theirs), rtol, atol)
    return results


def compare_node(op, inputs, against=runtime, rtol=1e-5, atol=1e-6, **options):
    """`compare` for one node; options as in one_node."""
    model = one_node(op, inputs, **options)
    names = {value.name for value in model.graph.input}
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    return compare(model, feeds, against, rtol, atol)
