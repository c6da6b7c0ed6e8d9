"""What the scores of gaps say: a table of every method, and each gap's move beside its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from experiments.demo.gap_methods import CURVES, GAPS
from experiments.demo.report import paired_interval
from experiments.demo.scoring import Score
from w2sd_video.report.figures import Point, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = Mapping[tuple[str, str], Score]  # by the gap's name and the method's label
REFLECTED = ("W2SD, paper mode", "W2SD, fused", "swapped roles")


def table(scores: Scores) -> str:
    """A Markdown table with a row per finished method, gap after gap; differences are to the gap's strong side."""
    lines = [
        "| gap | method | evaluations | rows | colour | shape | both | both, minus strong | s / picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, gap in GAPS.items():
        for label in gap.methods():
            score = scores.get((name, label))
            if score is None:
                continue
            strong = scores.get((name, "strong"))
            against = "-" if label == "strong" or strong is None else str(paired_interval(score.all, strong.all))
            parts = " | ".join(f"{value:.3f}" for value in score.correct.double().mean(dim=0).tolist())
            both = f"{score.all.double().mean().item():.3f}"
            cost = f"{score.num_evaluations} | {score.num_rows}"
            lines.append(f"| {gap.label} | {label} | {cost} | {parts} | {both} | {against} | {score.seconds:.2f} |")
    return "\n".join(lines)


def differences(scores: Scores) -> str:
    """A Markdown table: what each gap's reflections gain over each of its controls, paired."""
    lines = [
        "| gap | reflections | minus strong | minus zero-gap | minus equal evaluations | minus matched, all steps "
        "| minus matched, first steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gap in GAPS.items():
        labels = list(gap.methods())
        for reflected in REFLECTED:
            if (name, reflected) not in scores:
                continue
            # The fused mode's reflection without a gap moves nothing: its zero-gap is the strong side.
            zero_gap = "strong" if reflected == "W2SD, fused" else "zero-gap, paper mode"
            equal = next(label for label in labels if label.startswith("strong, equal"))
            matched = [label for label in labels if label.startswith("matched")] or ["", ""]
            cells = []
            for label in ("strong", zero_gap, equal, *matched):
                control = scores.get((name, label))
                cells.append("-" if control is None else str(paired_interval(scores[name, reflected].all, control.all)))
            lines.append(f"| {gap.label} | {reflected.removeprefix('W2SD, ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve_table(name: str, scores: Mapping[str, Score]) -> str:
    """A Markdown table of a curve, from scores by the method's key: share right in both, with 95 percent intervals."""
    axis, values, lines = CURVES[name]
    rows = [f"| {axis} | {' | '.join(lines)} |", "|" + "---|" * (len(lines) + 1)]
    for place, value in enumerate(values):
        found = [scores.get(line[place].key) for line in lines.values()]
        cells = ["-" if score is None else "{:.3f} [{:.3f}, {:.3f}]".format(*_share(score)) for score in found]
        rows.append(f"| {value:g} | {' | '.join(cells)} |")
    return "\n".join(rows)


def curve_picture(name: str, scores: Mapping[str, Score]) -> Figure | None:
    """The curve with 95 percent intervals; None unless every point of it is there."""
    axis, values, lines = CURVES[name]
    if any(method.key not in scores for line in lines.values() for method in line):
        return None
    points = {label: [Point(*_share(scores[method.key])) for method in line] for label, line in lines.items()}
    return curve("share right in colour and shape", axis, list(values), points)


def _share(score: Score) -> tuple[float, float, float]:
    interval = paired_interval(score.all, torch.zeros_like(score.all))
    return interval.mean, interval.low, interval.high
