"""All that is measured on the dataset gap: the table, exact models' shares, cosines, distances to training pictures."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.dataset_gap import WEIGHTS, expectation, figures
from experiments.dataset_gap.cifar import load_source
from experiments.dataset_gap.cosines import Cosines, on_pictures, on_trajectories
from experiments.dataset_gap.judge import JUDGE, MAJORITY, MINORITY, NEITHER, Judge, verdicts
from experiments.dataset_gap.networks import sampling_levels, sampling_path
from experiments.dataset_gap.pictures import Pictures, Split
from experiments.dataset_gap.recipe import PATHS, SIDES, STRIDES, Recipe
from experiments.dataset_gap.scoring import METHODS, STEPS, Method, Row, Score, World, load_world, noises
from experiments.dataset_gap.scoring import score as scored
from experiments.engine import (
    Progress,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    make_folders,
    markdown,
    set_threads,
)
from experiments.measures import frechet_distance, measure_interval
from vbench_eval.statistics import Interval, changes, mcnemar, paired_share_interval, wilson
from w2sd_video.errors import UserError
from w2sd_video.report.figures import save

DRAWS = 500  # of the bootstrap of a distance
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
    return {
        name: Cosines(**{**one, "means": [Interval(**mean) for mean in one["means"]]}) for name, one in made.items()
    }


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
    seen_as = score.classes[known]
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


# --- distances to training pictures ----------------------------------------------------------------------------------


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


def neighbours_table(rows: list[Nearness]) -> str:
    head = ["side", "class", "trained on", "samples", "nearest training picture: samples (median)", "held-out pictures"]
    cells = [[r.side, r.kind, r.num_trained, r.num_samples, f"{r.of_samples:.2f}", f"{r.of_unseen:.2f}"] for r in rows]
    return markdown(head, cells)


# --- the table -------------------------------------------------------------------------------------------------------

AGAINST = ("strong", "zero-gap")


def rows(scores: Mapping[str, Score], reference: Tensor) -> dict[str, Row]:
    """The numbers of each method; `reference` are the judge's features [M, 16] of held-out pictures."""
    found = {}
    for name, score in scores.items():
        majority, minority, neither = score.counts
        count = majority + minority + neither
        gains: dict[str, tuple[Interval, float]] = {}
        for against in AGAINST:
            if against != name and against in scores:
                other = scores[against].minority[:count]
                own = score.minority[: len(other)]
                gains[against] = paired_share_interval(own, other), mcnemar(*changes(own, other))
        distance, nearer = frechet_distance(score.features, reference), None
        if name != "strong" and "strong" in scores:
            strong = frechet_distance(scores["strong"].features, reference)
            nearer = measure_interval(distance, count, strong, draws=DRAWS)
        found[name] = Row(
            wilson(minority, count),
            wilson(minority, majority + minority) if majority + minority else None,
            wilson(neither, count),
            measure_interval(distance, count, draws=DRAWS),
            gains,
            nearer,
        )
    return found


def table(scores: Mapping[str, Score], found: Mapping[str, Row], expected: Mapping[str, float]) -> str:
    """A row per finished method; `expected` is the minority's share with exact models."""
    head = ["method", "evaluations", "n", "minority share", "minus strong", "minus zero-gap", "neither"]
    head += ["minority of both classes", "exact models", "Frechet distance", "minus strong"]
    cells = []
    for name, score in scores.items():
        row = found[name]
        gains = [row.gains[other][0].text(signed=True) if other in row.gains else "-" for other in AGAINST]
        cells.append(
            [
                METHODS[name].label,
                score.num_evaluations,
                len(score.pictures),
                row.minority.text(),
                *gains,
                row.neither.text(),
                "-" if row.balance is None else row.balance.text(),
                f"{expected[name]:.3f}" if name in expected else "-",
                row.frechet.text(2),
                "-" if row.nearer is None else row.nearer.text(2, signed=True),
            ]
        )
    return markdown(head, cells)


