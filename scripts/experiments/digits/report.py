"""What the scores of the bundled DiT-MoE say: the table with intervals, the sweep over lambda, and its plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bridges.dit_moe.demo.digits import NUM_CLASSES
from experiments.digits.measures import (
    DRAWS,
    Interval,
    Moments,
    Sample,
    accuracy,
    frechet_distance,
    inception_score,
    interval,
    resamples,
)
from experiments.digits.scoring import GUIDANCE, LAMBDAS, METHODS, PAIRS, WEAK, Score, sweep_name

CURVES = (("W2SD", WEAK, "#1f5fa8"), ("zero-gap", "zero-gap", "#8a8a8a"))  # of the sweep: what is the weak side


@dataclass(frozen=True)
class Row:
    """One method's numbers; `..._gain` is the paired difference to the strong model (None for itself)."""

    accuracy: Interval
    inception: Interval
    frechet: Interval
    accuracy_gain: Interval | None
    frechet_gain: Interval | None


def rows(scores: Mapping[str, Score], reference: Moments, draws: int = DRAWS) -> dict[str, Row]:
    """The numbers of each method, the Frechet distance to `reference`; same resamples of the pictures for all."""
    count = len(next(iter(scores.values())).sample.correct)
    weights, distance = resamples(count, draws), frechet_distance(reference)
    strong = scores["strong"].sample if "strong" in scores else None
    found = {}
    for name, score in scores.items():
        against = None if name == "strong" else strong
        found[name] = Row(
            interval(accuracy, score.sample, weights),
            interval(inception_score, score.sample, weights),
            interval(distance, score.sample, weights),
            None if against is None else interval(accuracy, score.sample, weights, against),
            None if against is None else interval(distance, score.sample, weights, against),
        )
    return found


