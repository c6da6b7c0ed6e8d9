"""UMT-L/16 (Unmasked Teacher, arXiv 2303.16058), fine-tuned on Kinetics-400: sixteen frames to the action they show."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.files import read_bytes
from vbench_eval.resizing import centre_crop, shorter_side_size, to_float

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PRETRAINED_FRAMES = 8  # whose positions are stretched over the frames there are
UNIT = 2048  # weights of the integer resize


@dataclass(frozen=True)
class UmtSizes:
    """The published network's."""

    side: int = 224
    patch: int = 16
    frames: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    classes: int = 400
    shorter: int = 256  # to which frames are shrunk before the middle is cut out


class _Attention(nn.Module):
    """Queries and values have a bias, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        parts = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Patches(nn.Module):
    def __init__(self, sizes: UmtSizes) -> None:
        super().__init__()
        patch = (1, sizes.patch, sizes.patch)
        self.proj = nn.Conv3d(3, sizes.width, patch, patch)


class Umt(nn.Module):
    """A vision transformer over the patches of all frames; their mean is classified."""

    def __init__(self, sizes: UmtSizes) -> None:
        super().__init__()
        self.sizes = sizes
        places = (sizes.side // sizes.patch) ** 2
        self.patch_embed = _Patches(sizes)
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.frames * places, sizes.width))
        self.blocks = nn.ModuleList(_Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.fc_norm = nn.LayerNorm(sizes.width, eps=1e-6)
        self.head = nn.Linear(sizes.width, sizes.classes)

    def forward(self, video: Tensor) -> Tensor:
        """Returns logits `[B, classes]` of videos `[B, 3, T, H, W]`."""
        x = self.patch_embed.proj(video).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x.mean(1)))


def initial_positions(sizes: UmtSizes) -> Tensor:
    """Returns the table `[1, frames * places, width]` that training began with: sines over eight frames, stretched.

    A checkpoint without a table of its own has this one.
    """
    places = (sizes.side // sizes.patch) ** 2
    channel = torch.arange(sizes.width)
    rates = torch.pow(torch.tensor(10000.0, dtype=torch.float64), -2 * (channel // 2).double() / sizes.width)
    angles = torch.arange(PRETRAINED_FRAMES * places).double()[:, None] * rates
    table = torch.where(channel % 2 == 0, angles.sin(), angles.cos()).float()
    if sizes.frames == PRETRAINED_FRAMES:
        return table[None]
    table = table.reshape(PRETRAINED_FRAMES, places, sizes.width).permute(1, 2, 0)
    stretched = F.interpolate(table, size=sizes.frames, mode="linear")
    return stretched.permute(2, 0, 1).reshape(1, sizes.frames * places, sizes.width)


class ActionClassifier:
    """Videos to each action's probability, behind VBench's resizing: shorter side to 256, in integers; the middle."""

    def __init__(self, network: Umt, labels: Sequence[str], *, provenance: Mapping[str, Any]) -> None:
        self.name = str(provenance["id"])
        self.num_frames, self.labels = network.sizes.frames, tuple(labels)
        if len(self.labels) != network.sizes.classes:
            raise UserError(
                f"{len(self.labels)} labels are given and the network knows {network.sizes.classes} actions"
            )
        self._network, self._provenance = network, dict(provenance)

    def shrink(self, frames: Tensor) -> Tensor:
        """Returns the middle squares `[T, n, n, 3]`, uint8."""
        sizes = self._network.sizes
        small = integer_resize(frames.cpu().numpy(), shorter_side_size(frames.shape[1], frames.shape[2], sizes.shorter))
        return centre_crop(torch.from_numpy(small).permute(0, 3, 1, 2), sizes.side).permute(0, 2, 3, 1)

    @torch.no_grad()
    def probabilities(self, frames: Tensor) -> Tensor:
        """Returns each label's probability by itself, `[labels]`, float32, on the CPU, of shrunk frames."""
        weight = self._network.head.weight
        mean, std = (torch.tensor(values, device=weight.device)[:, None, None] for values in (MEAN, STD))
        x = (to_float(frames.to(weight.device)) / 255 - mean) / std
        return self._network(x.permute(1, 0, 2, 3)[None].to(weight.dtype))[0].float().sigmoid().cpu()

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def integer_resize(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns frames `[T, H, W, 3]` at `size` (h, w), bilinear and unfiltered, as OpenCV computes it on integers.

    Its weights are 2048ths, and it takes the mean of four pixels where both sides are halved.
    """
    height, width = frames.shape[1:3]
    if (height, width) == size:
        return frames
    if (height, width) == (2 * size[0], 2 * size[1]):
        x = frames.astype(np.int32)
        rows = x[:, 0::2] + x[:, 1::2]
        return ((rows[:, :, 0::2] + rows[:, :, 1::2] + 2) >> 2).astype(np.uint8)
    (top, bottom, b0, b1), (left, right, a0, a1) = _places(height, size[0]), _places(width, size[1])
    x = frames.astype(np.int32)
    across = (x[:, :, left] * a0[:, None] + x[:, :, right] * a1[:, None]) >> 4
    down = ((across[:, top] * b0[:, None, None]) >> 16) + ((across[:, bottom] * b1[:, None, None]) >> 16)
    return ((down + 2) >> 2).astype(np.uint8)


def _places(
    before: int, after: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """For each new pixel the two old ones it lies between, and their weights."""
    place = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = (place - first).astype(np.float32)
    part[(first < 0) | (first >= before - 1)] = 0
    first = first.clip(0, before - 1)
    weights = [np.rint(share * np.float32(UNIT)).astype(np.int32) for share in (np.float32(1) - part, part)]
    return first, np.minimum(first + 1, before - 1), weights[0], weights[1]


def read_labels(path: Path) -> tuple[str, ...]:
    """Returns the actions of a list "name<TAB>number" in the order of their numbers, in lower case."""
    try:
        lines = [line.split("\t") for line in read_bytes(path, "list of actions").decode("utf-8").splitlines() if line]
        names = {int(number): name.strip().lower() for name, number in lines}
    except ValueError as error:
        raise UserError(f"list of actions {path} is no lines of a name, a tab and a number ({error})") from error
    if sorted(names) != list(range(len(lines))) or not names:
        raise UserError(f"list of actions {path} does not number its {len(names)} actions from 0 on")
    return tuple(names[number] for number in range(len(names)))


def load_umt(
    path: Path,
    labels: Path,
    *,
    sizes: UmtSizes | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> ActionClassifier:
    """Returns the classifier of a checkpoint (l16_ptk710_ftk710_ftk400_f16_res224.pth); UserError for another's names.

    VBench loads it with gaps allowed; here only the table of positions may be missing, which is then the initial one.
    """
    sizes = sizes or UmtSizes()
    state = load_state(path, allow_pickle=allow_pickle)
    state.setdefault("pos_embed", initial_positions(sizes))
    with torch.device("meta"):
        network = Umt(sizes)
    load_strictly(network, state, source=str(path))
    placed(network, device, dtype)
    provenance = origin(WEIGHTS["umt_l16"], path, network, cache=cache)
    return ActionClassifier(network, read_labels(labels), provenance=provenance)