def plain(scores: Mapping[str, Score], found: Mapping[str, Row], expected: Mapping[str, float]) -> dict[str, Any]:
    """The table as plain data."""
    return {
        name: {
            "label": METHODS[name].label,
            "count": len(score.pictures),
            "num_evaluations": score.num_evaluations,
            "majority_minority_neither": list(score.counts),
            "minority_share": astuple(found[name].minority),
            "minority_share_of_both_classes": _numbers(found[name].balance),
            "neither_share": astuple(found[name].neither),
            "exact_models_share": expected.get(name),
            "frechet": astuple(found[name].frechet),
            "frechet_minus_strong": _numbers(found[name].nearer),
            "minus": {
                against: {"difference": astuple(difference), "mcnemar_p": p}
                for against, (difference, p) in found[name].gains.items()
            },
            "mean_move": score.gap,
            "seconds_per_sample": score.seconds,
        }
        for name, score in scores.items()
    }


def _numbers(interval: Interval | None) -> tuple[float, ...] | None:
    return None if interval is None else astuple(interval)


# --- scripts/score_dataset_gap.py -----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options, count=2, batch=1)  # one sample has no covariance
    for word, allowed in (("path", PATHS), ("projection", figures.PROJECTIONS)):
        if getattr(options, word) not in allowed:
            raise UserError(f"--{word} is {getattr(options, word)!r}; choose one of {', '.join(allowed)}")
    names = chosen(options.methods, METHODS)
    set_threads(options.threads)
    weights = options.weights or WEIGHTS
    recipe, split = load_source(options.cifar_dir)
    world = load_world(weights, options.path, options.device)
    if world.shape != tuple(split.unseen.both.shape[1:]):
        raise UserError(
            f"{weights} is for pictures {world.shape}, not for {recipe.name}; see --weights and --cifar-dir"
        )
    output = options.output or Path(f"outputs/dataset-gap-{options.path}")
    make_folders(output)
    prints = fingerprint(*(weights / options.path / side for side in SIDES), weights / JUDGE)

    def make(name: str, method: Method, progress: Progress) -> Score:
        return scored(world, method, options.count, options.batch, progress)

    kept_scores = Scores(output, Score, lambda method: (options.path, options.count, prints, method.settings()))
    kept_scores.fill({name: METHODS[name] for name in names}, make, count=options.count, quiet=options.quiet)
    scores = kept_scores.finished(METHODS)
    exact = recipe.name == "digits"  # a Gaussian is a fair picture of these only
    expected = exact_shares(recipe, split, options.path, output / "exact.json") if exact else {}
    reference = world.judge.read(split.unseen.halves().both.to(world.device)).features
    found = rows(scores, reference)
    curves = cosine_curves(world, recipe, split, output / "cosines.json", weights=prints, exact=exact)
    near = [row for side in SIDES if side in scores for row in nearness(side, scores[side], split)]
    facts = judge_facts(world.judge, split)
    read = {name: agreement(scores[name], split) for name in ("ideal", "w2sd") if name in scores}
    predicted = theory({name: row.minority for name, row in found.items()})
    print(table(scores, found, expected))
    print(f"\n{neighbours_table(near)}\n\nthe judge on held-out pictures:")
    print("\n".join(f"  {kind}: {share.text()}" for kind, share in facts.items()))
    for name, share in read.items():
        if share is not None:
            print(f"the judge agrees with the nearest training picture on {share.text()} of {name} samples")
    print(f"theory: {json.dumps(predicted)}")
    sizes = {side: split.seen.of_side(side) for side in ("weak", "strong", "ideal")}
    results = {
        "path": options.path,
        "majority": recipe.majority,
        "minority": recipe.minority,
        "trained_on": {side: [len(some.majority), len(some.minority)] for side, some in sizes.items()},
        "held_out": [len(split.unseen.majority), len(split.unseen.minority)],
        "methods": plain(scores, found, expected),
        "judge_on_held_out": {kind: astuple(share) for kind, share in facts.items()},
        "judge_agrees_with_nearest": {name: _numbers(share) for name, share in read.items()},
        "nearest": [asdict(row) for row in near],
        "theory": predicted,
        "cosines": {
            name: {**asdict(curve), "means": [astuple(mean) for mean in curve.means]} for name, curve in curves.items()
        },
    }
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = {
        "samples": figures.samples_figure(scores, found, recipe),
        "features": figures.features_figure(scores, recipe, options.projection),
        "strength": figures.strength_figure(found, expected, options.path),
        "cosine": figures.cosine_figure(curves, options.path),
        "overview": figures.overview(scores, found, recipe, expected, curves, options.path),
    }
    for label, figure in drawn.items():
        if figure is not None:
            save(figure, output / f"{label}.png")
            print(f"wrote {output / f'{label}.png'}")
    return 0
