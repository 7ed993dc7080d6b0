"""Windows over images whose size the run knows; images that are empty or too small."""

import numpy as np
import onnx
import onnxruntime
import pytest

import athanor

from .execute import floats, same

SIZES = [(1, 1, 1), (1, 7, 8), (2, 12, 11), (1, 31, 30)]
WINDOWS = [
    dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    dict(kernel_shape=[4, 3], strides=[2, 3], auto_pad="SAME_LOWER"),
    dict(kernel_shape=[2, 1], strides=[3, 2], auto_pad="SAME_UPPER"),
    dict(kernel_shape=[1, 1], strides=[2, 2], auto_pad="SAME_LOWER"),
]
CEIL = [
    dict(kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1),
    dict(kernel_shape=[1, 2], strides=[3, 4], pads=[0, 1, 0, 0], ceil_mode=1),
]
POOLS = WINDOWS[:2] + CEIL  # ONNX Runtime's pooling fails where a stride passes over elements
AVERAGES = [{**window, "count_include_pad": count} for window in POOLS for count in (0, 1)]


def window_model(op, dims, weight=None, **attributes):
    """A model of one operator over an image; the rank of its result is left open."""
    weights = [] if weight is None else [onnx.numpy_helper.from_array(weight, "w")]
    node = onnx.helper.make_node(op, ["x", "w"] if weights else ["x"], ["y"], **attributes)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, dims)], [value("y", 1, None)], weights
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )


def compiled(model):
    return athanor.compile(model).load(threads=1)


def reference(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("op", "window"),
    [("Conv", window) for window in WINDOWS]
    + [("MaxPool", window) for window in POOLS]
    + [("AveragePool", window) for window in AVERAGES],
    ids=str,
)
def test_images_of_any_size(op, window):
    weight = floats(5, 3, *window["kernel_shape"], seed=1) if op == "Conv" else None
    model = window_model(op, ["n", 3, "h", "w"], weight, **window)
    ours = compiled(model)
    for batch, height, width in SIZES:
        x = floats(batch, 3, height, width)
        same(ours.run({"x": x})["y"], reference(model, x), 1e-5, 1e-5)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("window", WINDOWS[2:], ids=str)
def test_windows_that_pass_over_elements(op, window):
    of_the_run = compiled(window_model(op, [1, 2, "h", "w"], **window))
    for dims in ((1, 2, 5, 7), (1, 2, 9, 4)):
        known = compiled(window_model(op, dims, **window))
        x = floats(*dims)
        same(of_the_run.run({"x": x})["y"], known.run({"x": x})["y"])


def test_same_windows_of_one_size_meet():
    """Two ways to half an image, added up: the sizes of both are one and the same."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]>
        g (float[n, 2, h, w] x, float[2, 2, 3, 3] a, float[2, 2, 1, 1] b) => (float[n, 2, p, q] y) {
          l = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, a)
          r = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, b)
          s = Add (l, r)
          y = Relu (s)
        }""")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ours = compiled(model)
    for size in ((1, 2, 9, 8), (3, 2, 4, 5)):
        feeds = {"x": floats(*size), "a": floats(2, 2, 3, 3), "b": floats(2, 2, 1, 1, seed=3)}
        same(ours.run(feeds)["y"], session.run(None, feeds)[0], 1e-5, 1e-5)


EMPTY = [
    # operator, dims of x, dims of w, attributes, dims of y
    ("Conv", (0, 2, 5), (4, 2, 3), {}, (0, 4, 3)),
    ("Conv", (1, 2, 2), (4, 2, 3), {}, (1, 4, 0)),
    ("Conv", (1, 0, 5, 5), (4, 0, 3, 3), {}, (1, 4, 3, 3)),
    ("Conv", (1, 2, 5), (0, 2, 3), {}, (1, 0, 3)),
    ("Conv", (1, 2, 0), (4, 2, 3), dict(pads=[2, 2]), (1, 4, 2)),
    ("ConvTranspose", (0, 2, 5), (2, 4, 3), {}, (0, 4, 7)),
    ("ConvTranspose", (1, 2, 5), (2, 0, 3), {}, (1, 0, 7)),
    ("MaxPool", (1, 2, 2), None, dict(kernel_shape=[3]), (1, 2, 0)),
    ("AveragePool", (0, 2, 4, 4), None, dict(kernel_shape=[2, 2]), (0, 2, 3, 3)),
    ("LpPool", (2, 2, 0), None, dict(kernel_shape=[1]), (2, 2, 0)),
]


