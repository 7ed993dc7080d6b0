"""Operators whose results' sizes depend on the data, the whole way, against the onnx reference."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import athanor
from athanor.errors import RunError

from .execute import floats, inferred, one_node, same


def check(op, *runs, **options):
    """Compile for the first of `runs` (lists of inputs), run all; the same shapes or named ones."""
    model = one_node(op, runs[0], **options)
    names = [value.name for value in model.graph.input]
    compiled = athanor.compile(model).load(threads=1)
    for inputs in runs:
        feeds = {name: inputs[int(name[1:])] for name in names}
        expected = ReferenceEvaluator(model).run(None, feeds)
        for ours, theirs in zip(compiled.run(feeds).values(), expected, strict=True):
            same(ours, np.asarray(theirs))


def sparse(*shape, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).integers(-2, 3, shape) % 3).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, np.uint8, np.float64])
def test_non_zero(dtype):
    runs = [sparse(3, 4, 5, dtype=dtype), np.zeros((3, 4, 5), dtype), np.ones((3, 4, 5), dtype)]
    check("NonZero", *[[x] for x in runs])


def test_non_zero_of_named_sizes():
    runs = [sparse(n, 3, seed=n) for n in (1, 2, 17)]
    check("NonZero", *[[x] for x in runs], shapes={0: ["n", 3]})


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_non_zero_of_nothing(shape):
    check("NonZero", [np.zeros(shape, np.float32)])


def test_nan_is_not_zero():
    check("NonZero", [np.array([0.0, np.nan, -0.0, np.inf], np.float32)])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis):
    x = floats(3, 4, 2)
    length = 2 if axis is None else x.shape[axis]
    conditions = [np.arange(length) % 2 == 0, np.zeros(length, bool), np.ones(length, bool)]
    attributes = {} if axis is None else {"axis": axis}
    check("Compress", *[[x, condition] for condition in conditions], **attributes)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_unique(axis):
    attributes = {} if axis is None else {"axis": axis}
    check("Unique", *[[x] for x in repeated()], outputs=4, **attributes)


def repeated():
    rng = np.random.default_rng(0)
    few = [rng.integers(0, 2, (4, 3, 5)) for _ in range(3)]
    return [x.astype(np.float32) for x in (*few, few[0][:, [0, 0, 0]], np.zeros((4, 3, 5)))]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_unique_in_order_of_occurrence(axis):
    """The reference can't do it along an axis, so it is made of NumPy's sorted result."""
    attributes = {} if axis is None else {"axis": axis}
    model = one_node("Unique", [repeated()[0]], outputs=4, sorted=0, **attributes)
    compiled = athanor.compile(model).load(threads=1)
    for x in repeated():
        values, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
        order = np.argsort(first)
        place = np.argsort(order)
        expected = (
            np.take(values, order, axis=axis or 0),
            first[order],
            place[inverse.reshape(-1)],
            counts[order],
        )
        for ours, theirs in zip(compiled.run({"x0": x}).values(), expected, strict=True):
            same(ours, theirs)


def test_unique_with_nan():
    check("Unique", [np.array([2, np.nan, 1, np.nan, -np.inf, 2], np.float32)], outputs=4)


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 1000])
def test_unique_of_many(length):
    x = np.random.default_rng(length).integers(0, length, length)
    check("Unique", [x], outputs=4)


def boxes(batch, classes, count, seed=0):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 4, (2, batch, count, 2))
    both = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    return both, rng.uniform(0, 1, (batch, classes, count)).astype(np.float32)


@pytest.mark.parametrize("centered", [0, 1])
def test_non_max_suppression(centered):
    options = [(3, 0.5, 0.0), (100, 0.3, 0.4), (0, 0.5, 0.0), (5, 0.5, 2.0), (100, 1.0, 0.0)]
    runs = [
        [
            *boxes(2, 3, 12, seed),
            np.array([most], np.int64),
            np.array([overlap], np.float32),
            np.array([least], np.float32),
        ]
        for seed, (most, overlap, least) in enumerate(options)
    ]
    check("NonMaxSuppression", *runs, center_point_box=centered)


def graph(nodes, inputs, outputs, weights=()):
    """A model of nodes given as text; inputs are arrays by name, outputs names and dtypes."""
    info = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in inputs.items()
    ]
    results = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    made = onnx.helper.make_graph(nodes, "g", info, results, list(weights))
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)])
    return inferred(model)


def test_what_follows_has_the_size():
    """Sizes that a run knows go through elementwise kernels, matrix products and reductions."""
    node, rng = onnx.helper.make_node, np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    x = floats(5, 6)
    model = graph(
        [
            node("Compress", ["x", "keep"], ["rows"], axis=0),
            node("MatMul", ["rows", "w"], ["product"]),
            node("Tanh", ["product"], ["bent"]),
            node("Softmax", ["bent"], ["soft"], axis=0),
            node("ReduceSum", ["bent"], ["total"], keepdims=0),
            node("ReduceMax", ["soft", "axis"], ["top"], keepdims=1),
            node("Shape", ["bent"], ["shape"]),
            node("Transpose", ["rows"], ["turned"]),
            node("MatMul", ["turned", "rows"], ["square"]),
        ],
        {"x": x, "keep": np.ones(5, bool)},
        [("bent", 1), ("soft", 1), ("total", 1), ("top", 1), ("shape", 7), ("square", 1)],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    compiled = athanor.compile(model).load(threads=2)
    for keep in ([1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]):
        feeds = {"x": x, "keep": np.array(keep, bool)}
        results = compiled.run(feeds)
        rows = x[feeds["keep"]]
        bent = np.tanh(rows @ weight)
        soft = np.exp(bent) / np.exp(bent).sum(axis=0, keepdims=True)
        expected = {
            "bent": bent,
            "soft": soft,
            "total": np.asarray(bent.sum()),
            "top": soft.max(axis=1, keepdims=True),
            "shape": np.array(bent.shape),
            "square": rows.T @ rows,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(results[name], value, rtol=1e-5, atol=1e-5)
            assert results[name].shape == value.shape


def test_sizes_that_do_not_fit_end_the_run():
    node = onnx.helper.make_node
    model = graph(
        [
            node("Compress", ["x", "a"], ["left"], axis=0),
            node("Compress", ["x", "b"], ["right"], axis=0),
            node("Add", ["left", "right"], ["y"]),
        ],
        {"x": floats(4), "a": np.ones(4, bool), "b": np.ones(4, bool)},
        [("y", 1)],
    )
    compiled = athanor.compile(model).load(threads=1)
    feeds = {"x": floats(4), "a": np.array([1, 0, 1, 0], bool), "b": np.array([0, 0, 1, 1], bool)}
    np.testing.assert_array_equal(
        compiled.run(feeds)["y"], feeds["x"][feeds["a"]] + feeds["x"][feeds["b"]]
    )
    with pytest.raises(RunError, match="has to be equal to"):
        compiled.run({**feeds, "b": np.array([0, 1, 1, 1], bool)})


@pytest.mark.parametrize("op", ["Unique", "NonZero"])
def test_narrow_floats(op):
    check(op, [sparse(4, 3, dtype=np.float16)], outputs=4 if op == "Unique" else 1)
