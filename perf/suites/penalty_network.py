"""ResNet-18 (He et al. 2016) in plain torch: 11.7 million parameters with 1000 outputs, as torchvision's."""

from __future__ import annotations

import math

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        shortcut = [nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)]
        self.shortcut = nn.Sequential(*(shortcut if stride != 1 or inside != outside else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(outputs: int, draw: torch.Generator) -> nn.Module:
    """With weights drawn as He et al. draw them."""
    blocks = [
        Block(inside, outside, stride)
        for before, outside, first in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        for inside, stride in ((before, first), (outside, 1))
    ]
    network = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, outputs),
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spread = math.sqrt(2.0 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * spread)
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) / math.sqrt(module.in_features))
                module.bias.zero_()
    return network
