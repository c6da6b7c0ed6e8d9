"""The handwritten digits of scikit-learn (1797 grey 8 x 8 pictures, UCI optdigits), and the pictures made of them.

A picture is RGB, 32 x 32, values in [0, 1], white ink on black; a scan is what was digitised, [1, 8, 8] in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from w2sd_video.errors import UserError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_CLASSES = len(NAMES)
SCAN_SIZE, SIZE = 8, 32
PARTS = ("train", "test")
LEVELS = 16  # of ink in a scan


@dataclass(frozen=True)
class Digits:
    """Scans [N, 1, 8, 8] in [0, 1] and what they show, [N] in 0 .. 9."""

    scans: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load(part: str) -> Digits:
    """The "train" part (1352 digits) or the "test" part (445): of each class every fourth scan.

    Nothing trains on the test part. The split has no random draw, and does not separate the writers.

    Raises:
        UserError: another part, or scikit-learn is missing.
    """
    if part not in PARTS:
        raise UserError(f"the part is {part!r}; choose one of {', '.join(PARTS)}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the digits come with scikit-learn; in a clone: pip install -e '.[digits]'") from error
    pixels, targets = load_digits(return_X_y=True)
    scans = torch.from_numpy(pixels).float().view(-1, 1, SCAN_SIZE, SCAN_SIZE) / LEVELS
    labels = torch.from_numpy(targets).long()
    # How many of its class came before each scan, itself included.
    rank = functional.one_hot(labels, NUM_CLASSES).cumsum(0).gather(1, labels[:, None]).squeeze(1)
    chosen = (rank % 4 == 0) == (part == "test")
    return Digits(scans[chosen], labels[chosen])


def to_pictures(scans: Tensor) -> Tensor:
    """Pictures [N, 3, 32, 32] of scans [N, 1, 8, 8], enlarged smoothly."""
    grey = functional.interpolate(scans, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return grey.expand(-1, 3, -1, -1)


def to_scans(pictures: Tensor) -> Tensor:
    """Scans [N, 1, 8, 8] of pictures [N, 3, 32, 32]: the mean of each square of 4 x 4 grey values."""
    return functional.avg_pool2d(pictures.mean(dim=1, keepdim=True), SIZE // SCAN_SIZE)
