"""Every way in which inputs or an artifact are refused, with its sentence."""

import shutil
import struct

import numpy as np
import pytest

import athanor
from athanor import RunError

FOOTER_BYTES = 512  # sizeof(AthanorFooter); its first field is the ABI version


@pytest.fixture(scope="module")
def model(digits_artifact):
    return athanor.load(digits_artifact, threads=1)


def image(batch=2):
    return np.random.default_rng(0).random((batch, 1, 8, 8), np.float32)


def test_missing_input(model):
    with pytest.raises(RunError, match="image"):
        model.run({})


def test_extra_input(model):
    with pytest.raises(RunError, match=r"'label'.*image"):
        model.run({"image": image(), "label": np.zeros(2, np.int64)})


def test_wrong_dtype(model):
    with pytest.raises(RunError, match=r"image.*float32.*float64|image.*float64.*float32"):
        model.run({"image": image().astype(np.float64)})


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 8), (8, 8), (2, 1, 8, 8, 1), ()])
def test_wrong_shape(model, shape):
    with pytest.raises(RunError, match=r"image.*batch.*1, 8, 8"):
        model.run({"image": np.zeros(shape, np.float32)})


def test_non_contiguous_input_is_copied(model):
    expected = model.run({"image": image(4)})["probabilities"]
    strided = np.asfortranarray(image(4))
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(model.run({"image": strided})["probabilities"], expected)
    every_other = np.repeat(image(4), 2, axis=0)[::2]
    assert not every_other.flags.c_contiguous
    np.testing.assert_array_equal(model.run({"image": every_other})["probabilities"], expected)
    backwards = image(4)[..., ::-1].copy()[..., ::-1]
    np.testing.assert_array_equal(model.run({"image": backwards})["probabilities"], expected)


def test_a_refused_run_leaves_the_model_usable(model):
    expected = model.run({"image": image()})["probabilities"]
    with pytest.raises(RunError):
        model.run({"image": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(model.run({"image": image()})["probabilities"], expected)


def test_missing_artifact(tmp_path):
    with pytest.raises(RunError, match=r"nothing\.so"):
        athanor.load(tmp_path / "nothing.so")


@pytest.mark.parametrize("keep", [0, 1, 511, 0.5, -1])
def test_artifact_cut_short(digits_artifact, tmp_path, keep):
    data = digits_artifact.read_bytes()
    path = tmp_path / "short.so"
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(RunError, match=r"short\.so.*(no Athanor artifact|cut short)"):
        athanor.load(path)


def test_file_that_is_no_artifact(digits_model):
    with pytest.raises(RunError, match=r"digits\.onnx.*no Athanor artifact"):
        athanor.load(digits_model)


@pytest.mark.parametrize("version", [0, 2, 7])
def test_artifact_of_another_abi(digits_artifact, tmp_path, version):
    path = tmp_path / "other.so"
    shutil.copy(digits_artifact, path)
    with path.open("r+b") as file:
        file.seek(-FOOTER_BYTES, 2)
        assert struct.unpack("<I", file.read(4)) == (1,)
        file.seek(-FOOTER_BYTES, 2)
        file.write(struct.pack("<I", version))
    with pytest.raises(RunError, match=rf"ABI.*\b{version}\b.*\b1\b"):
        athanor.load(path)
