"""MUSIQ (Ke et al., ICCV 2021), the network that rates technical image quality, in the shape of its SPAQ weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.musiq_patches import GRID, LONGER_SIDES, PATCH, pad_same, tokens

STEM = 64  # channels of the stem; its block puts out four times as many


@dataclass(frozen=True)
class MusiqSizes:
    """The sizes of the transformer and of the smaller copies it sees; the defaults are those of the published file."""

    hidden: int = 384
    mlp: int = 1152
    heads: int = 6
    layers: int = 14
    longer_sides: tuple[int, ...] = LONGER_SIDES


class StandardizedConv(nn.Conv2d):
    """A convolution without bias and with "SAME" padding, whose weights are standardised per output channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardizedConv(inputs, inputs, 1), nn.GroupNorm(32, inputs, eps=1e-4)
        self.conv2, self.gn2 = StandardizedConv(inputs, inputs, 3), nn.GroupNorm(32, inputs, eps=1e-4)
        self.conv3, self.gn3 = StandardizedConv(inputs, outputs, 1), nn.GroupNorm(32, outputs, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardizedConv(inputs, outputs, 1), nn.GroupNorm(32, outputs, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.gn1(self.conv1(x)))
        y = torch.relu(self.gn2(self.conv2(y)))
        return torch.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x)))


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, width), nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, sizes: MusiqSizes) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(sizes.hidden, eps=1e-6), Attention(sizes.hidden, sizes.heads)
        self.norm2, self.mlp = nn.LayerNorm(sizes.hidden, eps=1e-6), Mlp(sizes.hidden, sizes.mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PositionTable(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, GRID * GRID, hidden))


class ScaleTable(nn.Module):
    def __init__(self, hidden: int, scales: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(scales, hidden))


class TokenEncoder(nn.Module):
    """Embedded patches to the state of the token that stands for the whole frame, which has no position."""

    def __init__(self, sizes: MusiqSizes) -> None:
        super().__init__()
        self.posembed_input = PositionTable(sizes.hidden)
        self.scaleembed_input = ScaleTable(sizes.hidden, len(sizes.longer_sides) + 1)
        self.cls = nn.Parameter(torch.zeros(1, 1, sizes.hidden))
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": EncoderBlock(sizes) for i in range(sizes.layers)})
        self.encoder_norm = nn.LayerNorm(sizes.hidden, eps=1e-6)

    def forward(self, x: Tensor, positions: Tensor, scales: Tensor) -> Tensor:
        x = x + self.posembed_input.position_emb[0, positions] + self.scaleembed_input.scale_emb[scales]
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x)[:, 0]


class Musiq(nn.Module):
    """Frames to one rating each."""

    def __init__(self, sizes: MusiqSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or MusiqSizes()
        self.sizes = sizes
        self.conv_root, self.gn_root = StandardizedConv(3, STEM, 7, 2), nn.GroupNorm(32, STEM, eps=1e-6)
        self.block1 = Bottleneck(STEM, 4 * STEM)
        self.embedding = nn.Linear(4 * STEM * (PATCH // 4) ** 2, sizes.hidden)
        self.transformer_encoder = TokenEncoder(sizes)
        self.head = nn.Linear(sizes.hidden, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Returns ratings `[B]`, nominally 0..100, of frames `[B, 3, H, W]` in 0..1."""
        patches, positions, scales = tokens((frames - 0.5) * 2, longer_sides=self.sizes.longer_sides)
        batch, count = patches.shape[:2]
        x = torch.relu(self.gn_root(self.conv_root(patches.flatten(0, 1).to(self.head.weight.dtype))))
        x = F.max_pool2d(pad_same(x, 3, 2), 3, stride=2)  # zeros around are harmless: nothing is below them
        x = self.block1(x).permute(0, 2, 3, 1).reshape(batch, count, -1)  # rows, columns, channels, as in TensorFlow
        return self.head(self.transformer_encoder(self.embedding(x), positions, scales))[:, 0]
