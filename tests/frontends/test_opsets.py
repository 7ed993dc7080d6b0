"""Opset imports: 7 to the newest, each domain by its own, none newer than what is known."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from athanor.errors import CompileError
from athanor.frontends.onnx import operators, opsets
from athanor.frontends.onnx.importer import import_model

from .execute import floats, inferred, run, same


def model_of(nodes, imports, inputs=("x",), shape=(2, 3)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [onnx.ValueInfoProto(name="y")],
    )
    ids = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return inferred(helper.make_model(graph, opset_imports=ids, ir_version=10))


def across_versions(opset):
    """Operators whose form or meaning changed: Softmax, ReduceSum, Squeeze, Unsqueeze, Clip."""
    node = helper.make_node
    ints = lambda name, value: node(  # noqa: E731
        "Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(value, np.int64))
    )
    by_input = opset >= 13
    nodes = [ints("first", [0]), node("Softmax", ["x"], ["s"], axis=1)]
    if by_input:
        nodes += [
            node("ReduceSum", ["s", "first"], ["r"], keepdims=0),
            node("Unsqueeze", ["r", "first"], ["u"]),
            node("Squeeze", ["u", "first"], ["q"]),
        ]
    else:
        nodes += [
            node("ReduceSum", ["s"], ["r"], axes=[0], keepdims=0),
            node("Unsqueeze", ["r"], ["u"], axes=[0]),
            node("Squeeze", ["u"], ["q"], axes=[0]),
        ]
    if opset >= 11:
        nodes += [
            node("Constant", [], ["least"], value=onnx.numpy_helper.from_array(np.float32(0.1))),
            node("Clip", ["q", "least"], ["c"]),
        ]
    else:
        nodes.append(node("Clip", ["q"], ["c"], min=0.1))
    return [*nodes, node("Add", ["c", "x"], ["y"])]


@pytest.mark.parametrize("opset", range(7, 29))
def test_every_opset(opset):
    x = floats(2, 3, 4)
    model = model_of(across_versions(opset), {"": opset}, shape=x.shape)
    # before 13 over everything from the axis on; ONNX's reference knows the newer meaning alone
    powers, axes = np.exp(x), 1 if opset >= 13 else (1, 2)
    probabilities = powers / powers.sum(axes, keepdims=True)
    same(run(model, [x])[0], np.maximum(probabilities.sum(0), np.float32(0.1)) + x)


def test_relu_of_a_private_domain_is_not_relu():
    model = model_of([helper.make_node("Relu", ["x"], ["y"], "mine", domain="acme")], {"acme": 17})
    model.opset_import.append(helper.make_opsetid("", 17))
    with pytest.raises(CompileError, match=r"acme\.Relu 'mine', opset 17: no converter for domain"):
        import_model(model)


def test_attention_of_two_domains_are_two_operators():
    """The same name and the same inputs: com.microsoft's takes weights, ai.onnx's takes keys."""
    q = floats(1, 2, 3, 8)
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"])
    standard = model_of([node], {"": 23}, shape=q.shape)
    assert run(standard, [q])[0].shape == q.shape
    node.domain = "com.microsoft"
    node.attribute.append(helper.make_attribute("num_heads", 2))
    contrib = model_of([node], {"": 23, "com.microsoft": 1}, shape=q.shape)
    with pytest.raises(CompileError, match="Attention") as error:
        import_model(contrib)
    assert "com.microsoft" in str(error.value)


@pytest.mark.parametrize(("acme", "expected"), [(1, 2), (12, 2), (13, 3), (20, 3)])
def test_each_domain_counts_by_its_own_import(acme, expected):
    """The standard's opset is 13 throughout and must not decide for acme's operator."""

    def times(count):
        return lambda node, inputs, builder: sum_of([inputs[0]] * count)

    def sum_of(values):
        from tvm import relax

        total = values[0]
        for value in values[1:]:
            total = relax.op.add(total, value)
        return total

    model = model_of(
        [helper.make_node("Times", ["x"], ["y"], domain="acme")], {"": 13, "acme": acme}
    )
    table = {("acme", "Times", 1): times(2), ("acme", "Times", 13): times(3)}
    mod = import_model(model, operators=table).mod
    assert len(re.findall(r"R\.add\(", mod.script())) == expected - 1


def test_ai_onnx_is_the_default_domain():
    model = model_of([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], {"ai.onnx": 17})
    x = floats(2, 3)
    same(run(model, [x])[0], np.maximum(x, 0))


def test_two_versions_of_a_domain():
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"": 17})
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    with pytest.raises(CompileError, match=r"imports opset 17 and opset 11 of domain 'ai.onnx'"):
        import_model(model)


def test_an_opset_newer_than_all_that_is_known():
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"": 17})
    model.opset_import[0].version = 99
    with pytest.raises(CompileError, match=r"opset 99 of domain 'ai.onnx', which is newer than"):
        import_model(model)


def test_an_opset_that_onnx_knows_and_nobody_reviewed(monkeypatch):
    """As if 12 were the newest reviewed opset: Relu changed in 13 and 14, Floor in 13."""
    monkeypatch.setitem(opsets.REVIEWED, "", 12)
    monkeypatch.setitem(operators.REVIEWED, "", 12)
    unchanged = model_of([helper.make_node("LeakyRelu", ["x"], ["y"])], {"": 15})
    import_model(unchanged)
    model = model_of(
        [helper.make_node("Relu", ["x"], ["a"], "r"), helper.make_node("Floor", ["a"], ["y"], "f")],
        {"": 15},
    )
    with pytest.raises(CompileError, match=r"unsupported operators \(2\)") as error:
        import_model(model)
    assert "Relu 'r', opset 15: opset 14 changed it" in str(error.value)
    assert "Floor 'f', opset 15: opset 13 changed it" in str(error.value)
    assert "follow the standard up to opset 12; export the model for opset 12" in str(error.value)


def test_opset_zero():
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"": 17, "acme": 0})
    with pytest.raises(CompileError, match=r"opset 0 of domain 'acme'|out of supported range"):
        import_model(model)
