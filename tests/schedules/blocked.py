"""Convolution and pooling in NumPy, tap by tap, and the blocked layout."""

import numpy as np


def pack_channels(array, block=16):
    batch, channels, height, width = array.shape
    blocks = -(-channels // block)
    padded = np.zeros((batch, blocks * block, height, width), array.dtype)
    padded[:, :channels] = array
    split = padded.reshape(batch, blocks, block, height, width)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2))


def windows(data, kernel, strides, padding, dilation, fill):
    """One array (N, C, OH, OW) for each tap of a window, row by row."""
    top, left, bottom, right = padding
    data = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    size = [
        (data.shape[2 + i] - (kernel[i] - 1) * dilation[i] - 1) // strides[i] + 1 for i in (0, 1)
    ]
    for kh in range(kernel[0]):
        for kw in range(kernel[1]):
            rows = slice(kh * dilation[0], kh * dilation[0] + size[0] * strides[0], strides[0])
            columns = slice(kw * dilation[1], kw * dilation[1] + size[1] * strides[1], strides[1])
            yield data[:, :, rows, columns][:, :, : size[0], : size[1]]


def convolve(data, weight, strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """Reference convolution, NCHW and OIHW, summed in float64."""
    out_channels, group_in, *kernel = weight.shape
    taps = weight.astype("float64").reshape(groups, out_channels // groups, group_in, -1)
    total = 0.0
    for index, tap in enumerate(windows(data, kernel, strides, padding, dilation, 0)):
        grouped = tap.reshape(tap.shape[0], groups, group_in, *tap.shape[2:])
        total = total + np.einsum("goi,ngihw->ngohw", taps[..., index], grouped)
    return total.reshape(total.shape[0], out_channels, *total.shape[3:]).astype("float32")
