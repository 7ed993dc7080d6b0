"""Every way in which inputs or an artifact are refused, with its sentence."""

import hashlib
import struct

import numpy as np
import pytest

import athanor
from athanor import RunError
from athanor.runtime.footer import ABI_VERSION, FOOTER


@pytest.fixture(scope="module")
def model(digits_artifact):
    return athanor.load(digits_artifact, threads=1)


def image(batch=2):
    return np.random.default_rng(0).random((batch, 1, 8, 8), np.float32)


def test_missing_input(model):
    with pytest.raises(RunError, match="inputs don't fit: missing 'image'; expected 'image'"):
        model.run({})


def test_extra_input(model):
    with pytest.raises(RunError, match="unknown 'label'; expected 'image'"):
        model.run({"image": image(), "label": np.zeros(2, np.int64)})


def test_wrong_dtype(model):
    with pytest.raises(RunError, match="'image' has type float64, expected float32"):
        model.run({"image": image().astype(np.float64)})


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 8), (8, 8), (2, 1, 8, 8, 1), ()])
def test_wrong_shape(model, shape):
    with pytest.raises(RunError, match=r"'image' has shape \(.*\), expected \(batch, 1, 8, 8\)"):
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
    with pytest.raises(RunError, match=r"can't open .*nothing\.so: No such file"):
        athanor.load(tmp_path / "nothing.so")


@pytest.mark.parametrize("keep", [0, 1, 511, 0.5, -1])
def test_artifact_cut_short(digits_artifact, tmp_path, keep):
    data = digits_artifact.read_bytes()
    path = tmp_path / "short.so"
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(RunError, match=r"short\.so is (no .*: it is empty|cut short)"):
        athanor.load(path)


def test_file_that_is_no_artifact(digits_model):
    with pytest.raises(RunError, match=r"digits\.onnx is no Athanor artifact"):
        athanor.load(digits_model)


@pytest.mark.parametrize("version", [0, 1, 7])
def test_artifact_of_another_abi(digits_artifact, tmp_path, version):
    data = bytearray(digits_artifact.read_bytes())
    footer = memoryview(data)[-FOOTER.size :]
    assert struct.unpack_from("<I", footer) == (ABI_VERSION,)
    struct.pack_into("<I", footer, 0, version)
    hashed = FOOTER.size - 32 - 8  # all before the footer's own hash and the magic number
    footer[hashed : hashed + 32] = hashlib.sha256(footer[:hashed]).digest()
    path = tmp_path / "other.so"
    path.write_bytes(data)
    sentence = rf"has ABI version {version}, .* reads version {ABI_VERSION}"
    with pytest.raises(RunError, match=sentence):
        athanor.load(path)
