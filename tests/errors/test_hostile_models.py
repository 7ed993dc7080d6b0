"""Models that mean harm: each is refused in a sentence, quickly and in little memory."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import athanor
from athanor import CompileError, RunError

node = helper.make_node
HUGE = 1 << 40


def model_of(nodes, inputs=(("x", [4]),), outputs=("y",), weights=(), opset=17, functions=()):
    """A model over float32 inputs; weights {name: array}."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
    )
    for value in graph.output:
        value.type.tensor_type.shape.SetInParent()
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(f.domain, 1) for f in functions[:1]]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)


def refused(model, sentence):
    with pytest.raises(CompileError, match=sentence) as error:
        athanor.compile(model)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize("axis", [1 << 31, -(1 << 31) - 1, (1 << 63) - 1, 1 << 32])
def test_axis_that_does_not_fit_32_bits(axis):
    made = node("LayerNormalization", ["x", "w"], ["y"], axis=axis)
    refused(model_of([made], (("x", [1, 3, 5]), ("w", [2, 3, 5]))), f"axis.*{axis}")


def test_cyclic_graph():
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    refused(model_of(nodes), "topologically sorted")


def test_a_node_that_reads_its_own_result():
    refused(model_of([node("Add", ["x", "y"], ["y"])]), "topologically sorted")


def test_functions_that_call_each_other():
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    functions = [
        helper.make_function(
            "acme", a, ["x"], ["y"], [node(b, ["x"], ["y"], domain="acme")], imports
        )
        for a, b in (("One", "Two"), ("Two", "One"))
    ]
    model = model_of([node("One", ["x"], ["y"], domain="acme")], functions=functions)
    refused(model, "function")


def test_functions_that_double_thirty_times():
    """A billion additions from thirty small functions."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    functions = [
        helper.make_function("acme", "F0", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], imports)
    ]
    for level in range(1, 31):
        calls = [
            node(f"F{level - 1}", ["x"], ["t"], domain="acme"),
            node(f"F{level - 1}", ["t"], ["y"], domain="acme"),
        ]
        functions.append(helper.make_function("acme", f"F{level}", ["x"], ["y"], calls, imports))
    model = model_of([node("F30", ["x"], ["y"], domain="acme")], functions=functions)
    refused(model, r"functions expand to \d+ nodes")


@pytest.mark.parametrize(
    ("nodes", "weights", "sentence"),
    [
        ([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"])], {}, "unique|SSA|y"),
        ([node("Relu", ["x"], ["x"]), node("Exp", ["x"], ["y"])], {}, "unique|SSA|x"),
        ([node("Split", ["x"], ["y", "y"])], {}, "unique|SSA|y"),
        ([node("Add", ["x", "w"], ["w"]), node("Relu", ["w"], ["y"])], {"w": np.float32(1)}, "w"),
    ],
    ids=["outputs", "input", "one-node", "weight"],
)
def test_duplicate_names(nodes, weights, sentence):
    refused(model_of(nodes, weights=weights), sentence)


def test_duplicate_inputs_and_weights():
    refused(model_of([node("Relu", ["x"], ["y"])], (("x", [4]), ("x", [5]))), "'x'|x")
    model = model_of([node("Add", ["x", "w"], ["y"])], weights={"w": np.float32(1)})
    model.graph.initializer.append(model.graph.initializer[0])
    refused(model, "initializer 'w' is defined twice")


@pytest.mark.parametrize(
    "dims", [[HUGE], [1 << 31, 1 << 31, 4], [(1 << 63) - 1], [1 << 62, 1 << 62, 1 << 62]], ids=str
)
def test_gigantic_declared_dims(dims):
    refused(model_of([node("Relu", ["x"], ["y"])], (("x", dims),)), "at most 2147483647")


@pytest.mark.parametrize("dims", [[-1], [-(1 << 63)], [4, -3]], ids=str)
def test_negative_declared_dims(dims):
    refused(model_of([node("Relu", ["x"], ["y"])], (("x", dims),)), "dimension|negative")


GROWTH = {
    "ConstantOfShape": ([node("ConstantOfShape", ["s"], ["y"])], [HUGE, 8]),
    "Expand": ([node("Expand", ["x", "s"], ["y"])], [HUGE, 4]),
    "Tile": ([node("Tile", ["x", "s"], ["y"])], [HUGE]),
    "Reshape": ([node("Reshape", ["x", "s"], ["y"])], [1 << 62, 1 << 62]),
    "Pad": ([node("Pad", ["x", "s"], ["y"])], [HUGE, HUGE]),
    "Pad to the limit": ([node("Pad", ["x", "s"], ["y"])], [(1 << 63) - 1, (1 << 63) - 1]),
    "Tile to the limit": ([node("Tile", ["x", "s"], ["y"])], [(1 << 63) - 1]),
    "OneHot": ([node("Cast", ["x"], ["i"], to=7), node("OneHot", ["i", "s", "v"], ["y"])], [HUGE]),
    "Range": ([node("Range", ["o", "q", "p"], ["r"]), node("Cast", ["r"], ["y"], to=1)], [HUGE]),
    "Upsample": ([node("Resize", ["x", "", "f"], ["y"])], [1]),
}


@pytest.mark.parametrize("name", GROWTH)
def test_shapes_that_overflow(name):
    nodes, sizes = GROWTH[name]
    weights = {
        "s": np.array(sizes, np.int64),
        "v": np.array([0, 1], np.float32),
        "o": np.int64(0),
        "p": np.int64(1),
        "q": np.int64(HUGE),
        "f": np.array([1e18], np.float32),
    }
    refused(
        model_of(nodes, weights=weights), r"at most 2147483647|elements|limit of|too big|Expected"
    )


def test_conv_whose_padding_overflows():
    weights = {"w": np.ones((1, 1, 3), np.float32)}
    for pads in ([HUGE, HUGE], [(1 << 63) - 1] * 2, [-(1 << 63), 0]):
        conv = node("Conv", ["x", "w"], ["y"], pads=pads)
        refused(model_of([conv], (("x", [1, 1, 8]),), weights=weights), "Conv|conv|checker")


def test_sizes_of_the_run_that_overflow():
    """What the compiler can't see, the run refuses."""
    model = model_of([node("ConstantOfShape", ["s"], ["y"])])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("s", TensorProto.INT64, [3]))
    compiled = athanor.compile(model).load(threads=1)
    for sizes in ([1 << 62] * 3, [1 << 31] * 3, [-1, 2, 2], [HUGE, 1, 1]):
        with pytest.raises(RunError):
            compiled.run({"s": np.array(sizes, np.int64)})
    assert compiled.run({"s": np.array([1, 2, 3])})["y"].shape == (1, 2, 3)


