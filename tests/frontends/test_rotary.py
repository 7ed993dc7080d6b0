"""The standard's rotary embeddings, the whole way, against ONNX's reference."""

import numpy as np
import pytest

from athanor.errors import CompileError

from .artifact import compare_node, ours, reference
from .execute import floats, one_node

SHAPES = {
    "heads first": ((2, 3, 5, 20), {}),
    "heads inside": ((2, 5, 60), {"num_heads": 3}),
    "odd heads, of which a part is turned": ((2, 3, 5, 21), {"rotary_embedding_dim": 12}),
    "a part of heads inside": ((2, 5, 60), {"num_heads": 3, "rotary_embedding_dim": 12}),
    "vectors": ((1, 2, 3, 64), {}),
    "large": ((1, 4, 33, 72), {"rotary_embedding_dim": 70}),
    "one": ((1, 1, 1, 2), {}),
}


def inputs_of(shape, options, batch=None):
    """x, cos and sin, the latter of any angles."""
    batch = shape[0] if batch is None else batch
    width = options.get("rotary_embedding_dim", shape[-1] // options.get("num_heads", 1))
    angles = floats(batch, shape[1 if len(shape) == 3 else 2], width // 2, seed=1)
    return [floats(*shape), np.cos(angles), np.sin(angles)]


def compare(inputs, dtype=np.float32, **options):
    inputs = [x.astype(dtype) if x.dtype == np.float32 else x for x in inputs]
    tolerance = 1e-5 if dtype == np.float32 else 5e-3
    options.update(opset=23, rtol=tolerance, atol=tolerance)
    return compare_node("RotaryEmbedding", inputs, reference, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("case", SHAPES)
def test_tables_of_each_sequence(case, interleaved, dtype):
    shape, options = SHAPES[case]
    compare(inputs_of(shape, options), dtype, interleaved=interleaved, **options)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_positions(batch, interleaved):
    angles = floats(7, 4, seed=1)
    positions = np.array([[0, 6, -1], [-7, 2, 2]][:batch], np.int64)
    inputs = [floats(2, 3, 3, 8), np.cos(angles), np.sin(angles), positions]
    compare(inputs, interleaved=interleaved, constants=(1, 2))


def test_one_table_for_a_batch():
    compare(inputs_of((2, 3, 5, 8), {}, batch=1))


@pytest.mark.parametrize("interleaved", [0, 1])
def test_dimensions_of_the_run(interleaved):
    inputs = inputs_of((2, 5, 60), {"num_heads": 3})
    shapes = {0: ["b", "s", 60], 1: ["b", "s", 10], 2: ["b", "s", 10]}
    compare(inputs, interleaved=interleaved, num_heads=3, shapes=shapes)


def test_infinities_and_nan_stay_in_their_pair():
    inputs = inputs_of((1, 2, 3, 8), {})
    inputs[0][0, 0, 0, 1], inputs[0][0, 1, 2, 7] = np.inf, np.nan
    compare(inputs)


def test_refused():
    x, cos, sin = inputs_of((2, 3, 5, 8), {})
    cases = {
        "do not fit a rotation of 8": ([x, cos[..., :3], sin[..., :3]], {}),
        "does not fit the batch and sequences": ([x, cos[:, :4], sin[:, :4]], {}),
        "of rank 3 and 3, not 2": ([x, cos, sin, np.zeros((2, 5), np.int64)], {}),
        "num_heads is missing": ([x[:, 0], cos, sin], {}),
        "rotary_embedding_dim=10 is not even and 2 to 8": (
            [x, cos, sin],
            {"rotary_embedding_dim": 10},
        ),
    }
    for sentence, (inputs, options) in cases.items():
        with pytest.raises(CompileError, match=sentence):
            ours(one_node("RotaryEmbedding", inputs, opset=23, **options), {})
