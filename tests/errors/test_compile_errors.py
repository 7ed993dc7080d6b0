"""Every way in which a model or an option is refused, with its sentence."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import athanor
from athanor import CompileError


def add_model(external=None):
    """y = x + weight, float32[4]; `external`: location, length of the weight's external data."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "weight")
    if external is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(model, folder):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_file(tmp_path):
    with pytest.raises(CompileError, match=r"'.*nothing\.onnx' does not exist"):
        athanor.compile(tmp_path / "nothing.onnx")


def test_directory(tmp_path):
    with pytest.raises(CompileError, match="is a directory; expected an ONNX file"):
        athanor.compile(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a model\n", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_not_an_onnx_file(tmp_path, data):
    path = tmp_path / "picture.onnx"
    path.write_bytes(data)
    with pytest.raises(CompileError, match=r"'.*picture\.onnx' is not an ONNX model"):
        athanor.compile(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated_file(tmp_path, digits_model, keep):
    data = digits_model.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CompileError, match=r"'.*short\.onnx' is not an ONNX model or is cut short"):
        athanor.compile(path)


def test_checker():
    model = add_model()
    model.graph.node[0].input[0] = "undefined"
    with pytest.raises(CompileError, match=r"fails the ONNX checker: .*undefined"):
        athanor.compile(model)


def test_unsupported_operators_are_listed_together():
    model = add_model()
    for index, (operator, domain) in enumerate([("Frobnicate", "com.acme"), ("Quux", "com.acme")]):
        node = helper.make_node(operator, ["y"], [f"z{index}"], name=f"node{index}", domain=domain)
        model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.acme", 3))
    with pytest.raises(CompileError, match=r"^unsupported operators \(2\):") as caught:
        athanor.compile(model)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    assert re.search(r"com\.acme\.Frobnicate 'node0', opset 3: no converter", lines[0])
    assert re.search(r"com\.acme\.Quux 'node1', opset 3: no converter", lines[1])


LENGTH = str(4 * 4)


@pytest.mark.parametrize(
    ("external", "sentence"),
    [
        ({"location": "no.bin", "length": LENGTH}, r"external data '.*no\.bin' does not exist"),
        (
            {"location": "w.bin", "length": LENGTH, "offset": "8"},
            r"external data '.*w\.bin' is too short: 16 bytes, 24 needed",
        ),
        ({"location": "w.bin", "length": "12"}, r"external data of 12 bytes .* needs 16"),
        ({"location": "/etc/hostname"}, r"external data '/etc/hostname' is an absolute path"),
        ({"location": "../w.bin"}, r"external data '\.\./w\.bin' leads outside the model's folder"),
        ({"location": "link.bin"}, r"external data 'link\.bin' leads outside the model's folder"),
    ],
    ids=["missing", "too-short", "wrong-length", "absolute", "outside", "symlink-outside"],
)
def test_external_data(tmp_path, external, sentence):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (folder / "w.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(CompileError, match=f"'weight'.*{sentence}"):
        athanor.compile(saved(add_model(external), folder))


def test_external_data_of_a_model_without_a_path():
    model = add_model({"location": "w.bin", "length": LENGTH})
    with pytest.raises(CompileError, match="needs the model's folder; compile the model from its"):
        athanor.compile(model)


def test_external_data_is_read(tmp_path):
    """What the refusals above differ from: the same model, with its file where it belongs."""
    (tmp_path / "w.bin").write_bytes(np.full(4, 2, np.float32).tobytes())
    path = saved(add_model({"location": "w.bin", "length": LENGTH}), tmp_path)
    outputs = athanor.compile(path).load(threads=1).run({"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.full(4, 3, np.float32))


def test_unknown_target():
    with pytest.raises(CompileError, match="unknown target 'z80'; known targets: native, x86-64"):
        athanor.compile(add_model(), target="z80")


def test_shape_of_an_unknown_input():
    with pytest.raises(CompileError, match="the model has no input 'z'; it has \\['x'\\]"):
        athanor.compile(add_model(), shapes={"z": [4]})


def test_shape_against_a_fixed_dimension():
    with pytest.raises(CompileError, match="input 'x' has dimension 4, not 5"):
        athanor.compile(add_model(), shapes={"x": [5]})


def test_save_into_a_missing_folder(tmp_path):
    artifact = athanor.compile(add_model())
    with pytest.raises(CompileError, match=r"can't write .*m\.so: the folder .*nowhere does not"):
        artifact.save(tmp_path / "nowhere" / "m.so")
    assert list(tmp_path.iterdir()) == []


def test_save_over_a_directory_leaves_no_file_behind(tmp_path):
    (tmp_path / "m.so").mkdir()
    with pytest.raises(CompileError, match=r"can't write .*m\.so: .*[Dd]irectory"):
        athanor.compile(add_model()).save(tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.so"]


def test_a_failed_save_keeps_the_old_artifact(tmp_path, monkeypatch):
    """A full disk in the middle of the copy: the old file stays, and nothing beside it."""
    path = tmp_path / "m.so"
    path.write_bytes(b"the old one")
    artifact = athanor.compile(add_model())

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(CompileError, match=r"can't write .*m\.so: No space left on device"):
        artifact.save(path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_save_leaves_nothing_behind(tmp_path, monkeypatch):
    artifact = athanor.compile(add_model())

    def interrupted(source, target):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        artifact.save(tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == []


def test_model_of_a_wrong_type():
    with pytest.raises(CompileError, match="model is a int; expected a path, bytes or onnx"):
        athanor.compile(7)


def test_bytes_and_proto_are_models_too():
    model = add_model()
    for given in (model, model.SerializeToString()):
        outputs = athanor.compile(given).load(threads=1).run({"x": np.zeros(4, np.float32)})
        np.testing.assert_array_equal(outputs["y"], np.arange(4, dtype=np.float32))


def test_onnx_saves_external_data_that_compiles(tmp_path):
    """External data as onnx.save itself writes it."""
    path = tmp_path / "m.onnx"
    onnx.save(add_model(), path, save_as_external_data=True, size_threshold=0, location="m.bin")
    outputs = athanor.compile(path).load(threads=1).run({"x": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.arange(4, dtype=np.float32))
