"""What the scores of all ways say: tables beside their controls, and the curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from experiments.demo.method_ways import CURVES, Way
from experiments.demo.report import paired_interval
from experiments.demo.scoring import Score
from w2sd_video.report.figures import Point, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = Mapping[str, Score]  # by the way's key


def zero_gap_of(way: Way) -> Way | None:
    """The same reflections with the strong side on both sides; None where a way reflects otherwise."""
    reflects = way.algorithm in ("w2sd", "w2sd-auto") and way.partner == "weak" and way.sampled == "strong"
    if not reflects:
        return None
    return dataclasses.replace(way, partner="zero-gap", algorithm="w2sd", reward=None)


def equal_of(way: Way, scores: Scores) -> Score | None:
    """Plain sampling by the strong side with the most steps that cost no more than the way does, if it has more."""
    own = scores[way.key].num_evaluations
    strong = {steps: scores[key] for steps in range(21, own + 1) if (key := Way(steps=steps).key) in scores}
    return strong[max(strong)] if strong and (way.partner or way.algorithm != "w2sd") else None


def table(ways: Mapping[str, Way], scores: Scores) -> str:
    """A Markdown table, a row per finished way, all differences paired and in all three attributes."""
    lines = [
        "| way | evaluations | colour | shape | motion | all three | minus strong | minus strong at equal evaluations "
        "| minus its zero-gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    strong = scores.get(Way().key)
    for label, way in ways.items():
        score = scores.get(way.key)
        if score is None:
            continue
        parts = [f"{value:.3f}" for value in score.correct.double().mean(dim=0).tolist()]
        control = zero_gap_of(way)
        against = [
            None if way == Way() else strong,
            equal_of(way, scores),
            None if control is None or control == way else scores.get(control.key),
        ]
        differences = ["-" if other is None else str(paired_interval(score.all, other.all)) for other in against]
        everything = f"{score.all.double().mean().item():.3f}"
        lines.append("| " + " | ".join([label, str(score.num_evaluations), *parts, everything, *differences]) + " |")
    return "\n".join(lines)


def curve_table(name: str, scores: Scores) -> str:
    """A Markdown table of a curve: a row per value, a column per line, share right in all three with its interval."""
    axis, values, lines = CURVES[name]
    rows = [f"| {axis} | " + " | ".join(lines) + " |", "|" + "---|" * (len(lines) + 1)]
    for place, value in enumerate(values):
        cells = []
        for line in lines.values():
            score = scores.get(line[place].key)
            cells.append("-" if score is None else _share(score))
        rows.append(f"| {value:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def curve_picture(name: str, scores: Scores) -> Figure | None:
    """The curve with 95 percent intervals; None unless every point of it is there."""
    axis, values, lines = CURVES[name]
    if any(way.key not in scores for line in lines.values() for way in line):
        return None
    points = {label: [_point(scores[way.key]) for way in line] for label, line in lines.items()}
    return curve("share right in colour, shape and motion", axis, list(values), points)


def _point(score: Score) -> Point:
    interval = paired_interval(score.all, torch.zeros_like(score.all))
    return Point(interval.mean, interval.low, interval.high)


def _share(score: Score) -> str:
    point = _point(score)
    return f"{point.value:.3f} [{point.ends[0]:.3f}, {point.ends[1]:.3f}]"
