"""Attention of the com.microsoft domain, the whole way, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

from athanor.errors import CompileError

from .artifact import compare_node, ours, runtime
from .execute import floats, one_node

MS = "com.microsoft"


def ints(*values):
    """An int32 array."""
    return np.array(values, np.int32)


def compare(op, inputs, **options):
    """One node of com.microsoft against ONNX Runtime."""
    return compare_node(op, inputs, domain=MS, rtol=1e-4, atol=1e-5, **options)


MASKS = {
    "none": None,
    "raw": ints([1, 1, 1, 0, 0], [1, 1, 1, 1, 1]),
    "raw 3d": np.tril(np.ones((2, 5, 5), np.int32)),
    "lengths": ints(3, 5),
    "ends and begins": ints(4, 5, 0, 2),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(mask, causal):
    inputs = [floats(2, 5, 8), floats(8, 24, seed=1), floats(24, seed=2), MASKS[mask]]
    if inputs[-1] is None:
        inputs.pop()
    compare("Attention", inputs, num_heads=2, unidirectional=causal)


def test_attention_with_other_value_width_scale_and_bias():
    inputs = [floats(2, 3, 8), floats(8, 28, seed=1), floats(28, seed=2), None, None]
    inputs.append(floats(1, 2, 3, 3, seed=3))
    compare("Attention", inputs, num_heads=2, qkv_hidden_sizes=[8, 8, 12], scale=0.3)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, ints([1, 1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1])])
def test_attention_with_past(causal, mask):
    inputs = [floats(2, 3, 8), floats(8, 24, seed=1), floats(24, seed=2), mask]
    inputs.append(floats(2, 2, 2, 4, 4, seed=3))
    compare("Attention", inputs, num_heads=2, unidirectional=causal, outputs=2)


HEADS = [
    dict(q=(2, 5, 8), k=(2, 5, 8), v=(2, 5, 8)),
    dict(q=(2, 3, 8), k=(2, 7, 8), v=(2, 7, 12)),
    dict(q=(1, 1, 8), k=(1, 6, 8), v=(1, 6, 8)),
    dict(q=(2, 3, 8), k=(2, 2, 5, 4), v=(2, 2, 5, 4)),
]


@pytest.mark.parametrize("case", HEADS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_multi_head_attention(case, with_bias):
    inputs = [floats(*s, seed=i) if s else None for i, s in enumerate(case.values())]
    if with_bias:
        if len(case["k"]) == 4:
            pytest.skip("ONNX Runtime has no bias for keys in heads")
        value = case["v"][-1] if case["v"] else 8
        inputs.append(floats(16 + value, seed=4))
    while inputs[-1] is None:
        inputs.pop()
    compare("MultiHeadAttention", inputs, num_heads=2)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("packed", ["query", "key"])
def test_packed_inputs(packed, with_bias):
    """As the same inputs apart: ONNX Runtime has the packed forms on other devices only."""
    parts = [floats(2, 3, 8, seed=i) for i in range(3)]
    bias = [floats(24, seed=4)] if with_bias else []
    whole = [part.reshape(2, 3, 2, 1, 4) for part in parts]
    inputs = [np.concatenate(whole, axis=3), None, None]
    if packed == "key":
        inputs = [parts[0], np.concatenate(whole[1:], axis=3), None]
    results = []
    for given in ([*inputs, *bias], [*parts, *bias]):
        while given[-1] is None:
            given.pop()
        feeds = {f"x{i}": x for i, x in enumerate(given) if x is not None}
        model = one_node("MultiHeadAttention", given, domain=MS, num_heads=2)
        results.append(ours(model, feeds)[0])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


PADDING = [ints(3, 5), ints([1, 1, 1, 0, 0], [0, 1, 1, 1, 1])]


@pytest.mark.parametrize("mask", PADDING, ids=["lengths", "raw"])
@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_masks(mask, causal):
    inputs = [floats(2, 5, 8, seed=i) for i in range(3)] + [None, mask]
    compare("MultiHeadAttention", inputs, num_heads=2, unidirectional=causal)


@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_past_and_bias(causal):
    inputs = [floats(2, 3, 8, seed=i) for i in range(3)] + [None, None]
    inputs += [floats(2, 1, 3, 7, seed=5), floats(2, 2, 4, 4, seed=6), floats(2, 2, 4, 4, seed=7)]
    options = dict(num_heads=2, unidirectional=causal, outputs=3, scale=0.4)
    compare("MultiHeadAttention", inputs, **options)


def tables(positions, half):
    """Cosines and sines of rotary embeddings."""
    angles = np.arange(positions)[:, None] / 100 ** (np.arange(half) / half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 16), (2, 2, 3, 8)], ids=str)
def test_rotary_embedding(shape, interleaved):
    cos, sin = tables(9, 4)
    for positions in (np.array([[0, 1, 2], [4, 7, 8]], np.int64), np.array([2], np.int64)):
        inputs = [floats(*shape), positions, cos, sin]
        compare("RotaryEmbedding", inputs, interleaved=interleaved)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_of_a_part(interleaved):
    cos, sin = tables(9, 2)
    inputs = [floats(2, 3, 16), np.array([[0, 1, 2], [4, 7, 8]], np.int64), cos, sin]
    options = dict(interleaved=interleaved, num_heads=2, rotary_embedding_dim=4)
    compare("RotaryEmbedding", inputs, **options)


def group_query(batch, queries, past, total=None, seqlens=None, rotary=False, extra=(), **options):
    """A node with 4 heads and 2 groups of size 16, its caches inputs, its total a constant."""
    width = 16
    inputs = [
        floats(batch, queries, 4 * width),
        floats(batch, queries, 2 * width, seed=1),
        floats(batch, queries, 2 * width, seed=2),
        floats(batch, 2, past, width, seed=3) if past else None,
        floats(batch, 2, past, width, seed=4) if past else None,
        np.array(seqlens or [past + queries - 1] * batch, np.int32),
        np.array(total or past + queries, np.int32),
        *(tables(32, 8) if rotary else (None, None)),
        *extra,
    ]
    while inputs[-1] is None:
        inputs.pop()
    model = one_node(
        "GroupQueryAttention",
        inputs,
        domain=MS,
        outputs=3,
        constants=(6,),
        num_heads=4,
        kv_num_heads=2,
        do_rotary=int(rotary),
        **options,
    )
    names = {value.name for value in model.graph.input}
    return model, {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}


GROUPS = [
    dict(batch=2, queries=5, past=0),
    dict(batch=1, queries=1, past=4),
    dict(batch=2, queries=1, past=4),
    dict(batch=1, queries=3, past=4),
    dict(batch=2, queries=5, past=0, rotary=True),
    dict(batch=1, queries=1, past=4, rotary=True),
    dict(batch=1, queries=3, past=4, rotary=True, rotary_interleaved=1),
    dict(batch=2, queries=7, past=0, local_window_size=3),
    dict(batch=1, queries=1, past=6, local_window_size=3),
    dict(batch=2, queries=5, past=0, softcap=2.0),
    dict(batch=2, queries=5, past=0, scale=0.2, smooth_softmax=1),
    dict(batch=2, queries=1, past=5, seqlens=[3, 5], rotary=True),
]


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_group_query_attention(case):
    model, feeds = group_query(**case)
    results, expected = ours(model, feeds), runtime(model, feeds)
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.shape == theirs.shape
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(results[1:], expected[1:], strict=True):
        for b, last in enumerate(feeds["x5"]):  # rows from the sequence's length on are undefined
            valid = (b, slice(None), slice(0, last + 1))
            np.testing.assert_allclose(mine[valid], theirs[valid], rtol=1e-4, atol=1e-5)


def test_group_query_attention_with_bias_and_sink():
    extra = (None, floats(1, 4, 5, 5, seed=8), floats(4, seed=9))
    model, feeds = group_query(batch=2, queries=5, past=0, extra=extra)
    results, expected = ours(model, feeds), runtime(model, feeds)
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-4, atol=1e-5)


def test_group_query_attention_of_a_symbolic_cache():
    """total_sequence_length follows from the shape of the attention mask, as exporters have it."""
    model, feeds = group_query(batch=1, queries=1, past=4, rotary=True)
    graph = model.graph
    for value in graph.input:
        if value.name in ("x3", "x4"):
            value.type.tensor_type.shape.dim[2].dim_param = "past"
    del graph.initializer[:]
    mask = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.INT64, [1, "total"])
    graph.input.append(mask)
    index = onnx.numpy_helper.from_array(np.array(1, np.int64), "one")
    graph.initializer.append(index)
    make = onnx.helper.make_node
    before = [
        make("Shape", ["mask"], ["mask_shape"]),
        make("Gather", ["mask_shape", "one"], ["total_long"]),
        make("Cast", ["total_long"], ["x6"], to=onnx.TensorProto.INT32),
    ]
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    feeds["mask"] = np.ones((1, 5), np.int64)
    results, expected = ours(model, feeds), runtime(model, feeds)
    for mine, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_total_that_only_the_run_knows_is_refused():
    model, feeds = group_query(batch=1, queries=1, past=4)
    feeds["x6"] = onnx.numpy_helper.to_array(model.graph.initializer[0])
    del model.graph.initializer[:]
    total = onnx.helper.make_tensor_value_info("x6", onnx.TensorProto.INT32, [])
    model.graph.input.append(total)
    with pytest.raises(CompileError, match="total_sequence_length"):
        ours(model, feeds)
