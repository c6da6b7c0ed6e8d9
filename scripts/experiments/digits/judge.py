"""The judge: a small classifier of digits, trained on the train part only, that reads what the network draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bridges.dit_moe.demo.digits import NUM_CLASSES, Digits, to_pictures, to_scans
from w2sd_video.errors import UserError

NUM_FEATURES = 32
JUDGE = "judge"  # its folder, inside the pipeline's


class Reading(NamedTuple):
    """What the judge sees in N pictures: `features` [N, 32] and the classes' `probabilities` [N, 10], float64."""

    features: Tensor
    probabilities: Tensor


class Judge(nn.Module):
    """Scans [N, 1, 8, 8] to logits [N, 10]; the layer before the last gives 32 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * 16, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, scans: Tensor) -> Tensor:
        return self.head(functional.silu(self.body(scans)))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Reading:
        """What the judge sees in pictures [N, 3, 32, 32], values in [0, 1] or 0 .. 255 as uint8."""
        if pictures.dtype == torch.uint8:
            pictures = pictures.float() / 255
        features = self.body(to_scans(pictures))
        logits = self.head(functional.silu(features))
        return Reading(features.double(), logits.double().softmax(dim=1))


def classification_loss(judge: nn.Module, digits: Digits, batch: int) -> Callable[[torch.Generator], Tensor]:
    """Cross entropy on scans shifted by up to one pixel, turned by up to 10 degrees and resized by up to 10 percent."""
    scans = to_scans(to_pictures(digits.scans))  # what a picture of them is reduced to

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(digits), (batch,), generator=generator)
        draws = torch.rand(batch, 4, generator=generator) * 2 - 1
        angle, size = draws[:, 0] * math.radians(10), 1 + 0.1 * draws[:, 1]
        shift = draws[:, 2:] * 2 / scans.shape[-1]
        rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
        grid = functional.affine_grid(
            torch.cat([rows * size[:, None, None], shift[:, :, None]], dim=2), [batch, *scans.shape[1:]], False
        )
        moved = functional.grid_sample(scans[chosen], grid, align_corners=False)
        return functional.cross_entropy(judge(moved), digits.labels[chosen])

    return loss


def accuracy(judge: Judge, digits: Digits) -> float:
    """The share of `digits` whose class the judge names."""
    probabilities = judge.read(to_pictures(digits.scans)).probabilities
    return (probabilities.argmax(dim=1) == digits.labels).double().mean().item()


def save_judge(judge: Judge, folder: Path, **facts: float | int) -> None:
    """Write the weights (float16) to `folder`, and `facts` about them to its `judge.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in judge.state_dict().items()}, folder / "judge.safetensors")
    (folder / "judge.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_judge(folder: Path) -> Judge:
    """The judge that `save_judge` wrote to `folder`, in float32.

    Raises:
        UserError: there is none.
    """
    path = folder / "judge.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with scripts/train_digits.py")
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return judge.eval()
