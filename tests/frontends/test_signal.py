"""DFT and STFT against NumPy, windows and MelWeightMatrix against the onnx reference."""

import numpy as np
import pytest

import athanor
from athanor.errors import CompileError

from .execute import check, floats, one_node, run, same


def signal(*shape, dtype=np.float32):
    return floats(*shape, dtype=dtype)


def dft(x, length=None, axis=None, opset=20, **options):
    inputs = [x]
    if length is not None or axis is not None:
        inputs.append(None if length is None else np.array(length))
    if axis is not None:
        inputs.append(np.array(axis))
    constants = [i for i in (1, 2) if i < len(inputs) and inputs[i] is not None]
    model = one_node("DFT", inputs, opset=opset, constants=constants, **options)
    (result,) = run(model, [x])
    return result


def pair(values, dtype):
    return np.stack([values.real, values.imag], axis=-1).astype(dtype)


def near(ours, theirs, dtype=np.float32):
    scale = max(1.0, float(np.abs(theirs).max(initial=0)))
    tolerance = 1e-10 if dtype == np.float64 else 2e-6
    same(ours, theirs, rtol=0, atol=tolerance * scale)


# direct, composite, and a long prime
@pytest.mark.parametrize("length", [1, 2, 7, 16, 257, 400, 1024, 1155])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [0, 1])
def test_dft(length, parts, inverse):
    x = signal(2, length, parts)
    function = np.fft.ifft if inverse else np.fft.fft
    complex_x = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
    near(dft(x, inverse=inverse), pair(function(complex_x, axis=1), x.dtype))


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -3])
def test_dft_axis(axis):
    x = signal(3, 4, 5, 2)
    expected = np.fft.fft(x[..., 0] + 1j * x[..., 1], axis=axis + 1 if axis < 0 else axis)
    near(dft(x, axis=axis), pair(expected, x.dtype))


@pytest.mark.parametrize("have", [5, 8, 600])
@pytest.mark.parametrize("length", [5, 8, 600])
def test_dft_real_signals(have, length):
    x = signal(2, have, 1)
    expected = np.fft.rfft(x[..., 0], n=length, axis=1)
    near(dft(x, length=length, onesided=1), pair(expected, x.dtype))


@pytest.mark.parametrize("bins", [4, 5, 301])
@pytest.mark.parametrize("length", [None, 6, 7, 600])
def test_dft_back_to_real_signals(bins, length):
    x = signal(2, bins, 2)
    expected = np.fft.irfft(x[..., 0] + 1j * x[..., 1], n=length, axis=1)
    near(dft(x, length=length, onesided=1, inverse=1), expected[..., None].astype(x.dtype))


def test_dft_types_and_opset_17():
    x = signal(2, 12, 1, dtype=np.float64)
    near(dft(x), pair(np.fft.fft(x[..., 0]), np.float64), np.float64)
    (result,) = run(one_node("DFT", [x], opset=17, axis=0), [x])
    near(result, pair(np.fft.fft(x[..., 0], axis=0), np.float64), np.float64)


def test_dft_with_a_symbolic_batch():
    x = signal(3, 10, 2)
    model = one_node("DFT", [x], opset=20, shapes={0: ["batch", 10, 2]})
    near(run(model, [x])[0], pair(np.fft.fft(x[..., 0] + 1j * x[..., 1]), x.dtype))


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize(("length", "step"), [(16, 8), (300, 77)])
def test_stft(onesided, windowed, length, step):
    x = signal(2, 700, 1)
    window = np.hanning(length).astype(np.float32)
    inputs = [x, np.array(step), window if windowed else None, np.array(length)]
    model = one_node("STFT", inputs, opset=17, constants=(1, 3), onesided=onesided)
    (result,) = run(model, [v for v in (x, inputs[2]) if v is not None])
    frames = np.stack([x[:, s : s + length, 0] for s in range(0, 701 - length, step)], axis=1)
    frames = frames * (window if windowed else 1)
    near(result, pair((np.fft.rfft if onesided else np.fft.fft)(frames), x.dtype))


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op, periodic):
    options = dict(opset=17, constants=(0,), periodic=periodic)
    check(op, [np.array(10)], atol=1e-6, **options)
    (result,) = run(one_node(op, [np.array(1)], output_datatype=11, **options), [])
    assert result.shape == (1,) and result.dtype == np.float64


@pytest.mark.parametrize("case", [(8, 16, 8192, 0, 4096), (40, 512, 16000, 20, 7600)], ids=str)
def test_mel_weight_matrix(case):
    inputs = [np.array(value) for value in case[:3]]
    inputs += [np.array(value, np.float32) for value in case[3:]]
    check("MelWeightMatrix", inputs, opset=17, constants=range(5))


@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        (signal(2, 8, 3), {}, "neither real nor complex"),
        (signal(2, 8, 2), {"onesided": 1}, "onesided=1 with inverse=0"),
        (signal(2, 8, 2), {"axis": 2}, "signal axis"),
        (signal(2, 8, 2), {"length": 8191}, "too large a prime factor"),
    ],
)
def test_refused(x, options, sentence):
    with pytest.raises(CompileError, match=sentence):
        dft(x, **options)


def test_stft_with_a_step_of_the_run():
    x, window = floats(2, 40), np.hanning(16).astype(np.float32)
    node = one_node("STFT", [x, np.int64(1), window], opset=17)
    run = athanor.compile(node).load(threads=1).run
    for step in (1, 7, 24, 25):
        frames = [x[:, at : at + 16] * window for at in range(0, 40 - 16 + 1, step)]
        expected = np.fft.rfft(np.stack(frames, axis=1))
        y = run({"x0": x, "x1": np.int64(step), "x2": window})["y0"]
        same(y[..., 0] + 1j * y[..., 1], expected.astype(np.complex64), rtol=1e-4, atol=1e-4)
    for wrong, sentence in ((0, "frame_step has to be at least 1"), (-3, "a negative")):
        with pytest.raises(athanor.RunError, match=sentence):
            run({"x0": x, "x1": np.int64(wrong), "x2": window})
