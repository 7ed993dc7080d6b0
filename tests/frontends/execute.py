"""Runs an ONNX model through the importer; the one place that knows how."""

import numpy as np
import onnx
import tvm
from onnx.reference import ReferenceEvaluator
from tvm import relax

from athanor.frontends.onnx.importer import import_model


def run(model, inputs):
    """The outputs, in order, of `model` on arrays given in the order of its inputs."""
    return runner(model)(inputs)


def runner(model):
    """As run(), for several sets of inputs."""
    imported = import_model(model)
    executable = tvm.compile(imported.mod, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())

    def call(inputs):
        arrays = [np.ascontiguousarray(x).reshape(np.shape(x)) for x in inputs]
        results = machine["main"](*(tvm.runtime.tensor(array) for array in arrays))
        return [result.numpy() for result in results]

    return call


def one_node(op, inputs, outputs=1, opset=22, domain="", constants=(), shapes=None, **attributes):
    """A model of one node: `inputs` are arrays or None, those in `constants` initializers.

    `shapes` replaces the declared shape of an input by index, e.g. {0: ["batch", 4]}.
    """
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, name="node", domain=domain, **attributes)
    graph = onnx.helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name=n) for n in results])
    for index, (name, x) in enumerate(zip(names, inputs, strict=True)):
        if x is None:
            continue
        if index in constants:
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(x), name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(x).dtype)
            shape = (shapes or {}).get(index, np.shape(x))
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return inferred(model)


def inferred(model):
    """The model with the types of its outputs filled in; the checker wants some shape."""
    full = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    for value in full.graph.output:
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        value.type.tensor_type.shape.SetInParent()
    return full


def check(op, inputs, rtol=1e-5, atol=1e-6, **options):
    """Compare one node with the onnx reference; returns our outputs. Options as in one_node."""
    model = one_node(op, inputs, **options)
    names = {value.name for value in model.graph.input}
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(model).run(None, feeds)
    results = run(model, list(feeds.values()))
    assert len(results) == len(expected)
    for ours, theirs in zip(results, expected, strict=True):
        same(ours, np.asarray(theirs), rtol, atol)
    return results


def same(ours, theirs, rtol=1e-5, atol=1e-6):
    """Equal type and shape, and values within the tolerance (exactly, for integers)."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if ours.dtype.kind in "iub":
        np.testing.assert_array_equal(ours, theirs)
    else:
        wide = (ours.astype(np.float64), theirs.astype(np.float64))
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)


def floats(*shape, seed=0, dtype=np.float32):
    """Seeded standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
