"""athanor.check: what it says is what compile does."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import athanor
from athanor import CompileError

from ..models import small

node = helper.make_node


def model_of(nodes, inputs, outputs=("y",), domains=(), weights=None, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 3) for d in domains)]
    for value in graph.output:
        value.type.tensor_type.shape.SetInParent()
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def by_name(report):
    return {operator.operator: operator for operator in report.operators}


def test_a_model_that_compiles():
    weight = np.ones((64, 32), np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Relu", ["b"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["rows", 64]}, weights={"w": weight})
    report = athanor.check(model, dims={"rows": 10})
    assert report.compiles and report.refusals == ()
    assert {name: o.count for name, o in by_name(report).items()} == {"MatMul": 1, "Relu": 2}
    assert report.dynamic_dims == {"rows": ("x[0]",)}
    assert report.opsets == {"": 17}
    # the matrix product's rows are rounded up to the 6 or 14 of a register tile
    least = 2 * 10 * 64 * 32
    assert least <= report.estimate.operations < 2 * least
    assert weight.nbytes <= report.estimate.weight_bytes < weight.nbytes + 64
    assert report.estimate.dims == {"rows": 10}


def test_estimates_are_those_of_the_artifact(digits_model):
    estimate = athanor.check(digits_model, shapes={"image": [3, 1, 8, 8]}).estimate
    metadata = athanor.compile(
        digits_model, shapes={"image": [3, 1, 8, 8]}, winograd=False
    ).metadata
    assert estimate.weight_bytes == metadata["weights_bytes"]
    assert estimate.peak_activation_bytes == metadata["arena_bytes"] > 0


def test_symbolic_sizes_are_those_of_fixed_ones():
    """The same estimate whether a size is given to the check or fixed in the model."""
    shape = {"batch": 2, "length": 7}
    symbolic = athanor.check(small.encoder(), dims=shape).estimate
    fixed = athanor.check(small.encoder(**shape)).estimate
    assert symbolic.operations == pytest.approx(fixed.operations, rel=0.35)
    assert symbolic.peak_activation_bytes >= fixed.peak_activation_bytes * 0.5


def test_every_refusal_at_once():
    """No converter, a wrong attribute, and a fault behind both, each once; the rest is examined."""
    nodes = [
        node("Relu", ["x"], ["a"], name="fine"),
        node("Warp", ["a"], ["b"], name="warp", domain="acme"),
        node("Transpose", ["a"], ["c"], name="turn", perm=[0, 5]),
        node("Flatten", ["c"], ["d"], name="flat", axis=7),
        node("Add", ["d", "b"], ["y"], name="sum"),
    ]
    model = model_of(nodes, {"x": [2, 3]}, domains=["acme"])
    report = athanor.check(model)
    assert not report.compiles and report.estimate is None
    found = by_name(report)
    assert found["Relu"].supported and found["Add"].supported
    assert not found["Warp"].supported and not found["Transpose"].supported
    assert 'operators={("acme", "Warp", 1): converter}' in found["Warp"].refusals[0]
    assert "Transpose 'turn'" in found["Transpose"].refusals[0]
    with pytest.raises(CompileError) as error:
        athanor.compile(model)
    for sentence in report.refusals:
        assert sentence in str(error.value)


def test_behind_a_refused_node_types_are_inferred():
    """Neg is refused for its user's reasons; Transpose behind it for its own."""

    def refuse(node, inputs, builder):
        raise node.error("not today")

    nodes = [
        node("Neg", ["x"], ["a"], name="refused"),
        node("Relu", ["a"], ["b"], name="fine"),
        node("Transpose", ["b"], ["y"], name="turn", perm=[0, 0]),
    ]
    report = athanor.check(model_of(nodes, {"x": [2, 3]}), operators={("", "Neg", 6): refuse})
    assert [o.operator for o in report.operators if not o.supported] == ["Neg", "Transpose"]
    assert report.refusals[0] == "Neg 'refused' (opset 17): not today"
    assert "Transpose 'turn'" in report.refusals[1]


def test_dynamic_dims_of_a_refused_model():
    nodes = [node("Warp", ["x"], ["y"], domain="acme")]
    report = athanor.check(model_of(nodes, {"x": ["batch", 3]}, domains=["acme"]))
    assert report.dynamic_dims == {"batch": ("x[0]",)}


def test_sizes_that_only_the_run_knows_make_a_lower_bound():
    model = model_of([node("NonZero", ["x"], ["y"])], {"x": [4, 5]})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert athanor.check(model).estimate.late_dims == 1


def test_a_users_operator_is_supported():
    from tvm import relax

    model = model_of([node("Twice", ["x"], ["y"], domain="acme")], {"x": [4]}, domains=["acme"])
    twice = {("acme", "Twice", 1): lambda node, x, builder: relax.op.add(x[0], x[0])}
    assert not athanor.check(model).compiles
    assert athanor.check(model, operators=twice).compiles


def test_unknown_dimension():
    model = model_of([node("Relu", ["x"], ["y"])], {"x": ["n"]})
    with pytest.raises(CompileError, match=r"no symbolic dimension 'm'; it has \['n'\]"):
        athanor.check(model, dims={"m": 3})


def test_report_is_json():
    report = athanor.check(model_of([node("Relu", ["x"], ["y"])], {"x": ["n"]}))
    data = json.loads(json.dumps(report.as_dict()))
    assert data["compiles"] is True
    assert data["operators"][0]["supported"] is True
    assert data["estimate"]["dims"] == {"n": 1}


def test_checking_compiles_nothing(monkeypatch):
    from athanor.compiler import driver

    monkeypatch.setattr(driver, "compile_kernels", None)
    monkeypatch.setattr(driver, "compile_host", None)
    assert athanor.check(model_of([node("Relu", ["x"], ["y"])], {"x": ["n"]})).compiles


def test_an_empty_tensor_on_the_way():
    """RotaryEmbedding's body splits off nothing at all where all of the head is rotated."""
    nodes = [
        node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        node("Concat", ["b", "a"], ["c"], axis=1),
    ]
    nodes.append(node("Exp", ["c"], ["y"]))
    model = model_of(nodes, {"x": ["n", 4]}, weights={"sizes": np.array([4, 0])})
    assert athanor.check(model, dims={"n": 3}).compiles
