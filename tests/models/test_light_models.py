"""Real architectures, whole way, against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest

import athanor

from .light import NAMES, random_light_model


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_onnxruntime(name):
    model = random_light_model(name)
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    feed = {model.graph.input[0].name: x}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = dict(
        zip([v.name for v in session.get_outputs()], session.run(None, feed), strict=True)
    )
    actual = athanor.compile(model).load(threads=2).run(feed)
    assert list(actual) == list(expected)
    for name, reference in expected.items():
        result = actual[name]
        assert result.shape == reference.shape and result.dtype == reference.dtype
        assert np.ptp(reference) > 0, "a constant output would hide errors"
        assert np.abs(result - reference).max() <= 1e-4 * np.abs(reference).max()
        assert result.argmax() == reference.argmax()
