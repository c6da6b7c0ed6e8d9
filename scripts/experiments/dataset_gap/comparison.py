"""All that is measured beside the methods: exact models' shares, cosines, distances to training pictures, the judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.dataset_gap import expectation
from experiments.dataset_gap.cosines import Cosines, on_pictures, on_trajectories
from experiments.dataset_gap.judge import MAJORITY, MINORITY, NEITHER, Judge, verdicts
from experiments.dataset_gap.methods import METHODS, STEPS
from experiments.dataset_gap.networks import sampling_levels, sampling_path
from experiments.dataset_gap.pictures import Pictures, Split
from experiments.dataset_gap.recipe import STRIDES, Recipe
from experiments.dataset_gap.scoring import Score, World, noises
from experiments.dataset_gap.statistics import Interval, wilson

NUM_EXACT = 1000  # samples of exact models
NUM_COSINES = 500  # samples that cosines are taken of


def exact_shares(recipe: Recipe, split: Split, path: str, file: Path) -> dict[str, float]:
    """The minority's share of each method with exact models, kept in `file`."""

    def make() -> dict[str, float]:
        noise = noises(0, NUM_EXACT, (recipe.channels, recipe.size, recipe.size))
        return expectation.expected_shares(split.seen, recipe.augmentation, path, METHODS, noise)

    return kept(file, repr((recipe, path, NUM_EXACT, [method.settings() for method in METHODS.values()])), make)


def kept(file: Path, settings: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, plain data; it is not called again while `file` has it by the same settings."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["settings"] == settings:
            return record["made"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not made yet, or damaged
    made = make()
    file.write_text(json.dumps({"settings": settings, "made": made}), encoding="utf-8")
    return made


def cosine_curves(
    world: World, recipe: Recipe, split: Split, file: Path, *, weights: str, exact: bool
) -> dict[str, Cosines]:
    """Figure 26's curves, kept in `file`: on strong trajectories, at unseen pictures with noise, and of exact models.

    Args:
        weights: a fingerprint of the networks.
        exact: whether there are exact models to compare with.
    """

    def make() -> dict[str, Any]:
        return {name: asdict(curve) for name, curve in measured_curves(world, recipe, split, exact=exact).items()}

    made = kept(file, repr((recipe, world.path, NUM_COSINES, STEPS, weights, exact)), make)
    return {name: Cosines(**{**one, "means": [Interval(*mean) for mean in one["means"]]}) for name, one in made.items()}


def measured_curves(world: World, recipe: Recipe, split: Split, *, exact: bool) -> dict[str, Cosines]:
    """The curves of `cosine_curves`."""
    path, levels = sampling_path(world.path), sampling_levels(world.path, STEPS)
    noise = noises(0, NUM_COSINES, world.shape)
    pictures = repeated(split.unseen, NUM_COSINES)
    fresh = noises(NUM_COSINES, NUM_COSINES, world.shape)
    curves = {
        "on strong trajectories": on_trajectories(noise.to(world.device), levels, world.sides, path),
        "at held-out pictures with noise": on_pictures(
            pictures.to(world.device), fresh.to(world.device), levels, world.sides, path
        ),
    }
    if exact:
        sides = expectation.exact_sides(split.seen, recipe.augmentation, path)
        curves["exact Gaussian classes, trajectories"] = on_trajectories(noise.double(), levels, sides, path)
    return curves


def repeated(unseen: Pictures, count: int) -> Tensor:
    """`count` unseen pictures, as many of each class, again and again."""
    both = unseen.halves().both
    return both.repeat(math.ceil(count / len(both)), 1, 1, 1)[:count]


def judge_facts(judge: Judge, split: Split) -> dict[str, Interval]:
    """The share of unseen pictures of each kind that the judge names rightly."""
    right = verdicts(judge, split.unseen)
    total = [sum(numbers) for numbers in zip(*right.values(), strict=True)]
    return {kind: wilson(*counts) for kind, counts in [*right.items(), ("all", tuple(total))]}


def agreement(score: Score, split: Split) -> Interval | None:
    """How often the class the judge sees is that of the nearest seen picture, where it sees one of the two classes.

    None where it sees neither in any sample.
    """
    pictures = score.pictures.float() / 127.5 - 1
    known = ~score.of_class(NEITHER)
    if not known.any():
        return None
    distances = torch.cdist(pictures[known].flatten(1), split.seen.both.flatten(1))
    nearest_is_rare = distances.argmin(dim=1) >= len(split.seen.majority)
    seen_as = score.reading.classes[known]
    assert bool(((seen_as == MAJORITY) | (seen_as == MINORITY)).all())
    return wilson(int((nearest_is_rare == (seen_as == MINORITY)).sum()), int(known.sum()))


def theory(shares: Mapping[str, Interval]) -> dict[str, Any]:
    """What the odds of the training sets, and those measured, predict for the share under W2SD of strength 1.

    `strength_for_balance` is that at which the densities' odds become 1:1.
    """

    def of(strong: float, weak: float) -> dict[str, float | None]:
        odds = [math.log(share / (1 - share)) for share in (strong, weak)]
        gap = odds[0] - odds[1]
        return {
            "strong_log_odds": odds[0],
            "weak_log_odds": odds[1],
            "gap": gap,
            "static_share": expectation.static_share(strong, weak),
            "strength_for_balance": -odds[0] / gap if gap else None,
        }

    found = {"of_training_sets": of(1 / (1 + STRIDES["strong"]), 1 / (1 + STRIDES["weak"]))}
    if all(side in shares and 0 < shares[side].value < 1 for side in ("strong", "weak")):
        found["of_measured_shares"] = of(shares["strong"].value, shares["weak"].value)
    return found


def plain_curves(curves: Mapping[str, Cosines]) -> dict[str, Any]:
    """The curves as plain data."""
    return {name: asdict(curve) for name, curve in curves.items()}
