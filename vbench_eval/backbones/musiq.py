"""MUSIQ (Ke et al., ICCV 2021), which rates technical image quality, with its SPAQ weights, as a frame scorer.

A frame becomes 32x32 patches at three sizes, each with a hashed position and its size's number; VBench's resizing comes
before that. It is written out here: pyiqa, which VBench takes it from, needs torchvision, which cannot be depended on
(it must match torch's build, and many machines have none), and is not for commercial use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.profiles import IMAGING_MODES
from vbench_eval.resizing import IMAGING_SIDE, centre_crop, imaging_size, resize, to_float

PATCH = 32
LONGER_SIDES = (224, 384)  # of the two smaller copies; the frame itself comes last
GRID = 10  # positions are hashed to a grid of this many rows and columns


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the pads before and after a side with which ceil(size / stride) windows fit; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Returns `[..., H, W]` with zeros around it as TensorFlow's "SAME" puts them."""
    (top, bottom), (left, right) = (same_padding(side, kernel, stride) for side in x.shape[-2:])
    return F.pad(x, (left, right, top, bottom)) if any((left, right, top, bottom)) else x


def tokens(frames: Tensor, *, longer_sides: tuple[int, ...] = LONGER_SIDES) -> tuple[Tensor, Tensor, Tensor]:
    """Returns patches `[B, N, 3, 32, 32]`, positions `[N]` and scales `[N]` of frames `[B, 3, H, W]` in -1..1.

    The published network pads the smaller copies of oblong frames to as many patches as a square has, and masks those;
    masked patches weigh exp(-1000) = 0, so here there are none.
    """
    height, width = frames.shape[-2:]
    copies = []
    for side in longer_sides:
        ratio = side / max(height, width)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        copies.append(F.interpolate(frames, size=size, mode="bicubic", align_corners=False))
    patches, positions, scales = [], [], []
    for scale, copy in enumerate([*copies, frames]):
        patches.append(cut(copy))
        rows, columns = (-(-side // PATCH) for side in copy.shape[-2:])
        positions.append(hashed_positions(rows, columns, frames.device))
        scales.append(torch.full_like(positions[-1], scale))
    return torch.cat(patches, dim=1), torch.cat(positions), torch.cat(scales)


def cut(frames: Tensor) -> Tensor:
    """Returns the 32x32 patches `[B, rows * columns, 3, 32, 32]` of frames padded with zeros to multiples of 32."""
    padded = pad_same(frames, PATCH, PATCH)
    batch, channels = padded.shape[:2]
    return F.unfold(padded, PATCH, stride=PATCH).transpose(1, 2).reshape(batch, -1, channels, PATCH, PATCH)


def hashed_positions(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns for each of rows x columns patches its cell, row * 10 + column, in the 10x10 grid stretched over them."""
    cells = torch.arange(GRID, dtype=torch.float32)[None, None]
    # By interpolation rather than integer division: the two round apart at some sizes over 200 patches.
    row, column = (F.interpolate(cells, count, mode="nearest")[0, 0].long() for count in (rows, columns))
    return (row[:, None] * GRID + column[None]).flatten().to(device)


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


BATCH = 4  # frames at a time: a frame is some 340 patches, whose stem takes 22 MB


class MusiqScorer:
    """Rates frames in MUSIQ's own unit, nominally 0 (bad) to 100."""

    low, high = 0.0, 100.0

    def __init__(self, network: Musiq, *, provenance: Mapping[str, Any], antialias: bool, mode: str = "longer") -> None:
        """`mode` is VBench's imaging_quality_preprocessing_mode; raises UserError for one that it does not know."""
        if mode not in IMAGING_MODES:
            raise UserError(f"imaging mode is {mode!r}; choose one of {', '.join(IMAGING_MODES)}")
        self.name = str(provenance["id"])
        self._network, self._provenance = network, {**provenance, "mode": mode}
        self._antialias, self._mode = antialias, mode

    @torch.no_grad()
    def score(self, frames: Tensor) -> Tensor:
        """Returns ratings `[T]`, float32, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB."""
        device = self._network.head.weight.device
        ratings = [self._network(self.prepare(some.to(device))).float().cpu() for some in frames.split(BATCH)]
        return torch.cat(ratings)

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns the frames `[T, 3, h, w]` in about 0..1 as the network takes them."""
        height, width = frames.shape[1:3]
        size = imaging_size(height, width, self._mode)
        x = resize(to_float(frames), size, mode="bilinear", antialias=self._antialias)
        if self._mode == "shorter_centercrop" and size != (height, width):
            x = centre_crop(x, IMAGING_SIDE)
        return x / 255

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_musiq(
    path: Path,
    *,
    antialias: bool,
    mode: str = "longer",
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
    sizes: MusiqSizes | None = None,
) -> MusiqScorer:
    """Returns the scorer with the weights of a file (musiq_spaq_ckpt-358bb6af.pth, or its tensors as .safetensors)."""
    state = load_state(path, allow_pickle=allow_pickle)
    with torch.device("meta"):
        network = Musiq(sizes)
    load_strictly(network, state, source=str(path))
    placed(network, device, dtype)
    provenance = origin(WEIGHTS["musiq_spaq"], path, network, cache=cache)
    return MusiqScorer(network, provenance=provenance, antialias=antialias, mode=mode)
