"""The tokens MUSIQ sees: 32x32 patches of a frame at three sizes, each with a hashed position and its size's number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
