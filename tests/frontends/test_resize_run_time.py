"""Resize with operands and dims of the run: the same numbers as where they are known at import."""

import numpy as np
import pytest

import athanor
from athanor.errors import RunError

from .execute import floats, one_node, same

X = floats(2, 1, 5, 7)


def outputs(operands, constants, x=X, shapes=None, op="Resize", opset=19, **attributes):
    """The result of one node; operands by input index."""
    inputs = [x] + [operands.get(index) for index in range(1, max(operands) + 1)]
    node = one_node(op, inputs, opset=opset, constants=constants, shapes=shapes, **attributes)
    feeds = {f"x{i}": v for i, v in enumerate(inputs) if v is not None and i not in constants}
    return athanor.compile(node).load(threads=1).run(feeds)["y0"]


def check(operands, x=X, **options):
    known = outputs(operands, tuple(operands), x, **options)
    same(outputs(operands, (), x, **options), known, rtol=1e-5, atol=1e-6)
    named = {0: ["n", 1, "h", "w"]}
    same(outputs(operands, tuple(operands), x, named, **options), known, rtol=1e-5, atol=1e-6)


def scales(*values):
    return {2: np.array(values, np.float32)}


def sizes(*values):
    return {3: np.array(values, np.int64)}


@pytest.mark.parametrize(
    "coordinates",
    ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"],
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_coordinates(mode, coordinates):
    check(scales(1, 1, 0.6, 1.7), mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("factors", [(1, 1, 0.4, 0.15), (1, 1, 2, 0.5)])
def test_antialias(mode, factors):
    check(scales(*factors), mode=mode, antialias=1, exclude_outside=1)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(nearest):
    x = np.arange(2 * 5 * 7, dtype=np.int32).reshape(2, 1, 5, 7)
    check(sizes(2, 1, 10, 3), x, mode="nearest", nearest_mode=nearest)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_policies(policy):
    check(sizes(9, 9), axes=[3, 2], mode="linear", keep_aspect_ratio_policy=policy)


def test_region():
    roi = {1: np.array([0.1, -0.2, 0.8, 1.3], np.float32)}
    options = {"axes": [2, 3], "mode": "linear", "extrapolation_value": 9.5}
    check(roi | sizes(4, 6), coordinate_transformation_mode="tf_crop_and_resize", **options)


def test_sizes_that_make_no_sense():
    for wrong in (scales(1, 1, -1, 1), scales(1, 1, np.nan, 1), sizes(2, 1, -4, 7)):
        with pytest.raises(RunError, match="negative or an absurd size"):
            outputs(wrong, ())


def test_upsample():
    check({1: np.array([1, 1, 2, 3], np.float32)}, op="Upsample", opset=9, mode="linear")
