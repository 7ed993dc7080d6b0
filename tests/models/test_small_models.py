"""Small models of every family, symbolic sizes included, against ONNX Runtime."""

import functools

import numpy as np
import onnxruntime
import pytest

import athanor

from . import small


def image(*shape):
    return {"image": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


def tokens(batch, length, vocabulary, mask=False):
    rng = np.random.default_rng(6)
    feed = {"input_ids": rng.integers(0, vocabulary, (batch, length))}
    if mask:
        keep = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
        feed["attention_mask"] = keep.astype(np.int64)
    return feed


CASES = {
    "encoder": (
        small.encoder,
        [tokens(1, 1, 50, True), tokens(1, 16, 50, True), tokens(3, 37, 50, True)],
    ),
    "mobile_net": (small.mobile_net, [image(1, 3, 29, 31), image(3, 3, 29, 31)]),
    "unet": (small.unet, [image(1, 3, 18, 22)]),
    "decoder": (small.decoder, [tokens(1, 1, 40), tokens(2, 9, 40), tokens(1, 33, 40)]),
    "tagger_of_batches": (
        lambda: small.tagger(batch="batch"),
        [tokens(1, 1, 30), tokens(2, 3, 30), tokens(3, 2, 30)],
    ),
    "tagger": (small.tagger, [tokens(1, 1, 30), tokens(1, 9, 30), tokens(1, 50, 30)]),
}


@pytest.fixture(scope="module")
def artifact():
    """Compiles a case by its name, once."""
    return functools.cache(lambda name: athanor.compile(CASES[name][0]()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnxruntime(name, threads, artifact):
    build, feeds = CASES[name]
    session = onnxruntime.InferenceSession(build().SerializeToString())
    compiled = artifact(name).load(threads=threads)
    for feed in feeds:
        (expected,) = session.run(None, feed)
        (actual,) = compiled.run(feed).values()
        assert actual.shape == expected.shape and actual.dtype == expected.dtype
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["encoder", "mobile_net", "tagger"])
def test_fixed_sizes_give_the_same(name, artifact):
    build, feeds = CASES[name]
    feed = feeds[-1]
    symbolic = artifact(name).load(threads=1).run(feed)
    shapes = {key: value.shape for key, value in feed.items()}
    fixed = athanor.compile(build(), shapes=shapes).load(threads=1).run(feed)
    for key, value in symbolic.items():
        np.testing.assert_allclose(fixed[key], value, rtol=1e-4, atol=1e-5)
