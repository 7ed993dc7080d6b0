"""import_model: symbols, shape computations, weights, functions, domains and refusals."""

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.importer import import_model

from .execute import floats, inferred, one_node, run

node = helper.make_node


def build(nodes, inputs, outputs, constants=None, opset=17, functions=(), domains=()):
    """A model over float32 inputs {name: shape}; constants {name: array}."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return inferred(helper.make_model(graph, opset_imports=imports, functions=functions))


def bindings(imported):
    return [b for block in imported.mod["main"].body.blocks for b in block.bindings]


def test_symbols_are_shared_and_unnamed_dims_get_names():
    model = build(
        [node("Add", ["x", "y"], ["z"])], {"x": ["batch", None], "y": ["batch", 1]}, ["z"]
    )
    imported = import_model(model)
    assert imported.symbols == ("batch", "x_d1")
    assert [spec.shape for spec in imported.inputs] == [("batch", "x_d1"), ("batch", 1)]
    assert imported.outputs[0].shape == ("batch", "x_d1")
    assert imported.opsets == {"": 17}
    assert len(imported.source_sha256) == 64


def test_shapes_fix_a_name_everywhere():
    model = build([node("Add", ["x", "y"], ["z"])], {"x": ["n", 4], "y": ["n", 1]}, ["z"])
    imported = import_model(model, shapes={"x": [3, 4]})
    assert [spec.shape for spec in (*imported.inputs, *imported.outputs)] == [
        (3, 4),
        (3, 1),
        (3, 4),
    ]
    renamed = import_model(model, shapes={"x": ["rows", 4]})
    assert renamed.symbols == ("rows",)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"q": [1]}, "the model has no input 'q'"),
        ({"x": [1]}, "input 'x' has rank 2"),
        ({"x": [2, 5]}, "has dimension 4, not 5"),
        ({"x": ["n", "m"]}, "has the fixed dimension 4, not 'm'"),
        ({"x": [-1, 4]}, "-1 is no dimension"),
        ({"x": [2, 4], "y": [3, 1]}, "sets dimension 'n' to 3"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    model = build([node("Add", ["x", "y"], ["z"])], {"x": ["n", 4], "y": ["n", 1]}, ["z"])
    with pytest.raises(CompileError, match=message):
        import_model(model, shapes=shapes)


def test_shape_computation_is_folded():
    """x.reshape(x.shape[0], -1) as exporters write it leaves one reshape and no kernel."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axes"], ["rows"]),
        node("Concat", ["rows", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "axes": np.array([0]), "minus": np.array([-1])}
    imported = import_model(build(nodes, {"x": ["batch", 3, 4]}, ["y"], constants))
    assert [b.value.op.name for b in bindings(imported)[:-1]] == ["relax.reshape"]
    assert imported.outputs[0].shape == ("batch", 12)


def run_symbolic(model, *feeds):
    imported = import_model(model)
    machine = relax.VirtualMachine(tvm.compile(imported.mod, target="llvm"), tvm.cpu())
    return imported, [r.numpy() for r in machine["main"](*map(tvm.runtime.tensor, feeds))]


def test_arithmetic_on_symbolic_dims():
    """Half of the last dimension, and a tensor made of it."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["width"]),
        node("Div", ["width", "two"], ["half"]),
        node("Unsqueeze", ["half", "axes"], ["end"]),
        node("Slice", ["x", "begin", "end", "axis"], ["left"]),
        node("ConstantOfShape", ["end"], ["zeros"]),
        node("Range", ["nought", "half", "one"], ["numbers"]),
        node("Cast", ["shape"], ["float_shape"], to=TensorProto.FLOAT),
    ]
    constants = {"one": np.int64(1), "two": np.int64(2), "axes": np.array([0])}
    constants |= {"begin": np.array([0]), "axis": np.array([1]), "nought": np.int64(0)}
    outputs = ["left", "zeros", "numbers", "float_shape"]
    x = floats(3, 7)
    imported, results = run_symbolic(build(nodes, {"x": ["n", "w"]}, outputs, constants), x)
    assert imported.outputs[0].shape == ("n", "w // 2")
    np.testing.assert_array_equal(results[0], x[:, :3])
    np.testing.assert_array_equal(results[1], np.zeros(3, np.float32))
    np.testing.assert_array_equal(results[2], np.arange(3))
    np.testing.assert_array_equal(results[3], np.array([3, 7], np.float32))


def test_sliced_table_becomes_a_requirement():
    """x + table[:width]: right while width <= 8; more is refused before the run."""
    nodes = [
        node("Shape", ["x"], ["shape"], start=1),
        node("Slice", ["table", "begin", "shape"], ["part"]),
        node("Add", ["x", "part"], ["y"]),
    ]
    constants = {"table": np.arange(8, dtype=np.float32), "begin": np.array([0])}
    x = floats(2, 5)
    imported, (result,) = run_symbolic(build(nodes, {"x": ["n", "w"]}, ["y"], constants), x)
    np.testing.assert_allclose(result, x + np.arange(5, dtype=np.float32))
    (requirement,) = imported.requirements
    assert "min(w, 8) has to be equal to w in Add 'y'" in requirement.sentence


def test_rank_known_only_at_run_time_is_refused():
    x, shape = floats(2, 3), np.array([3, 2])
    with pytest.raises(CompileError, match="its length has to be known"):
        import_model(one_node("Reshape", [x, shape], shapes={1: ["rank"]}))


def test_all_unsupported_operators_are_listed():
    nodes = [
        node("Relu", ["x"], ["a"], name="mine", domain="acme"),
        node("Relu", ["a"], ["b"]),
        node("Gradient2", ["b"], ["c"], name="other", domain="beta"),
    ]
    model = build(nodes, {"x": [2]}, ["c"], domains=["acme", "beta"])
    with pytest.raises(CompileError) as error:
        import_model(model)
    lines = str(error.value).splitlines()
    assert lines[0] == "unsupported operators (2):"
    assert "acme.Relu 'mine', opset 1" in lines[1] and 'operators={("acme", "Relu", 1)' in lines[1]
    assert "beta.Gradient2 'other', opset 1" in lines[2]


def test_users_operator():
    def double(node, inputs, builder):
        return relax.op.add(inputs[0], inputs[0])

    model = build([node("Twice", ["x"], ["y"], domain="acme")], {"x": [3]}, ["y"], domains=["acme"])
    imported = import_model(model, operators={("acme", "Twice", 1): double})
    assert imported.outputs[0].shape == (3,)


def test_model_local_function_is_inlined():
    body = helper.make_function(
        "acme",
        "Affine",
        ["x", "w"],
        ["y"],
        [node("Mul", ["x", "w"], ["t"]), node("Add", ["t", "w"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    model = build(
        [node("Affine", ["x", "x"], ["y"], domain="acme")],
        {"x": [4]},
        ["y"],
        functions=[body],
        domains=["acme"],
    )
    x = floats(4)
    np.testing.assert_allclose(run(model, [x])[0], x * x + x, rtol=1e-6)


def test_standard_function_body_is_expanded():
    """Attention has no converter of its own; its body depends on input types."""
    q = floats(1, 2, 3, 8)
    (result,) = run(one_node("Attention", [q, q, q], opset=23), [q, q, q])
    scores = q @ q.transpose(0, 1, 3, 2) / np.sqrt(8)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True) @ q
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_bindings_carry_onnx_names():
    imported = import_model(
        build([node("Relu", ["x"], ["layer1/relu"])], {"x": [2]}, ["layer1/relu"])
    )
    assert bindings(imported)[0].var.name == "layer1_relu"


def test_external_data(tmp_path):
    weight = floats(64, 64)
    model = build([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 64]}, ["y"], {"w": weight})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = floats(2, 64, seed=1)
    np.testing.assert_allclose(run(path, [x])[0], x @ weight, rtol=1e-4, atol=1e-4)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(
        CompileError, match=r"tensor 'w': external data '.*weights.bin' is too short"
    ):
        import_model(path)


def test_external_data_outside_the_folder(tmp_path):
    weight = onnx.numpy_helper.from_array(floats(4), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add(key="location", value="")
    model = build([node("Add", ["x", "w"], ["y"])], {"x": [4]}, ["y"])
    model.graph.initializer.append(weight)
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    places = {"../secret.bin": "leads outside", "link.bin": "leads outside"}
    places |= {str(tmp_path / "secret.bin"): "absolute", "nothing.bin": "does not exist"}
    for location, message in places.items():
        model.graph.initializer[0].external_data[0].value = location
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CompileError, match=f"tensor 'w'.*{message}"):
            import_model(path)
    assert entry.key == "location"
