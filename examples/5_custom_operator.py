"""Operators of your own: one written with Relax, one as a TVMScript kernel.

A converter is a function (node, inputs, builder). It reads the node's attributes, gets the inputs
as Relax expressions and returns the output. Run: python examples/5_custom_operator.py
"""

import numpy as np
from onnx import TensorProto, helper
from tvm import relax
from tvm.script import tirx as T

import athanor


def soft_threshold(node, inputs, builder):
    """my.domain.SoftThreshold: x moved toward 0 by `limit`, and 0 where it would pass it."""
    (x,) = inputs
    limit = relax.const(node.float("limit", 0.5), x.ty.dtype)
    size = builder.emit(relax.op.subtract(relax.op.abs(x), limit))
    return relax.op.multiply(relax.op.sign(x), relax.op.nn.relu(size))


@T.prim_func(s_tir=True)
def running_maximum_kernel(x_handle: T.handle, y_handle: T.handle):
    """y[i, j] = max(x[i, 0], ..., x[i, j]), for any number of rows and columns."""
    T.func_attr({"tirx.is_scheduled": True})  # the loops stay as they are written here
    rows, columns = T.int64(), T.int64()
    x = T.match_buffer(x_handle, (rows, columns), "float32")
    y = T.match_buffer(y_handle, (rows, columns), "float32")
    for i, j in T.grid(rows, columns):
        with T.sblock("running_maximum"):
            T.reads(x[i, j], y[i, 0:columns])
            T.writes(y[i, j])
            y[i, j] = T.if_then_else(j == 0, x[i, j], T.max(x[i, j], y[i, j - 1]))


def running_maximum(node, inputs, builder):
    """my.domain.RunningMaximum: over each row; the kernel is called on a tensor of x's type."""
    (x,) = inputs
    if x.ty.ndim != 2 or x.ty.dtype != "float32":
        raise node.error("expected a float32 matrix")
    kernel = builder.add_func(running_maximum_kernel, "running_maximum")
    return relax.call_tir(kernel, [x], out_ty=x.ty)


graph = helper.make_graph(
    [
        helper.make_node("SoftThreshold", ["x"], ["s"], domain="my.domain", limit=0.25),
        helper.make_node("RunningMaximum", ["s"], ["y"], domain="my.domain"),
    ],
    "custom",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])],
)
imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
model = helper.make_model(graph, opset_imports=imports, ir_version=8)

operators = {
    ("my.domain", "SoftThreshold", 1): soft_threshold,
    ("my.domain", "RunningMaximum", 1): running_maximum,
}
compiled = athanor.compile(model, operators=operators).load(threads=1)

x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
(y,) = compiled.run({"x": x}).values()
expected = np.maximum.accumulate(np.sign(x) * np.maximum(np.abs(x) - 0.25, 0), axis=1)
np.testing.assert_allclose(y, expected, rtol=1e-6)
print(f"two operators of my.domain, compiled and run:\n{y}")

# The same model without them is refused, and says what would help.
try:
    athanor.compile(model)
except athanor.CompileError as error:
    print(error)
