"""A user's own operators: with Relax, with TVMScript, by opset; and wrong ones, in sentences."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tvm import relax

import athanor
from athanor.errors import CompileError

from .execute import floats

ROOT = Path(__file__).resolve().parent.parent.parent


def model_of(outputs=("y",), opset=1, **attributes):
    node = helper.make_node("MyOp", ["x"], list(outputs), "op", domain="my.domain", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    for value in graph.output:
        value.type.tensor_type.shape.SetInParent()
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model, converter, x, since=1):
    table = {("my.domain", "MyOp", since): converter}
    return list(athanor.compile(model, operators=table).load(threads=2).run({"x": x}).values())


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 33)])
def test_the_documented_converters(shape):
    """Both of docs/custom-operators.md, as they stand there."""
    page = (ROOT / "docs" / "custom-operators.md").read_text()
    with_relax, with_kernel = re.findall(r"```python\n(from tvm.*?)```", page, re.DOTALL)
    x = floats(*shape)
    (y,) = run(model_of(limit=2.0), script(with_relax)["my_op"], x)
    np.testing.assert_allclose(y, 2 * np.tanh(x / 2), rtol=1e-5, atol=1e-6)
    (y,) = run(model_of(), script(with_kernel)["my_op"], x)
    np.testing.assert_array_equal(y, x[:, ::-1])


def script(text):
    """Names that a text defines; TVMScript reads the source again, so it has to be a file."""
    import importlib.util
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write("from tvm import relax\n" + text)
        file.flush()
        spec = importlib.util.spec_from_file_location("script", file.name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return vars(module)


def test_the_largest_opset_that_is_not_above_the_models():
    def times(factor):
        def converter(node, inputs, builder):
            return relax.op.multiply(inputs[0], relax.const(factor, "float32"))

        return converter

    x = floats(2, 3)
    table = {("my.domain", "MyOp", since): times(float(since)) for since in (1, 4, 9)}
    for opset, factor in ((1, 1), (3, 1), (4, 4), (8, 4), (20, 9)):
        compiled = athanor.compile(model_of(opset=opset), operators=table).load(threads=1)
        np.testing.assert_allclose(compiled.run({"x": x})["y"], x * factor, rtol=1e-6)


def test_two_outputs_and_a_constant():
    def converter(node, inputs, builder):
        return relax.op.negative(inputs[0]), np.arange(3, dtype=np.float32)

    x = floats(2, 2)
    y, z = run(model_of(("y", "z")), converter, x)
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_array_equal(z, np.arange(3, dtype=np.float32))


def test_ours_is_replaced():
    model = onnx.helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    table = {("", "Relu", 14): lambda node, inputs, builder: relax.op.abs(inputs[0])}
    compiled = athanor.compile(model, operators=table).load(threads=1)
    (y,) = compiled.run({"x": np.array([-1, 0, 2], np.float32)}).values()
    np.testing.assert_array_equal(y, [1, 0, 2])


def returns(value):
    def converter(node, inputs, builder):
        return value

    return converter


def needs_attribute(node, inputs, builder):
    return node.attributes["limit"]


def takes_one(node):
    return None


def uses_relax_wrongly(node, inputs, builder):
    return builder.emit(relax.op.permute_dims(inputs[0], [0, 5]))


PLACE = r"my\.domain\.MyOp 'op' \(opset 1\): "


@pytest.mark.parametrize(
    ("converter", "sentence"),
    [
        (needs_attribute, "its converter needs_attribute raised KeyError: 'limit'"),
        (takes_one, r"its converter takes_one raised TypeError: takes_one\(\) takes 1 positional"),
        (returns(None), "returned a NoneType for output 0; expected a Relax expression or a NumPy"),
        (returns((1, 2)), "returned a int for output 0"),
        (returns(()), "returned 0 results; the node has 1 outputs: y"),
        (uses_relax_wrongly, "its converter uses_relax_wrongly raised"),
    ],
    ids=["raises", "signature", "none", "number", "too-few", "relax"],
)
def test_a_wrong_converter_is_named(converter, sentence):
    with pytest.raises(CompileError, match=PLACE + ".*" + sentence):
        athanor.compile(model_of(), operators={("my.domain", "MyOp", 1): converter})


def test_a_node_that_the_converter_refuses():
    def converter(node, inputs, builder):
        raise node.error("limit has to be positive")

    with pytest.raises(CompileError, match=PLACE + "limit has to be positive"):
        athanor.compile(model_of(), operators={("my.domain", "MyOp", 1): converter})


@pytest.mark.parametrize(
    "key",
    [
        "MyOp",
        ("my.domain", "MyOp"),
        ("my.domain", "MyOp", "1"),
        ("my.domain", "MyOp", 0),
        ("d", "", 1),
    ],
    ids=str,
)
def test_a_wrong_key(key):
    with pytest.raises(CompileError, match=r"is not \(domain, operator, since_opset\); expected"):
        athanor.compile(model_of(), operators={key: takes_one})


def test_what_is_no_table_and_what_is_no_function():
    with pytest.raises(CompileError, match=r"operators is a list; expected operators=\{"):
        athanor.compile(model_of(), operators=[takes_one])
    with pytest.raises(CompileError, match="is a int; expected a function"):
        athanor.compile(model_of(), operators={("my.domain", "MyOp", 1): 3})
