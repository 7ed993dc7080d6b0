"""Slices, gathers, scatters, shapes, reductions and products against the onnx reference."""

import numpy as np
import onnx
import pytest

import athanor
from athanor.errors import CompileError, RunError

from .execute import check, floats, one_node, run, runner, same

INF = np.iinfo(np.int64).max


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], [0], [1]),
        ([-2], [INF], [1], [1]),
        ([0, 1], [4, -1], [0, 2], [2, 1]),
        ([-1], [-INF], [1], [-1]),
        ([4], [0], [1], [-2]),
        ([10], [20], [0], [1]),
        ([3], [1], [0], [1]),
    ],
)
def test_slice(starts, ends, axes, steps):
    inputs = [floats(4, 5, 6), ints(*starts), ints(*ends), ints(*axes), ints(*steps)]
    check("Slice", inputs, constants=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("axis", "split", "outputs"), [(0, [1, 3], 2), (1, None, 5), (-1, [2, 0, 4], 3)]
)
def test_split(axis, split, outputs):
    inputs = [floats(4, 5, 6), None if split is None else ints(*split)]
    extra = {"num_outputs": outputs} if split is None else {}
    check("Split", inputs, outputs=outputs, constants=(1,), axis=axis, **extra)


def test_split_in_unequal_parts():
    check("Split", [floats(7)], outputs=3, num_outputs=3)


def test_split_axis_outside_the_rank():
    x = floats(2, 3, 4)
    expected = r"Split 'node' \(opset 22\): axis=4 is outside \[-3, 2\] for a rank-3 input"
    model = one_node("Split", [x, ints(1, 1)], outputs=2, constants=(1,))
    model.graph.node[0].attribute.add(name="axis", i=4, type=2)
    with pytest.raises(CompileError, match=expected):
        run(model, [x])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[1, 0, 2, 1], [0, 3, 2, 4]])
def test_pad(mode, pads):
    inputs = [floats(4, 5), ints(*pads), np.float32(1.5) if mode == "constant" else None]
    check("Pad", inputs, constants=(1,), mode=mode)


def test_negative_pads_cut():
    x = floats(4, 5)
    (result,) = run(one_node("Pad", [x, ints(0, -1, 0, 2)], constants=(1,)), [x])
    np.testing.assert_array_equal(result, np.pad(x[:, 1:], ((0, 0), (0, 2))))


def test_pad_axes():
    inputs = [floats(3, 4, 5), ints(1, 2), None, ints(-2)]
    check("Pad", inputs, constants=(1, 3))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("indices", [[[0, -1], [2, 1]], 1, [-3]])
def test_gather(axis, constant, indices):
    inputs = [floats(3, 4, 5), np.array(indices, np.int64)]
    check("Gather", inputs, constants=(1,) if constant else (), axis=axis)


def test_gather_index_outside():
    x = floats(3, 4)
    with pytest.raises(CompileError, match=r"an index is outside \[-3, 2\] of axis 0"):
        run(one_node("Gather", [x, ints(3)], constants=(1,)), [x])