@pytest.mark.parametrize(("op", "dims", "weight", "attributes", "result"), EMPTY, ids=str)
def test_empty(op, dims, weight, attributes, result):
    weights = None if weight is None else floats(*weight)
    y = compiled(window_model(op, dims, weights, **attributes)).run({"x": floats(*dims)})["y"]
    np.testing.assert_array_equal(y, np.zeros(result, np.float32))


@pytest.mark.parametrize(
    ("op", "dims", "weight", "attributes", "message"),
    [
        ("Conv", (1, 2, 3), (4, 2, 7), {}, "the window spans 7 elements of axis 2, which has 3"),
        ("MaxPool", (1, 2, 9, 1), None, dict(kernel_shape=[3, 3], dilations=[1, 2]), "axis 3"),
        ("MaxPool", (1, 2, 0), None, dict(kernel_shape=[3], pads=[2, 2]), "no elements"),
        ("Conv", (1, 4, 9), (3, 2, 3), dict(group=2), "can't be divided into group=2"),
        ("ConvTranspose", (1, 2, 1), (2, 4, 1), dict(pads=[2, 2]), "the pads leave"),
    ],
)
def test_what_has_no_windows(op, dims, weight, attributes, message):
    weights = None if weight is None else floats(*weight)
    with pytest.raises(athanor.CompileError, match=message):
        athanor.compile(window_model(op, dims, weights, **attributes))


def test_an_image_of_the_run_that_is_too_small():
    ours = compiled(window_model("MaxPool", [1, 1, "w"], kernel_shape=[5]))
    with pytest.raises(athanor.RunError, match=r"\(1, 1, -2\)"):
        ours.run({"x": floats(1, 1, 2)})


def test_an_input_without_a_rank():
    model = window_model("MaxPool", None, kernel_shape=[2])
    with pytest.raises(athanor.CompileError, match="has no rank"):
        athanor.compile(model)
    athanor.compile(model, shapes={"x": [1, 1, 8]})


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(
    ("dims", "window"),
    [
        ((1, 64, 48, 50), dict(kernel_shape=[2, 2], strides=[2, 2])),
        ((1, 3, 9, 9), dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
        ((2, 2, 11), dict(kernel_shape=[3], strides=[2], ceil_mode=1)),
        ((1, 2, 5, 6, 7), dict(kernel_shape=[2, 3, 2], pads=[0, 1, 1, 1, 0, 0])),
        ((1, 5, 9, 12), dict(kernel_shape=[2, 2], dilations=[3, 2])),
    ],
)
def test_the_largest_of_minus_infinity_is_that(dims, window, kind):
    model = window_model("MaxPool", dims, **window)
    model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(
        np.dtype(kind)
    )
    model.graph.output[0].type.CopyFrom(model.graph.input[0].type)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = floats(*dims).astype(kind)
    with compiled(model) as run:
        infinite = run(np.full(dims, -np.inf, kind))
        assert (infinite == -np.inf).all()
        if kind is np.float32:
            same(run(x), reference(model, x))


def test_long_rows_of_taps():
    """They are no loops that are written out."""
    for window in (dict(kernel_shape=[400]), dict(kernel_shape=[40], strides=[40], pads=[20, 0])):
        model = window_model("MaxPool", (1, 1, 4000), **window)
        x = floats(1, 1, 4000)
        same(compiled(model)(x), reference(model, x))
