"""ReverseSequence, CenterCropPad, TensorScatter and BitCast against the onnx reference."""

import ml_dtypes
import numpy as np
import pytest

from athanor.errors import CompileError

from .execute import check, floats, one_node, run, same


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0), (2, 1)])
def test_reverse_sequence(time, batch):
    x = floats(4, 5, 6)
    lengths = np.resize([3, 1, x.shape[time], 2, 4], x.shape[batch])
    lengths = np.minimum(lengths, x.shape[time]).astype(np.int64)
    expected = x.copy()
    for row, length in enumerate(lengths):
        place = [slice(None)] * 3
        place[batch] = row
        part = np.moveaxis(expected, (batch, time), (0, 1))[row]
        part[:length] = part[:length][::-1].copy()
    model = one_node("ReverseSequence", [x, lengths], opset=10, time_axis=time, batch_axis=batch)
    same(run(model, [x, lengths])[0], expected)


def test_reverse_sequence_never_reads_outside():
    x, lengths = floats(3, 2), np.array([7, -4], np.int64)
    model = one_node("ReverseSequence", [x, lengths], opset=10)
    same(run(model, [x, lengths])[0], np.stack([x[::-1, 0], x[:, 1]], axis=1))


@pytest.mark.parametrize(
    ("dims", "shape", "axes"),
    [
        ((5, 6), [3, 9], None),
        ((5, 6), [8, 3], [0, -1]),
        ((5, 6, 3), [2], [1]),
        ((4,), [4], None),
        ((4, 3), [0, 3], None),
    ],
    ids=str,
)
def test_center_crop_pad(dims, shape, axes):
    attributes = {} if axes is None else {"axes": axes}
    inputs = [floats(*dims), np.array(shape, np.int64)]
    check("CenterCropPad", inputs, opset=18, constants=(1,), **attributes)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [1, -2])
def test_tensor_scatter(mode, axis):
    cache, update = floats(2, 3, 7, 4), floats(2, 3, 7, 4, seed=1)
    update = np.take(update, range(3), axis=2 if axis == -2 else 1)
    begin = np.array([4, 2] if axis == -2 else [0, 0], np.int64)
    if mode == "circular":
        begin = np.array([5, 6] if axis == -2 else [2, 1], np.int64)
    check("TensorScatter", [cache, update, begin], opset=24, mode=mode, axis=axis)


def test_tensor_scatter_without_indices():
    check("TensorScatter", [floats(2, 5, 3), floats(2, 2, 3, seed=1)], opset=24)


@pytest.mark.parametrize(
    ("have", "wanted"),
    [
        (np.float32, np.uint32),
        (np.int64, np.float64),
        (np.uint8, np.int8),
        (np.uint16, np.float16),
        (ml_dtypes.bfloat16, np.int16),
        (bool, np.uint8),
    ],
    ids=str,
)
def test_bit_cast(have, wanted):
    from onnx import helper

    x = np.array([0, 1, 1, 0], have)
    if np.dtype(have).kind != "b":
        x = np.array([0, 1, 100, 3]).astype(have)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    model = one_node("BitCast", [x], opset=26, to=to)
    (result,) = run(model, [x])
    np.testing.assert_array_equal(result, x.view(wanted))
    assert result.dtype == wanted


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attributes", "sentence"),
    [
        ("BitCast", 26, [floats(2)], {"to": 7}, "widths differ"),
        ("ReverseSequence", 10, [floats(3, 2), np.zeros(3, np.int64)], {}, "sequence_lens"),
        ("TensorScatter", 24, [floats(2, 5, 3), floats(2, 2, 4)], {}, "does not fit cache"),
    ],
)
def test_refused(op, opset, inputs, attributes, sentence):
    model = one_node(op, inputs, opset=opset, **attributes)
    with pytest.raises(CompileError, match=sentence):
        run(model, inputs)
