"""ResNet-50 and BERT-base as plain torch modules, to compare with; random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and what goes around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.around = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) -> (n, 4 * width, h / stride, w / stride)."""
        return torch.relu(self.body(x) + self.around(x))


def resnet50() -> nn.Module:
    """(n, 3, 224, 224) -> (n, 1000)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(inputs, 64 << stage, stride))
            inputs = 4 * (64 << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class BertBase(nn.Module):
    """Embeddings, twelve layers and the pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, 768)
        self.positions = nn.Embedding(512, 768)
        self.types = nn.Embedding(2, 768)
        self.norm = nn.LayerNorm(768)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.pooler = nn.Linear(768, 768)

    def forward(self, ids: torch.Tensor, *_rest: torch.Tensor) -> torch.Tensor:
        """(n, length) -> (n, 768)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        embedded = self.words(ids) + self.positions(places) + self.types(torch.zeros_like(ids))
        return torch.tanh(self.pooler(self.layers(self.norm(embedded))[:, 0]))


class Product(nn.Module):
    """torch.matmul."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(n, k), (k, m) -> (n, m)."""
        return torch.matmul(a, b)


def find_module(model: str) -> Any | None:
    """The module that computes what a packed model of that name does, or None."""
    for text, make in (("resnet50", resnet50), ("bert", BertBase), ("product", Product)):
        if text in model:
            return make().eval()
    return None
