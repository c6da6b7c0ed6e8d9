"""Write what was trained in real formats: a diffusers folder for each network, float16, and the judge beside them."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DModel
from torch import nn

from experiments.dataset_gap.judge import Judge, save_judge, verdicts
from experiments.dataset_gap.pictures import Pictures
from experiments.dataset_gap.recipe import Recipe

JUDGE = "judge"


def export_judge(output: Path, recipe: Recipe, judge: Judge, unseen: Pictures) -> None:
    """Save the judge to `output/judge`, with how many unseen pictures of each kind it names rightly."""
    right = {kind: list(counts) for kind, counts in verdicts(judge.eval(), unseen).items()}
    save_judge(judge, output / JUDGE, majority=recipe.majority, minority=recipe.minority, right_of_unseen=right)


def export_network(output: Path, path: str, side: str, network: UNet2DModel) -> None:
    """Save a network to `output/<path>/<side>`."""
    nn.Module.half(network).save_pretrained(output / path / side)
