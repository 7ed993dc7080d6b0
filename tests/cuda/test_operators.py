"""Kernels and programs for a GPU: what they compute, against the onnx reference."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import athanor


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def model_of(nodes, feeds, outputs, constants=None, shapes=None, opset=21):
    """A model of these nodes; shapes: other declared shapes of inputs, by name."""

    def kind(array):
        return helper.np_dtype_to_tensor_dtype(array.dtype)

    inputs = [
        helper.make_tensor_value_info(name, kind(array), (shapes or {}).get(name, array.shape))
        for name, array in feeds.items()
    ]
    initializers = [onnx.numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def compare(model, feeds, rtol=1e-5, atol=1e-6, expected=None):
    """Run under emulation, compare with the reference or `expected`; the artifact."""
    artifact = athanor.compile(model, "cuda")
    results = list(artifact.load(threads=1).run(feeds).values())
    expected = expected or ReferenceEvaluator(model).run(None, feeds)
    for ours, theirs in zip(results, expected, strict=True):
        theirs = np.asarray(theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype.kind in "iub":
            np.testing.assert_array_equal(ours, theirs)
        else:
            wide = ours.astype(np.float64), theirs.astype(np.float64)
            np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)
    return artifact


def rules(artifact):
    return {kernel["rule"] for kernel in artifact.metadata["device"]["kernels"].values()}


def launches(artifact):
    kernels = artifact.metadata["device"]["kernels"].values()
    return sum(len(kernel["launches"]) for kernel in kernels)


@pytest.mark.parametrize("rows", [9, 33, 64])
def test_a_dense_layer_is_one_launch(driver, rows):
    feeds = {"x": numbers(rows, 130)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["p"]),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    constants = {"w": numbers(130, 70), "b": numbers(70)}
    artifact = compare(model_of(nodes, feeds, ["y"], constants), feeds, 1e-4, 1e-4)
    assert launches(artifact) == 1
    assert rules(artifact) == {"CUDAMatmul"}


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("MatMul", [(3, 33, 65), (3, 65, 70)], {}),
        ("MatMul", [(2, 1, 5, 6), (3, 6, 7)], {}),
        ("Conv", [(2, 5, 9, 11), (8, 5, 3, 3), (8,)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ("Conv", [(1, 6, 7, 7), (6, 1, 3, 3)], {"group": 6}),
        ("ConvTranspose", [(1, 3, 5, 5), (3, 4, 3, 3)], {"strides": [2, 2]}),
        ("MaxPool", [(1, 3, 9, 9)], {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("AveragePool", [(1, 3, 9, 9)], {"kernel_shape": [2, 2]}),
        ("LayerNormalization", [(7, 130), (130,), (130,)], {}),
        ("Softmax", [(3, 5, 1000)], {"axis": -1}),
        ("ReduceSum", [(4, 5000)], {"keepdims": 0}),
        ("ReduceMax", [(300, 7)], {"keepdims": 0}),
        ("ArgMax", [(5, 300)], {"axis": 1}),
        ("Transpose", [(3, 5, 7)], {"perm": [2, 0, 1]}),
        ("Gelu", [(3, 400)], {}),
    ],
)
def test_one_operator(driver, op, shapes, attributes):
    feeds = {f"x{i}": numbers(*shape) for i, shape in enumerate(shapes)}
    node = helper.make_node(op, list(feeds), ["y"], **attributes)
    compare(model_of([node], feeds, ["y"]), feeds, 1e-4, 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats(driver, dtype):
    feeds = {"x": numbers(40, 50, dtype=dtype), "w": numbers(50, 30, dtype=dtype)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("ReduceMax", ["q"], ["y"], keepdims=0),
    ]
    compare(model_of(nodes, feeds, ["p", "q", "y"]), feeds, 2e-2, 1e-1)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_integers_wrap_in_their_own_width(driver, dtype):
    limits = np.iinfo(dtype)
    feeds = {"a": np.array([limits.max, limits.min, 100, 3], dtype)}
    nodes = [
        helper.make_node("Add", ["a", "a"], ["s"]),
        helper.make_node("Div", ["s", "two"], ["y"]),
        helper.make_node("Mul", ["a", "a"], ["p"]),
        helper.make_node("Less", ["p", "two"], ["z"]),
    ]
    with np.errstate(over="ignore"):
        compare(model_of(nodes, feeds, ["y", "z"], {"two": np.array(2, dtype)}), feeds)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_sizes_that_the_run_tells_are_read_by_the_host(driver, count):
    x = np.zeros((2, 3), np.float32)
    x.reshape(-1)[:count] = 2.0
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["numbers"], ["y"]),
    ]
    compare(model_of(nodes, {"x": x}, ["places", "square", "y"]), {"x": x})


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_loop_s_values_stay_on_the_device(driver, trips):
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "x"], ["next"]),
            helper.make_node("Identity", ["going"], ["goes"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["next", "f"], ["scan"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("going", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [4]),
        ],
        [
            value("goes", TensorProto.BOOL, []),
            value("next", TensorProto.FLOAT, [4]),
            value("scan", TensorProto.FLOAT, [4]),
        ],
    )
    feeds = {"trips": np.array(trips, np.int64), "x": numbers(4)}
    nodes = [
        helper.make_node("Loop", ["trips", "", "x"], ["final", "scans"], body=body),
        helper.make_node("Neg", ["final"], ["y"]),
    ]
    states = [feeds["x"] ** (i + 1) for i in range(trips + 1)]
    scans = [states[i + 1] + np.float32(i) for i in range(trips)]
    scans = np.stack(scans) if scans else np.empty((0, 4), np.float32)
    compare(model_of(nodes, feeds, ["y", "scans"]), feeds, expected=[-states[-1], scans])


@pytest.mark.parametrize("positive", [True, False])
def test_a_branch_on_what_the_device_computed(driver, positive):
    value = helper.make_tensor_value_info

    def branch(op):
        result = value("out", TensorProto.FLOAT, [300])
        return helper.make_graph([helper.make_node(op, ["x"], ["out"])], op, [], [result])

    feeds = {"x": np.abs(numbers(300)) * (1 if positive else -1)}
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["condition"]),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=branch("Exp"), else_branch=branch("Abs")
        ),
    ]
    compare(model_of(nodes, feeds, ["y"], {"zero": np.array(0, np.float32)}), feeds)


def test_what_can_not_be_parallel_runs_on_the_host_between_kernels(driver):
    feeds = {"x": numbers(3, 40)}
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("CumSum", ["e", "axis"], ["c"]),
        helper.make_node("Log", ["c"], ["y"]),
    ]
    artifact = compare(model_of(nodes, feeds, ["y"], {"axis": np.array(1, np.int64)}), feeds)
    assert [kernel["name"] for kernel in artifact.metadata["kernels"]] == ["k_cumsum"]
    assert len(artifact.metadata["device"]["kernels"]) == 2


def test_symbolic_sizes(driver):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Softmax", ["p"], ["y"]),
    ]
    for rows in (1, 300):
        feeds = {"x": numbers(rows, 20), "w": numbers(20, 9)}
        compare(model_of(nodes, feeds, ["y"], shapes={"x": ["rows", 20]}), feeds, 1e-4, 1e-6)
