"""DeformConv, Col2Im and MaxUnpool against ONNX Runtime and the onnx reference."""

import numpy as np
import pytest

from athanor.errors import CompileError

from .execute import check, floats, one_node, run
from .test_images import compare

DEFORM = [
    dict(x=(1, 2, 5, 6), w=(3, 2, 3, 2)),
    dict(x=(2, 4, 6, 5), w=(6, 2, 3, 3), group=2, offset_group=2, pads=[1, 0, 2, 1]),
    dict(x=(1, 3, 9, 8), w=(2, 3, 3, 3), strides=[2, 1], dilations=[2, 1], pads=[1, 1, 1, 1]),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", DEFORM, ids=str)
def test_deform_conv(case, masked):
    options = {key: value for key, value in case.items() if key not in "xw"}
    n, _, *dims = case["x"]
    kernel = case["w"][2:]
    pads, strides, dilations = (
        options.get(name, default)
        for name, default in (("pads", [0] * 4), ("strides", [1, 1]), ("dilations", [1, 1]))
    )
    size = [
        (dims[a] + pads[a] + pads[a + 2] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(2)
    ]
    taps = kernel[0] * kernel[1] * options.get("offset_group", 1)
    inputs = [
        floats(*case["x"]),
        floats(*case["w"], seed=1),
        2 * floats(n, 2 * taps, *size, seed=2),
    ]
    if masked:
        inputs += [floats(case["w"][0], seed=3), floats(n, taps, *size, seed=4)]
    compare("DeformConv", inputs, opset=19, **options)


COL2IM = [
    dict(x=(1, 10, 12), image=[6, 8], block=[2, 5], strides=[1, 1]),
    dict(x=(2, 8, 6), image=[5, 6], block=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
    dict(x=(1, 18, 20), image=[6, 5], block=[3, 3], pads=[1, 1, 1, 1], dilations=[1, 1]),
    dict(x=(1, 4, 15), image=[6, 5], block=[2, 2], dilations=[3, 1]),
    dict(x=(1, 3, 5), image=[7], block=[3]),
]


@pytest.mark.parametrize("case", COL2IM, ids=str)
def test_col2im(case):
    rank = len(case["image"])
    dilations, pads = case.get("dilations", [1] * rank), case.get("pads", [0] * (2 * rank))
    strides = case.get("strides", [1] * rank)
    counts = [
        (case["image"][a] + pads[a] + pads[a + rank] - dilations[a] * (case["block"][a] - 1) - 1)
        // strides[a]
        + 1
        for a in range(rank)
    ]
    x = floats(*case["x"][:2], int(np.prod(counts)))
    inputs = [x, np.array(case["image"]), np.array(case["block"])]
    options = {k: case[k] for k in ("dilations", "pads", "strides") if k in case}
    compare("Col2Im", inputs, opset=18, constants=(1, 2), **options)


def test_max_unpool_inverts_max_pool():
    x = floats(2, 3, 6, 8)
    pool = one_node("MaxPool", [x], outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    values, indices = run(pool, [x])
    options = dict(kernel_shape=[2, 2], strides=[2, 2])
    (result,) = check("MaxUnpool", [values, indices], opset=11, **options)
    assert np.count_nonzero(result) == values.size
    np.testing.assert_array_equal(result[result != 0], x[result != 0])


def test_max_unpool_into_a_larger_shape():
    values, indices = floats(1, 1, 2, 2), np.array([5, 7, 13, 15]).reshape(1, 1, 2, 2)
    inputs = [values, indices, np.array([1, 1, 5, 6])]
    check("MaxUnpool", inputs, opset=11, constants=(2,), kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "sentence"),
    [
        ("DeformConv", [(1, 3, 5, 5), (2, 2, 3, 3), (1, 18, 3, 3)], {}, "group=1"),
        ("DeformConv", [(1, 2, 5, 5), (2, 2, 3, 3), (1, 18, 4, 3)], {}, "offset or mask"),
        ("MaxUnpool", [(1, 1, 2, 2), (1, 1, 2, 3)], {"kernel_shape": [2, 2]}, "indices"),
    ],
)
def test_refused(op, inputs, attributes, sentence):
    arrays = [floats(*shape) for shape in inputs]
    if op == "MaxUnpool":
        arrays[1] = arrays[1].astype(np.int64)
    with pytest.raises(CompileError, match=sentence):
        run(one_node(op, arrays, **attributes), arrays)
