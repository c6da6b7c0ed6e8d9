"""Sizes, resizes, crops and pads as VBench computes them, on float tensors `[T, 3, H, W]` in 0..255 or 0..1.

VBench resizes without an antialiasing filter and does not clamp what bicubic interpolation overshoots. No image
processor of another library is used: they filter, and differ by 5 grey levels on average on a noisy frame.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vbench_eval.profiles import IMAGING_MODES

Interpolation = Literal["bilinear", "bicubic"]
Pads = tuple[int, int, int, int]  # left, right, top, bottom
IMAGING_SIDE = 512


def to_float(frames: Tensor) -> Tensor:
    """Returns frames `[T, H, W, 3]`, uint8, as float32 `[T, 3, H, W]` in 0..255."""
    return frames.permute(0, 3, 1, 2).float()


def shorter_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the (height, width) whose shorter side is `side`; the longer one is cut, not rounded, to an integer."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def imaging_size(height: int, width: int, mode: str = "longer") -> tuple[int, int]:
    """Returns the (height, width) to which imaging_quality shrinks frames: the longer or the shorter side to 512.

    Smaller frames stay as they are; "None" (the word) changes nothing. "shorter_centercrop" is resized like "shorter".
    """
    if mode not in IMAGING_MODES:
        raise ValueError(f"imaging mode is {mode!r}; choose one of {', '.join(IMAGING_MODES)}")
    side = max(height, width) if mode == "longer" else min(height, width)
    if mode == "None" or side <= IMAGING_SIDE:
        return height, width
    scale = IMAGING_SIDE / side
    return int(scale * height), int(scale * width)


def resize(frames: Tensor, size: tuple[int, int], *, mode: Interpolation, antialias: bool) -> Tensor:
    """Returns the frames at `size` (height, width), unclamped; the same tensor where the size is theirs already."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return F.interpolate(frames, size=size, mode=mode, align_corners=False, antialias=antialias)


def centre_crop(frames: Tensor, side: int) -> Tensor:
    """Returns the middle `side` x `side`; of two middles the one that Python's rounding (half to even) picks.

    Raises ValueError if a frame is smaller than that.
    """
    height, width = frames.shape[-2:]
    if height < side or width < side:
        raise ValueError(f"frames are {width}x{height}; a crop of {side}x{side} does not fit")
    top, left = round((height - side) / 2), round((width - side) / 2)
    return frames[..., top : top + side, left : left + side]


def pad_to_multiple(frames: Tensor, multiple: int) -> tuple[Tensor, Pads]:
    """Returns the frames with both sides brought to the next multiple by repeating their borders, and the pads.

    The extra is split in half, the odd pixel goes after (right, bottom).
    """
    height, width = frames.shape[-2:]
    below, beside = -height % multiple, -width % multiple
    pads = (beside // 2, beside - beside // 2, below // 2, below - below // 2)
    return (F.pad(frames, pads, mode="replicate") if any(pads) else frames), pads


def unpad(frames: Tensor, pads: Pads) -> Tensor:
    """Returns the frames without the pads that `pad_to_multiple` gave them."""
    left, right, top, bottom = pads
    height, width = frames.shape[-2:]
    return frames[..., top : height - bottom, left : width - right]
