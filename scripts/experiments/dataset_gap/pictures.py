"""Pictures of a majority class, a minority class and all others: scikit-learn's digits, split into seen and unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from experiments.dataset_gap.recipe import STRIDES, Augmentation
from w2sd_video.errors import UserError

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_SEEN = 140  # of each class: the most that all ten have when every fifth is held out, and a multiple of 10
HELD_OUT = 5  # every so many-th picture of a class is never trained on


@dataclass(frozen=True)
class Pictures:
    """Pictures [N, C, H, W] in [-1, 1] of the majority, of the minority and of the other classes."""

    majority: Tensor
    minority: Tensor
    others: Tensor

    def of_side(self, side: str) -> Pictures:
        """What a side is trained on: each 10th, 2nd or every picture of the minority; the sets are nested."""
        return Pictures(self.majority, self.minority[:: STRIDES[side]], self.others)

    @property
    def both(self) -> Tensor:
        """The majority's pictures, then the minority's."""
        return torch.cat([self.majority, self.minority])

    def halves(self) -> Pictures:
        """As many of the majority as of the minority: a reference in which the classes are balanced."""
        count = min(len(self.majority), len(self.minority))
        return Pictures(self.majority[:count], self.minority[:count], self.others)


@dataclass(frozen=True)
class Split:
    """Pictures that networks and judge are trained on, and pictures they never see."""

    seen: Pictures
    unseen: Pictures


def load_digits(majority: str = "two", minority: str = "eight") -> Split:
    """Two classes of scikit-learn's 1797 digits [N, 1, 8, 8], 140 of each seen and every fifth (34 or more) unseen.

    The split has no random draw. It does not separate the writers, who are not recorded.

    Raises:
        UserError: scikit-learn is missing.
    """
    by_class = digits_by_class()
    seen = {name: torch.stack([p for n, p in enumerate(all_) if (n + 1) % HELD_OUT]) for name, all_ in by_class.items()}
    seen = {name: pictures[:NUM_SEEN] for name, pictures in seen.items()}
    unseen = {name: pictures[HELD_OUT - 1 :: HELD_OUT] for name, pictures in by_class.items()}
    return Split(_arranged(seen, majority, minority), _arranged(unseen, majority, minority))


def digits_by_class() -> dict[str, Tensor]:
    """The digits [N, 1, 8, 8] in [-1, 1] by their names, in the data set's order.

    Raises:
        UserError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise UserError("the digits come with scikit-learn; in a clone: pip install -e '.[digits]'") from error
    pixels, labels = load(return_X_y=True)
    pictures = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1  # 0 .. 16 units of ink
    targets = torch.from_numpy(labels)
    return {name: pictures[targets == number] for number, name in enumerate(DIGIT_NAMES)}


def _arranged(by_class: Mapping[str, Tensor], majority: str, minority: str) -> Pictures:
    others = [pictures for name, pictures in by_class.items() if name not in (majority, minority)]
    return Pictures(by_class[majority], by_class[minority], torch.cat(others))


def augmented(pictures: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """The pictures [B, C, H, W], each turned, resized, shifted and mirrored by draws of its own; still in [-1, 1]."""
    count = len(pictures)
    draws = torch.rand(count, 5, generator=generator) * 2 - 1
    if how.mirror:
        pictures = torch.where((draws[:, 4] < 0)[:, None, None, None], pictures.flip(3), pictures)
    if not (how.turn or how.resize or how.shift):
        return pictures
    angle, size = draws[:, 0] * math.radians(how.turn), 1 + how.resize * draws[:, 1]
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    transform = torch.cat([rows * size[:, None, None], 2 * how.shift * draws[:, 2:4, None]], dim=2)
    grid = functional.affine_grid(transform, list(pictures.shape), align_corners=False)
    # Beyond the border is black, which grid_sample calls 0. Cubic: a linear one would blur 8 x 8 pixels visibly.
    moved = functional.grid_sample(pictures + 1, grid, mode="bicubic", align_corners=False) - 1
    return moved.clamp(-1, 1)
