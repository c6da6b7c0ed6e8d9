"""Have the networks learnt pictures by heart? Distances to the nearest picture that a side was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.dataset_gap.judge import MAJORITY, MINORITY
from experiments.dataset_gap.pictures import Split
from experiments.dataset_gap.recipe import SIDES
from experiments.dataset_gap.scoring import Score


@dataclass(frozen=True)
class Nearness:
    """Of one side and class: the median distance to the nearest of `num_trained` pictures, in units of pixel values."""

    side: str
    kind: str
    num_trained: int
    num_samples: int
    of_samples: float
    of_unseen: float


def nearest(pictures: Tensor, known: Tensor) -> Tensor:
    """The Euclidean distance [N] of each picture to the nearest known one."""
    return torch.cdist(pictures.flatten(1), known.flatten(1)).amin(dim=1)


def nearness(side: str, score: Score, split: Split) -> list[Nearness]:
    """For both classes: samples of a side, and unseen pictures, against what the side was trained on."""
    trained = split.seen.of_side(side)
    pictures = score.pictures.float() / 127.5 - 1
    rows = []
    for kind, number in (("majority", MAJORITY), ("minority", MINORITY)):
        known, unseen = getattr(trained, kind), getattr(split.unseen, kind)
        chosen = pictures[score.of_class(number)]
        if len(chosen):
            medians = (nearest(some, known).median().item() for some in (chosen, unseen))
            rows.append(Nearness(side, kind, len(known), len(chosen), *medians))
    return rows


def table(rows: list[Nearness]) -> str:
    """A Markdown table."""
    lines = [
        "| side | class | trained on | samples | nearest training picture: samples (median) | held-out pictures |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.side} | {row.kind} | {row.num_trained} | {row.num_samples} "
        f"| {row.of_samples:.2f} | {row.of_unseen:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def of_sides(scores: dict[str, Score], split: Split) -> list[Nearness]:
    """`nearness` of each side that is scored."""
    return [row for side in SIDES if side in scores for row in nearness(side, scores[side], split)]