def table(scores: Mapping[str, Score], found: Mapping[str, Row]) -> str:
    """A Markdown table, one row per finished method, in the order of METHODS."""
    lines = [
        "| method | evaluations | rows | class accuracy | minus strong | Inception-style score | Frechet distance "
        "| minus strong | ms / picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        row = found[name]
        cells = [
            METHODS[name].label,
            str(score.num_evaluations),
            str(score.num_rows),
            row.accuracy.text(3),
            "-" if row.accuracy_gain is None else row.accuracy_gain.text(3, signed=True),
            row.inception.text(2),
            row.frechet.text(2),
            "-" if row.frechet_gain is None else row.frechet_gain.text(2, signed=True),
            f"{1000 * score.seconds:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def real_row(label: str, sample: Sample, reference: Moments, draws: int = DRAWS) -> str:
    """A row of the table for pictures that are no method's: what the judge says of real digits."""
    weights = resamples(len(sample.correct), draws)
    numbers = [interval(measure, sample, weights) for measure in (accuracy, inception_score)]
    distance = interval(frechet_distance(reference), sample, weights)
    cells = [label, "-", "-", numbers[0].text(3), "-", numbers[1].text(2), distance.text(2), "-", "-"]
    return "| " + " | ".join(cells) + " |"


def sheet(pictures: Tensor, most: int = 8) -> Image.Image:
    """The first pictures [N, 3, 32, 32] uint8, a column for each class, twice as large."""
    count = max(1, min(most, len(pictures) // NUM_CLASSES))
    grid = pictures[: count * NUM_CLASSES]
    grid = grid.unflatten(0, (count, -1)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    picture = Image.fromarray(grid.contiguous().numpy())
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)


def pairs(scores: Mapping[str, Score], reference: Moments, draws: int = DRAWS) -> str:
    """A Markdown table of the paired differences that PAIRS asks for, as far as both methods are finished."""
    distance = frechet_distance(reference)
    lines = ["| | class accuracy | Frechet distance |", "|---|---|---|"]
    for name, against in PAIRS:
        if name in scores and against in scores:
            one, other = scores[name].sample, scores[against].sample
            weights = resamples(len(one.correct), draws)
            numbers = [
                interval(measure, one, weights, other).text(digits, signed=True)
                for measure, digits in ((accuracy, 3), (distance, 1))
            ]
            lines.append("| " + " | ".join([f"{METHODS[name].label} minus {METHODS[against].label}", *numbers]) + " |")
    return "\n".join(lines)


def sweep_plot(found: Mapping[str, Row]) -> Image.Image | None:
    """Class accuracy and Frechet distance over lambda, with 95 percent bars; None before the sweep is finished.

    A row of panels with the paper's guidance, one without guidance; in each W2SD and its control.
    """
    xs = [0, *LAMBDAS]
    names = {(g, label): [sweep_name(weak, x, g) for x in xs] for g in (GUIDANCE, 1.0) for label, weak, _ in CURVES}
    if any(name not in found for line in names.values() for name in line):
        return None
    width, height = 480, 320
    picture = Image.new("RGB", (width * 2, height * 2), "white")
    measures: tuple[tuple[str, Callable[[Row], Interval]], ...] = (
        ("class accuracy", lambda row: row.accuracy),
        ("Frechet distance to unseen digits", lambda row: row.frechet),
    )
    for down, guidance in enumerate((GUIDANCE, 1.0)):
        for right, (title, number) in enumerate(measures):
            lines = {label: [number(found[name]) for name in names[guidance, label]] for label, _, _ in CURVES}
            panel = draw_panel(f"{title}, guidance {guidance:g}", xs, lines, width, height)
            picture.paste(panel, (right * width, down * height))
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within low .. high."""
    step = 10.0 ** torch.tensor(high - low).log10().floor().item()
    for part in (0.1, 0.2, 0.5, 1.0, 2.0):
        size = step * part
        first, last = -int(-low // size), int(high // size)
        if last - first <= 5:
            break
    return [size * n for n in range(first, last + 1)]


def draw_panel(
    title: str, xs: Sequence[int], lines: Mapping[str, Sequence[Interval]], width: int, height: int
) -> Image.Image:
    """The curves named as in CURVES, with their intervals, over lambda."""
    left, right, top, bottom = 64, width - 20, 40, height - 50
    points = [point for line in lines.values() for point in line]
    low, high = min(min(point) for point in points), max(max(point) for point in points)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / max(xs), bottom - (bottom - top) * (y - low) / (high - low)

    panel = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(panel)
    draw.text(((left + right) / 2, 18), title, fill="black", anchor="mm", font_size=15)
    draw.text((right, height - 14), "lambda (reflections)", fill="black", anchor="rm", font_size=13)
    for y in ticks(low, high):
        draw.line([place(0, y), place(max(xs), y)], fill="#dddddd")
        draw.text((left - 8, place(0, y)[1]), f"{y:.4g}", fill="black", anchor="rm", font_size=12)
    for x in xs:
        draw.text((place(x, low)[0], bottom + 14), str(x), fill="black", anchor="mm", font_size=12)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black")
    for (label, _, colour), row in reversed(list(zip(CURVES, range(len(CURVES)), strict=True))):
        draw_curve(
            draw,
            [(place(x, p.value), place(x, p.low), place(x, p.high)) for x, p in zip(xs, lines[label], strict=True)],
            colour,
        )
        key = (left + 130 * row, height - 14)
        draw.line([key, (key[0] + 20, key[1])], fill=colour, width=2)
        draw.text((key[0] + 26, key[1]), label, fill="black", anchor="lm", font_size=12)
    return panel


def draw_curve(draw: ImageDraw.ImageDraw, places: Sequence[tuple[tuple[float, float], ...]], colour: str) -> None:
    """A line through points, each given with the two ends of its bar, in pixels."""
    draw.line([value for value, _, _ in places], fill=colour, width=2)
    for value, *ends in places:
        draw.line(ends, fill=colour, width=2)
        for x, y in ends:
            draw.line([(x - 4, y), (x + 4, y)], fill=colour, width=2)
        draw.circle(value, 4, fill=colour)