def nested(depth):
    """An If in an If in an If ..."""
    inner = helper.make_graph(
        [node("Relu", ["x"], ["r0"])],
        "g0",
        [],
        [helper.make_tensor_value_info("r0", TensorProto.FLOAT, [4])],
    )
    for level in range(1, depth):
        branch = node("If", ["c"], [f"r{level}"], then_branch=inner, else_branch=inner)
        if level > 3:  # both branches double the size
            branch = node("If", ["c"], [f"r{level}"], then_branch=inner, else_branch=small(level))
        inner = helper.make_graph(
            [branch],
            f"g{level}",
            [],
            [helper.make_tensor_value_info(f"r{level}", TensorProto.FLOAT, [4])],
        )
    model = model_of([node("If", ["c"], ["y"], then_branch=inner, else_branch=small(depth))])
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return model


def small(level):
    return helper.make_graph(
        [node("Neg", ["x"], [f"n{level}"])],
        f"s{level}",
        [],
        [helper.make_tensor_value_info(f"n{level}", TensorProto.FLOAT, [4])],
    )


def test_a_few_graphs_inside_each_other_compile():
    compiled = athanor.compile(nested(4)).load(threads=1)
    x = np.array([-1, 0, 1, 2], np.float32)
    for flag, expected in ((True, np.maximum(x, 0)), (False, -x)):
        np.testing.assert_array_equal(compiled.run({"x": x, "c": np.array(flag)})["y"], expected)


def test_thirty_graphs_inside_each_other_compile():
    x = np.array([-1, 0, 1, 2], np.float32)
    compiled = athanor.compile(nested(30)).load(threads=1)
    np.testing.assert_array_equal(compiled.run({"x": x, "c": np.array(False)})["y"], -x)


@pytest.mark.parametrize("depth", [40, 3000])
def test_deeply_nested_graphs(depth):
    """Protobuf stops at 100 levels of messages, three for a graph; so these bytes are by hand."""

    def field(number, content):
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu"))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, inner)
        inner = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
    refused(b"\x08\x09" + field(7, inner), "is not an ONNX model or is cut short")


@pytest.mark.parametrize(
    "location",
    ["../../etc/passwd", "/etc/passwd", "a/../../w.bin", "\\\\host\\w.bin", "C:\\w.bin", "", "."],
)
def test_external_data_that_leaves_the_folder(tmp_path, location):
    model = model_of([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(4, np.float32)})
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    folder = tmp_path / "deep" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "deep" / "w.bin").write_bytes(bytes(16))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    refused(path, "'w'.*(outside|absolute|without a location|does not exist)|checker")


def test_external_data_with_hostile_numbers(tmp_path):
    for key, value in (("offset", "-1"), ("offset", str(1 << 70)), ("length", "x"), ("offset", "")):
        model = model_of([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(4, np.float32)})
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="w.bin")
        weight.external_data.add(key=key, value=value)
        (tmp_path / "w.bin").write_bytes(bytes(16))
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        refused(path, "'w'")


def test_weights_whose_dims_do_not_fit_their_bytes():
    for dims in ([HUGE, HUGE], [1 << 62, 4], [-4], [0, HUGE]):
        model = model_of([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(4, np.float32)})
        model.graph.initializer[0].dims[:] = dims
        refused(model, "'w'|checker|broadcast|shape|elements")


def test_names_that_are_no_text():
    data = model_of([node("Relu", ["x"], ["y"], name="marker")]).SerializeToString()
    refused(data.replace(b"marker", b"m\xff\xfeker"), "no UTF-8 text")


def test_names_that_print_badly_stay_in_one_message():
    evil = "a'\"\\\n\x1b[31m%s{0}" + "n" * 500
    model = model_of([node("Warp", ["x"], ["y"], name=evil, domain="acme")])
    model.opset_import.append(helper.make_opsetid("acme", 1))
    refused(model, re.escape("acme.Warp"))
    fine = model_of([node("Relu", ["x"], [evil])], outputs=(evil,))
    (value,) = athanor.compile(fine).load(threads=1).run({"x": np.ones(4, np.float32)}).values()
    np.testing.assert_array_equal(value, np.ones(4))
    assert onnx.checker.check_model(fine) is None


def test_element_types_that_an_operator_does_not_take():
    """Nothing in the compiler knows exp of an integer; ONNX says whose fault that is."""
    model = model_of([node("Selu", ["i"], ["y"])], inputs=())
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [4]))
    refused(model, r"the model is invalid: .*Selu.*tensor\(int64\)")
    assert not athanor.check(nested(2)).refusals