def test_gather_elements():
    check("GatherElements", [floats(3, 4), np.array([[0, -1, 2, 1]], np.int64)], axis=0)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gather_nd(batch_dims):
    indices = np.array([[0, 1], [1, -1]], np.int64)
    check("GatherND", [floats(2, 3, 4), indices], batch_dims=batch_dims)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(reduction):
    indices = np.array([[1, 0, 2], [-1, 2, 1]], np.int64)
    inputs = [floats(3, 3), indices, floats(2, 3, seed=1)]
    check("ScatterElements", inputs, axis=0, reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_nd(reduction):
    indices = np.array([[1], [-1]], np.int64)
    check("ScatterND", [floats(3, 4), indices, floats(2, 4, seed=1)], reduction=reduction)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_top_k(largest, axis):
    x = np.random.default_rng(3).integers(0, 4, (3, 4, 5)).astype(np.float32)  # with ties
    check("TopK", [x, ints(2)], outputs=2, constants=(1,), axis=axis, largest=largest)


TOP_K = {
    "more than one chunk of a row": ((2, 200), -1, 10),
    "all of a row": ((3, 70), -1, 70),
    "columns, the last vector overlapping": ((2, 11, 3, 7), 1, 5),
    "more of a column than registers hold": ((2, 20, 17), 1, 9),
    "columns in front of an axis of one": ((18, 7, 1), -2, 2),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("case", TOP_K)
def test_top_k_of_many(case, largest, dtype):
    """Ties go by index; NaN is greater than all numbers, as NumPy sorts."""
    shape, axis, k = TOP_K[case]
    rng = np.random.default_rng(3)
    run = runner(one_node("TopK", [np.zeros(shape, dtype), np.array([k])], 2, constants=(1,),
                          axis=axis, largest=largest))  # fmt: skip
    many, few = rng.permutation(np.prod(shape)).reshape(shape), rng.integers(0, 9, shape)
    given = [many, few, np.sort(few, axis), -np.sort(-few, axis)]
    if np.dtype(dtype).kind == "f":
        given.append(rng.choice([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0], shape))
    for x in given:
        x = x.astype(dtype)
        order = np.argsort(x, axis=axis, kind="stable")
        if largest:  # stable from the other end, then turned round
            turned = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
            order = np.flip(shape[axis] - 1 - turned, axis)
        wanted = np.take(order, range(k), axis=axis)
        values, places = run([x])
        same(places, wanted)
        np.testing.assert_array_equal(values, np.take_along_axis(x, wanted, axis))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumulative_sum(exclusive, reverse, axis):
    inputs = [floats(3, 4, 2), np.int64(axis)]
    check("CumSum", inputs, constants=(1,), exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cumulative_sum_between_what_is_fused(axis):
    text = f"""<ir_version: 8, opset_import: ["": 14]>
        g (float[1, 4, 1] x) => (float[1, 4, 1] y) <int64 axis = {{{axis}}}> {{
          size = Abs(x)
          sum = CumSum(size, axis)
          y = Sqrt(sum)
        }}"""
    x = floats(1, 4, 1)
    result = athanor.compile(onnx.parser.parse_model(text)).load().run({"x": x})["y"]
    np.testing.assert_allclose(result, np.sqrt(np.cumsum(np.abs(x), axis)), rtol=1e-6)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [-2, 0, 1])
def test_trilu(upper, k):
    check("Trilu", [floats(2, 4, 3), np.int64(k)], constants=(1,), upper=upper)


def test_one_hot():
    inputs = [ints(0, -1, 5, 2), np.int64(4), np.array([2, 9], np.float32)]
    check("OneHot", inputs, constants=(1,), axis=-1)


@pytest.mark.parametrize(
    "op", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce(op, axes, keepdims):
    x = np.abs(floats(3, 4, 5)) + np.float32(0.1)
    inputs = [x, None if axes is None else ints(*axes)]
    check(f"Reduce{op}", inputs, constants=(1,), keepdims=keepdims, rtol=1e-4)


def test_reduce_of_a_masked_row_is_infinite():
    x = np.array([[-np.inf, -np.inf], [1, -np.inf]], np.float32)
    check("ReduceMax", [x, ints(1)], constants=(1,))


def test_reduce_without_axes_can_do_nothing():
    check("ReduceSumSquare", [floats(3, 4)], noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_arg(op, last, keepdims):
    x = np.random.default_rng(5).integers(0, 3, (3, 6)).astype(np.float32)
    check(op, [x], axis=1, select_last_index=last, keepdims=keepdims)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,...jk", [(2, 2, 3), (2, 3, 4)]),
        ("ii->i", [(4, 4)]),
        ("ij->", [(3, 4)]),
        ("i,j->ji", [(3,), (4,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
    ],
)
def test_einsum(equation, shapes):
    inputs = [floats(*shape, seed=i) for i, shape in enumerate(shapes)]
    check("Einsum", inputs, equation=equation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3,), (2, 3, 4)), ((2, 1, 3, 4), (5, 4, 2))])
def test_matmul(shapes):
    check("MatMul", [floats(*shapes[0]), floats(*shapes[1], seed=1)], rtol=1e-4)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("c", [None, (), (5,), (3, 1), (3, 5)])
def test_gemm(trans, c):
    a, b = ((4, 3) if trans[0] else (3, 4)), ((5, 4) if trans[1] else (4, 5))
    inputs = [floats(*a), floats(*b, seed=1)]
    if c is not None:
        inputs.append(np.asarray(floats(*c, seed=2), np.float32))
    options = dict(alpha=0.5, beta=2.0, transA=trans[0], transB=trans[1])
    check("Gemm", inputs, rtol=1e-4, atol=1e-5, **options)


@pytest.mark.parametrize("shape", [[2, -1], [0, -1], [-1], [4, 3, 0, 1, -1], [0, 0, 0]])
def test_reshape(shape):
    check("Reshape", [floats(4, 3, 10), ints(*shape)], constants=(1,))


def test_reshape_to_nothing():
    x = np.zeros((0, 3, 4), np.float32)
    check("Reshape", [x, ints(3, 4, 0)], constants=(1,), allowzero=1)


def test_reshape_that_does_not_fit():
    x = floats(2, 3)
    with pytest.raises(
        CompileError, match=r"input \[2, 3\] has 6 elements, shape \[4, 2\] needs 8"
    ):
        run(one_node("Reshape", [x, ints(4, 2)], constants=(1,)), [x])


@pytest.mark.parametrize("perm", [[1, 0, 2], [2, 1, 0], [0, 1, 2]])
def test_transpose(perm):
    check("Transpose", [floats(2, 3, 4)], perm=perm)


@pytest.mark.parametrize(("op", "axes"), [("Squeeze", [0, -2]), ("Unsqueeze", [0, -1])])
def test_unit_dims(op, axes):
    check(op, [floats(1, 3, 1, 2), ints(*axes)], constants=(1,))


def test_expand_and_tile():
    check("Expand", [floats(3, 1), ints(2, 1, 6)], constants=(1,))
    check("Tile", [floats(2, 3), ints(2, 3)], constants=(1,))


def test_concat_of_sizes_that_only_the_run_can_compare():
    inputs = [floats(2, 3), floats(2, 1), floats(2, 2)]
    shapes = {0: ["a", 3], 1: ["b", 1], 2: [2, 2]}
    model = one_node("Concat", inputs, shapes=shapes, axis=1)
    compiled = athanor.compile(model).load(threads=1)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    same(compiled.run(feeds)["y0"], np.concatenate(inputs, axis=1))
    with pytest.raises(RunError, match="b has to be equal to 2"):
        compiled.run({**feeds, "x1": floats(3, 1)})
    with pytest.raises(CompileError, match="their ranks have to be equal"):
        athanor.compile(one_node("Concat", [floats(2), floats(2, 1)], axis=0))
