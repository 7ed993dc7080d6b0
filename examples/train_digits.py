"""Trains a small convolutional network on scikit-learn's digits and writes examples/digits.onnx.

    python examples/train_digits.py [OUTPUT.onnx [EPOCHS]]

NumPy alone: forward and backward pass are written out below. Seeded; half a minute on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 7
EPOCHS = 40
BATCH = 32
STEP = 2e-3
DIGITS_ONNX = Path(__file__).with_name("digits.onnx")


def split_digits():
    """(train images, train labels, held-out images, held-out labels); a third is held out.

    Images are float32 of shape (count, 1, 8, 8) with values in [0, 1].
    """
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    train, held, train_labels, held_labels = train_test_split(
        images, data.target, test_size=1 / 3, random_state=SEED, stratify=data.target
    )
    return train, train_labels, held, held_labels


def columns(x):
    """3x3 neighbourhoods with zero padding: (n, c, h, w) -> (n, h, w, c * 9)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


class Conv:
    """3x3 convolution that keeps the image's size, and ReLU."""

    def __init__(self, rng, inputs, outputs):
        scale = np.sqrt(2 / (inputs * 9))
        self.weight = rng.normal(0, scale, (outputs, inputs, 3, 3)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)

    def forward(self, x):
        self.columns = columns(x)
        y = self.columns @ self.weight.reshape(len(self.bias), -1).T + self.bias
        self.active = y > 0
        return np.maximum(y, 0).transpose(0, 3, 1, 2)

    def backward(self, grad):
        grad = grad.transpose(0, 2, 3, 1) * self.active
        flat = grad.reshape(-1, len(self.bias))
        inner = self.columns.reshape(len(flat), -1)
        self.grads = [(flat.T @ inner).reshape(self.weight.shape), flat.sum(0)]
        # The gradient of the input is a convolution with the flipped, transposed weight.
        flipped = self.weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        spread = columns(grad.transpose(0, 3, 1, 2))
        return (spread @ flipped.reshape(len(flipped), -1).T).transpose(0, 3, 1, 2)


class Pool:
    """Largest value of each 2x2 square."""

    def forward(self, x):
        n, c, h, w = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y = squares.max((3, 5))
        hit = squares == y[:, :, :, None, :, None]
        self.share = hit / hit.sum((3, 5), keepdims=True)
        return y

    def backward(self, grad):
        n, c, h, w = grad.shape
        spread = self.share * grad[:, :, :, None, :, None]
        return spread.reshape(n, c, h * 2, w * 2).astype(np.float32)

    grads = ()


class Dense:
    """Matrix product on the flattened input, with ReLU unless it is the last."""

    def __init__(self, rng, inputs, outputs, relu):
        scale = np.sqrt(2 / inputs)
        self.weight = rng.normal(0, scale, (outputs, inputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.relu = relu

    def forward(self, x):
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        y = self.x @ self.weight.T + self.bias
        self.active = (y > 0) | (not self.relu)
        return y * self.active

    def backward(self, grad):
        grad = grad * self.active
        self.grads = [grad.T @ self.x, grad.sum(0)]
        return (grad @ self.weight).reshape(self.shape)


class Network:
    """Conv 16, pool, Conv 32, pool, Dense 96, Dense 10."""

    def __init__(self, rng):
        self.layers = [
            Conv(rng, 1, 16),
            Pool(),
            Conv(rng, 16, 32),
            Pool(),
            Dense(rng, 128, 96, relu=True),
            Dense(rng, 96, 10, relu=False),
        ]
        self.moments = {}

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def step(self, x, labels, number, rate):
        """One step of Adam on the cross entropy."""
        scores = self.forward(x)
        grad = np.exp(scores - scores.max(1, keepdims=True))
        grad /= grad.sum(1, keepdims=True)
        grad[np.arange(len(x)), labels] -= 1
        grad /= len(x)
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        for index, layer in enumerate(self.layers):
            for name, slope in zip(("weight", "bias"), layer.grads, strict=False):
                value = getattr(layer, name)
                mean, square = self.moments.get((index, name), (0, 0))
                mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
                self.moments[index, name] = mean, square
                ratio = mean / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
                value -= (rate * ratio).astype(np.float32)


def shifted(rng, x):
    """Each image moved by up to one pixel: more digits than there are in the data."""
    down, right = rng.integers(-1, 2, (2, len(x)))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.stack(
        [p[:, 1 + d : 9 + d, 1 + r : 9 + r] for p, d, r in zip(padded, down, right, strict=True)]
    )


def train(epochs=EPOCHS):
    """A trained network."""
    rng = np.random.default_rng(SEED)
    images, labels, held, held_labels = split_digits()
    network, number = Network(rng), 0
    for epoch in range(epochs):
        rate = STEP * (1 + np.cos(np.pi * epoch / epochs)) / 2
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            number += 1
            network.step(shifted(rng, images[chosen]), labels[chosen], number, rate)
        accuracy = (network.forward(held).argmax(1) == held_labels).mean()
        print(f"epoch {epoch + 1:2d} of {epochs}: {accuracy:.2%} of the held-out third", flush=True)
    return network


def to_onnx(network):
    """The network as an ONNX model with a symbolic batch, softmax at the end."""
    conv1, _, conv2, _, dense1, dense2 = network.layers
    named = {"conv1": conv1, "conv2": conv2, "dense1": dense1, "dense2": dense2}
    weights = [
        numpy_helper.from_array(getattr(layer, kind), f"{name}.{kind}")
        for name, layer in named.items()
        for kind in ("weight", "bias")
    ]
    nodes = []

    def node(op, name, source, weighted=False, **attributes):
        inputs = [source, *([f"{name}.weight", f"{name}.bias"] if weighted else [])]
        nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    value = "image"
    for index in (1, 2):
        value = node("Conv", f"conv{index}", value, True, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        value = node("Relu", f"relu{index}", value)
        value = node("MaxPool", f"pool{index}", value, kernel_shape=[2, 2], strides=[2, 2])
    value = node("Flatten", "flatten", value)
    value = node("Relu", "relu3", node("Gemm", "dense1", value, True, transB=1))
    value = node("Gemm", "dense2", value, True, transB=1)
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    model.producer_name = "athanor examples/train_digits.py"
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS_ONNX
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else EPOCHS
    onnx.save(to_onnx(train(epochs)), output)
    print(f"wrote {output} ({output.stat().st_size / 1000:.0f} KB)")
