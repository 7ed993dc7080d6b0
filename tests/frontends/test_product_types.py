"""Matrix products of types other than float32, the whole way; against NumPy."""

import numpy as np
import pytest

import athanor
from athanor.errors import RunError

from .artifact import compare_node, ours
from .execute import one_node

SHAPES = [
    ((1, 1), (1, 1)),
    ((13, 65), (65, 33)),
    ((30, 20), (20, 1)),
    ((5, 700), (700, 1)),  # one dot product a row
    ((2, 9, 17), (17, 40)),
    ((2, 3, 9, 17), (2, 1, 17, 31)),
    ((0, 4), (4, 3)),
    ((2, 0), (0, 3)),
    ((2, 3), (3, 0)),
]
TOLERANCES = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-12}


def numbers(dtype, *shape, seed):
    """Random numbers; integers of the whole range, so that products wrap."""
    rng = np.random.default_rng(seed)
    if dtype in TOLERANCES:
        return rng.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def check(op, dtype, a, b, constant, **attributes):
    left, right = inputs = [numbers(dtype, *a, seed=1), numbers(dtype, *b, seed=2)]
    right = right.T if attributes else right
    sums = np.float64 if dtype == "float16" else dtype
    wanted = np.matmul(left.astype(sums), right.astype(sums)).astype(dtype)
    tolerance = TOLERANCES.get(dtype, 0)
    options = dict(constants=(1,) if constant else (), rtol=tolerance)
    options["atol"] = tolerance * max(1, a[-1]) ** 0.5
    compare_node(op, inputs, lambda *_: [wanted], **options, **attributes)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("a", "b"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_matmul(dtype, a, b, constant):
    check("MatMul", dtype, a, b, constant)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint32", "uint64"])
def test_a_transposed_right_operand(dtype, constant):
    check("Gemm", dtype, (13, 40), (35, 40), constant, transB=1)


@pytest.mark.parametrize("depth", [1, 33, 64])
def test_integers_of_a_depth_that_only_the_run_knows(depth):
    """The weight knows it: odd depths are made even without asking the run."""
    a, b = numbers("uint8", 2, 3, depth, seed=1), numbers("int8", depth, 35, seed=2)
    model = one_node("MatMulInteger", [a, b], constants=(1,))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "k"
    (result,) = ours(model, {"x0": a})
    np.testing.assert_array_equal(result, a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "attributes"),
    [
        ("Gemm", "float32", (3, 13), {}),
        ("Gemm", "int32", (13, 3), {"transA": 1}),
        ("MatMul", "float32", (13,), {}),
        ("MatMulInteger", "int8", (3, 13), {}),
    ],
)
def test_another_depth_than_the_weight_has_is_refused(op, dtype, shape, attributes):
    """It was read past the input's end."""
    a, b = numbers(dtype, *shape, seed=1), numbers(dtype, 13, 4, seed=2)
    model = one_node(op, [a, b], constants=(1,), **attributes)
    axis = shape.index(13)
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "k"
    loaded = athanor.compile(model).load(threads=1)
    assert next(iter(loaded.run({"x0": a}).values())).shape[-1] == 4
    for depth in (12, 14, 1):
        wrong = np.ones([depth if size == 13 else size for size in shape], dtype)
        with pytest.raises(RunError, match="13"):
            loaded.run({"x0": wrong})
