"""What the scores say: the table with intervals, the paired differences, and the same as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from experiments.dataset_gap.methods import METHODS
from experiments.dataset_gap.scoring import Score
from experiments.dataset_gap.statistics import Interval, frechet_interval, mcnemar, paired_difference, wilson

AGAINST = ("strong", "zero-gap")


@dataclass(frozen=True)
class Row:
    """One method's numbers.

    Attributes:
        minority: its share of all samples.
        balance: its share of the samples that show either class; None where none does.
        neither: the share of samples that show neither.
        frechet: to held-out pictures, as many of each class, in the judge's features.
        gains: by what it is compared with, the paired difference of the minority's share and McNemar's p; without
            itself and what is not scored.
        nearer: the paired difference of the Frechet distance to the strong model's; None for itself.
    """

    minority: Interval
    balance: Interval | None
    neither: Interval
    frechet: Interval
    gains: dict[str, tuple[Interval, float]]
    nearer: Interval | None


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
                gains[against] = paired_difference(own, other), mcnemar(own, other)
        features, nearer = score.reading.features, None
        if name != "strong" and "strong" in scores:
            strong = scores["strong"].reading.features[: len(features)]
            nearer = frechet_interval(features[: len(strong)], reference, strong)
        found[name] = Row(
            wilson(minority, count),
            wilson(minority, majority + minority) if majority + minority else None,
            wilson(neither, count),
            frechet_interval(features, reference),
            gains,
            nearer,
        )
    return found


def table(scores: Mapping[str, Score], found: Mapping[str, Row], expected: Mapping[str, float]) -> str:
    """A Markdown table, one row per finished method; `expected` is the minority's share with exact models."""
    lines = [
        "| method | evaluations | n | minority share | minus strong | minus zero-gap | neither "
        "| minority of both classes | exact models | Frechet distance | minus strong |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        row = found[name]
        cells = [
            METHODS[name].label,
            str(score.num_evaluations),
            str(len(score.pictures)),
            row.minority.text(),
            *(row.gains[against][0].text(signed=True) if against in row.gains else "-" for against in AGAINST),
            row.neither.text(),
            "-" if row.balance is None else row.balance.text(),
            f"{expected[name]:.3f}" if name in expected else "-",
            row.frechet.text(2),
            "-" if row.nearer is None else row.nearer.text(2, signed=True),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain(scores: Mapping[str, Score], found: Mapping[str, Row], expected: Mapping[str, float]) -> dict[str, Any]:
    """The table as plain data."""
    return {
        name: {
            "label": METHODS[name].label,
            "count": len(score.pictures),
            "num_evaluations": score.num_evaluations,
            "majority_minority_neither": list(score.counts),
            "minority_share": list(found[name].minority),
            "minority_share_of_both_classes": found[name].balance and list(found[name].balance or ()),
            "neither_share": list(found[name].neither),
            "exact_models_share": expected.get(name),
            "frechet": list(found[name].frechet),
            "frechet_minus_strong": found[name].nearer and list(found[name].nearer or ()),
            "minus": {
                against: {"difference": list(difference), "mcnemar_p": p}
                for against, (difference, p) in found[name].gains.items()
            },
            "mean_move": score.gap,
            "seconds_per_sample": score.seconds,
        }
        for name, score in scores.items()
    }
