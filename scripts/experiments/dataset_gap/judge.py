"""The judge: a small classifier that says majority, minority or neither of a picture, and gives features of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from experiments.dataset_gap.pictures import Pictures, augmented
from experiments.dataset_gap.recipe import Augmentation, Recipe
from w2sd_video.errors import UserError

JUDGE = "judge"  # its folder, beside the networks'
MAJORITY, MINORITY, NEITHER = range(3)
NUM_FEATURES = 16  # few, so that tens of held-out pictures have a covariance


class Reading(NamedTuple):
    """What the judge sees in N pictures: `features` [N, 16], float64, and `classes` [N] in 0 .. 2."""

    features: Tensor
    classes: Tensor


class Judge(nn.Module):
    """Pictures [N, C, H, W] in [-1, 1] to logits [N, 3]; the layer before the last gives 16 features."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.shape = {"channels": channels, "size": size, "width": width}
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
        while size > 4:
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2)]
            size //= 2
        layers += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.2)]
        self.body = nn.Sequential(*layers, nn.Linear(2 * width * size * size, NUM_FEATURES))
        self.head = nn.Linear(NUM_FEATURES, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(functional.silu(self.body(pictures)))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Reading:
        """What the judge sees in pictures [N, C, H, W], in [-1, 1] or as uint8."""
        if pictures.dtype == torch.uint8:
            pictures = pictures.float() / 127.5 - 1
        features = torch.cat([self.body(part) for part in pictures.split(1000)])
        classes = self.head(functional.silu(features)).argmax(dim=1)
        return Reading(features.double().cpu(), classes.cpu())


def judging_loss(judge: nn.Module, seen: Pictures, recipe: Recipe) -> Callable[[torch.Generator], Tensor]:
    """Cross entropy over equally many pictures of the majority, of the minority and of what is neither.

    Neither are, a half, pictures of the other classes, a quarter blends of one picture of each of the two classes and a
    quarter pictures of the two under noise: what a bad sample looks like.
    """
    third = recipe.judge_phase.batch // 3
    labels = torch.arange(3).repeat_interleave(third)
    how = recipe.augmentation
    wider = Augmentation(1.5 * how.turn, 1.5 * how.resize, 1.5 * how.shift, how.mirror)
    device = next(judge.parameters()).device

    def pick(pictures: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return pictures[torch.randint(len(pictures), (count,), generator=generator)]

    def loss(generator: torch.Generator) -> Tensor:
        quarter = third // 4
        weight = 0.35 + 0.3 * torch.rand(quarter, 1, 1, 1, generator=generator)
        one, other = (pick(pictures, quarter, generator) for pictures in (seen.majority, seen.minority))
        blends = weight * one + (1 - weight) * other
        clean = pick(seen.both, quarter, generator)
        strength = 0.6 + 0.6 * torch.rand(quarter, 1, 1, 1, generator=generator)
        noisy = (clean + strength * torch.randn(clean.shape, generator=generator)).clamp(-1, 1)
        strangers = pick(seen.others, third - 2 * quarter, generator)
        known = [pick(pictures, third, generator) for pictures in (seen.majority, seen.minority)]
        batch = augmented(torch.cat([*known, strangers, blends, noisy]), wider, generator)
        return functional.cross_entropy(judge(batch.to(device)), labels.to(device))

    return loss


def verdicts(judge: Judge, pictures: Pictures) -> dict[str, tuple[int, int]]:
    """How many pictures of each kind the judge names rightly, and of how many."""
    kinds = {"majority": pictures.majority, "minority": pictures.minority, "neither": pictures.others}
    classes = {kind: judge.read(some).classes for kind, some in kinds.items()}
    return {kind: (int((classes[kind] == number).sum()), len(classes[kind])) for number, kind in enumerate(classes)}


def save_judge(judge: Judge, folder: Path, **facts: Any) -> None:
    """Write the weights (float16) to `folder`, and its shape and `facts` about it to its `judge.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().cpu() for name, tensor in judge.state_dict().items()}, folder / "judge.safetensors")
    (folder / "judge.json").write_text(json.dumps(judge.shape | facts, indent=2) + "\n", encoding="utf-8")


def load_judge(folder: Path) -> Judge:
    """The judge that `save_judge` wrote to `folder`, in float32.

    Raises:
        UserError: there is none, or its files are damaged.
    """
    try:
        facts = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
        judge = Judge(*(int(facts[name]) for name in ("channels", "size", "width")))
        judge.load_state_dict({name: t.float() for name, t in load_file(folder / "judge.safetensors").items()})
    except Exception as error:  # of safetensors, of json and of torch alike
        raise UserError(f"{folder} holds no judge ({error}); make it with scripts/train_dataset_gap.py") from error
    return judge.eval()
