"""How the model of the machine cuts convolutions; test_conv2d.py runs what comes of it."""

import pytest

from athanor.schedules.conv_shape import ConvShape
from athanor.schedules.conv_tasks import choose_tiling
from athanor.targets import find_target


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("channels, size", [(1024, 64), (512, 100)])
def test_input_that_channel_tiles_share_stays_in_l2(name, channels, size):
    """Else every tile of channels fetches 16 MB or more from memory again."""
    target, steps = find_target(name), channels // 16
    shape = ConvShape(1, 16, size, size, 16, steps, (1, 1), 16, steps, size, size, 16, False)
    tiling = choose_tiling(shape, target)
    assert 4 * tiling.rows * size * channels <= target.l2_bytes // 2
