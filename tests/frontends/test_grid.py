"""GridSample and AffineGrid against ONNX Runtime."""

import itertools

import numpy as np
import pytest

from athanor.errors import CompileError

from .execute import check, floats, one_node, run, same
from .test_images import compare

PADDINGS = ("zeros", "border", "reflection")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("padding", "corners"), list(itertools.product(PADDINGS, (0, 1))), ids=str)
def test_grid_sample(mode, padding, corners):
    x, grid = floats(2, 3, 5, 7), floats(2, 4, 9, 2, seed=1) * 1.3
    options = dict(mode=mode, padding_mode=padding, align_corners=corners)
    compare("GridSample", [x, grid], opset=20, **options)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_grid_sample_of_volumes(mode, padding):
    x, grid = floats(1, 2, 3, 4, 5), floats(1, 2, 3, 5, 3, seed=1) * 1.3
    compare("GridSample", [x, grid], opset=20, mode=mode, padding_mode=padding)


def test_grid_sample_opset_16():
    x, grid = floats(1, 2, 4, 4), floats(1, 3, 3, 2, seed=1)
    compare("GridSample", [x, grid], opset=16, mode="bicubic")


def test_grid_sample_positions_without_a_place():
    """Infinite and NaN coordinates read nothing under zero padding; and never out of bounds."""
    grid = np.array([np.inf, 0, -np.inf, 0, np.nan, 0, 1e30, 0, 0, 0], np.float32)
    x = np.ones((1, 1, 3, 3), np.float32)
    model = one_node("GridSample", [x, grid.reshape(1, 1, 5, 2)], opset=20)
    (result,) = run(model, [x, grid.reshape(1, 1, 5, 2)])
    np.testing.assert_allclose(result.reshape(-1), [0, 0, 0, 0, 1])


@pytest.mark.parametrize("padding", PADDINGS)
def test_grid_sample_of_one_element(padding):
    x, grid = np.full((1, 1, 1, 1), 3, np.float32), floats(1, 2, 2, 2)
    compare("GridSample", [x, grid], opset=20, mode="nearest", padding_mode=padding)


def test_grid_sample_types():
    x = np.arange(24, dtype=np.int32).reshape(1, 2, 3, 4)
    check("GridSample", [x, floats(1, 3, 3, 2)], opset=20, mode="nearest")
    half = floats(1, 2, 3, 4, dtype=np.float16)
    check("GridSample", [half, floats(1, 3, 3, 2)], opset=20, rtol=2e-3, atol=2e-3)


def test_grid_sample_with_a_symbolic_size():
    x, grid = floats(1, 2, 6, 5), floats(1, 3, 3, 2, seed=1)
    model = one_node(
        "GridSample", [x, grid], opset=20, shapes={0: ["n", 2, "h", "w"]}, padding_mode="reflection"
    )
    fixed = one_node("GridSample", [x, grid], opset=20, padding_mode="reflection")
    same(run(model, [x, grid])[0], run(fixed, [x, grid])[0])


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [[2, 1, 4, 5], [2, 3, 2, 3, 4]], ids=str)
def test_affine_grid(size, corners):
    rank = len(size) - 2
    theta = floats(2, rank, rank + 1)
    options = dict(opset=20, constants=(1,), align_corners=corners)
    check("AffineGrid", [theta, np.array(size)], **options)


@pytest.mark.parametrize(
    ("inputs", "attributes", "sentence"),
    [
        ([(1, 1, 4, 4), (1, 2, 2, 3)], {}, r"grid .* does not fit input"),
        ([(2, 1, 4, 4), (1, 2, 2, 2)], {}, r"another batch size"),
        ([(1, 1, 0, 4), (1, 2, 2, 2)], {}, r"no elements to sample"),
        ([(1, 1, 4, 4), (1, 2, 2, 2)], {"mode": "odd"}, r"mode='odd'"),
    ],
)
def test_refused(inputs, attributes, sentence):
    arrays = [floats(*shape) for shape in inputs]
    model = one_node("GridSample", arrays, opset=20)
    for name, value in attributes.items():
        node = model.graph.node[0]
        node.attribute.add(name=name, type=3, s=value.encode())
    with pytest.raises(CompileError, match=sentence):
        run(model, arrays)
