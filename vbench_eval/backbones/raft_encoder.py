"""RAFT's two encoders: a residual network from frames to feature maps of an eighth of their sides."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["instance", "batch"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    # Instance normalisation has no parameters here, so that its layers leave no key in the published file.
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.BatchNorm2d(channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip, which is a 1x1 convolution where the block halves the sides."""

    def __init__(self, inputs: int, outputs: int, *, norm: Norm, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm1 = _norm(norm, outputs)
        self.norm2 = _norm(norm, outputs)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.norm3 = _norm(norm, outputs)
            # The same layer under two names, as in the published file, which has both.
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + y)


class Encoder(nn.Module):
    """Frames `[B, 3, H, W]` in -1..1 to features `[B, outputs, H/8, W/8]`."""

    def __init__(self, widths: tuple[int, int, int], outputs: int, *, norm: Norm) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 7, 2, padding=3)
        self.norm1 = _norm(norm, first)
        self.layer1 = self._layer(first, first, norm, stride=1)
        self.layer2 = self._layer(first, second, norm, stride=2)
        self.layer3 = self._layer(second, third, norm, stride=2)
        self.conv2 = nn.Conv2d(third, outputs, 1)

    @staticmethod
    def _layer(inputs: int, outputs: int, norm: Norm, *, stride: int) -> nn.Sequential:
        return nn.Sequential(
            ResidualBlock(inputs, outputs, norm=norm, stride=stride),
            ResidualBlock(outputs, outputs, norm=norm, stride=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))
