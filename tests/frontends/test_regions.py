"""RoiAlign and MaxRoiPool against ONNX Runtime and the onnx reference."""

import numpy as np
import pytest

from .execute import check, floats, one_node, run
from .test_images import compare

ROIS = np.array([[0, 0, 8, 6], [2.5, 1, 9.5, 7.25], [-3, 2, 5, 20], [4, 4, 4, 4]], np.float32)
BATCH = np.array([0, 1, 1, 0], np.int64)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode, ratio, coordinates):
    compare(
        "RoiAlign",
        [floats(2, 3, 9, 11), ROIS, BATCH],
        opset=16,
        mode=mode,
        sampling_ratio=ratio,
        spatial_scale=0.75,
        output_height=3,
        output_width=2,
        coordinate_transformation_mode=coordinates,
    )


def test_roi_align_opset_10():
    compare("RoiAlign", [floats(2, 1, 9, 11), ROIS, BATCH], opset=10, output_height=2)


def test_roi_align_half_precision():
    x = floats(2, 2, 9, 11, dtype=np.float16)
    check("RoiAlign", [x, ROIS.astype(np.float16), BATCH], opset=16, rtol=1e-2, atol=1e-2)


def test_roi_align_stays_inside():
    """Regions without a place, and batch indices outside, read nothing they may not read."""
    rois = np.array([[np.nan] * 4, [np.inf, 0, np.inf, 1], [1e30, 0, 2e30, 1]], np.float32)
    batch = np.array([7, -3, 0], np.int64)
    x = floats(1, 1, 4, 4)
    model = one_node("RoiAlign", [x, rois, batch], opset=16, sampling_ratio=2)
    (result,) = run(model, [x, rois, batch])
    np.testing.assert_array_equal(result.reshape(-1), [0, 0, 0])


@pytest.mark.parametrize("size", [[2, 2], [3, 5]], ids=str)
def test_max_roi_pool(size):
    rois = np.concatenate([BATCH[:, None].astype(np.float32), ROIS], axis=1)
    rois = rois[[0, 1, 3]]  # ONNX Runtime leaves regions outside the image undefined
    options = dict(opset=1, pooled_shape=size, spatial_scale=0.75)
    compare("MaxRoiPool", [floats(2, 3, 9, 11), rois], **options)


def test_max_roi_pool_with_symbolic_sizes():
    x, rois = floats(2, 3, 9, 11), np.array([[1, 0, 0, 8, 6]], np.float32)
    options = dict(opset=1, pooled_shape=[2, 2])
    model = one_node(
        "MaxRoiPool", [x, rois], shapes={0: ["n", 3, "h", "w"], 1: ["r", 5]}, **options
    )
    fixed = one_node("MaxRoiPool", [x, rois], **options)
    np.testing.assert_array_equal(run(model, [x, rois])[0], run(fixed, [x, rois])[0])
